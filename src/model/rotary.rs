//! Rotary frequencies and their scalings, for both dialects of `config.json`.
//!
//! ```text
//! f_i = 1/θ^(2i/R),  i < R/2      angle = position · f_i
//! linear   f_i / s
//! llama3   λ = 2π/f_i;  λ < C/high: f_i    λ > C/low: f_i/s
//!          between: (1 − t) f_i/s + t f_i,  t = (C/λ − low)/(high − low)
//! ```
//!
//! All in f32, as the framework has it, also where the rest is f64: the tables are part of the
//! model. Source: Su et al. 2021, arXiv:2104.09864; Chen et al. 2023, arXiv:2306.15595 (linear);
//! the model card of Llama 3.1 (llama3).

use std::f32::consts::TAU;

use super::config::Config;
use crate::base::{Error, Result};
use crate::ops::rope::{Angles, Pairing};
use crate::tensor::{Precision, Tensor};

/// How a family turns its queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Which elements of a head turn together.
    pub pairing: Pairing,
    /// f_i, radians a token, R/2 of them.
    pub frequency: Vec<f32>,
}

impl Rotary {
    /// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before it).
    pub fn read(config: &Config, turning: usize, context: usize) -> Result<Rotary> {
        let new = config.inside("rope_parameters")?;
        let old = config.inside("rope_scaling")?;
        let theta = match &new {
            Some(p) => p.positive_or("rope_theta", config.positive_or("rope_theta", 1e4)?)?,
            None => config.positive_or("rope_theta", 1e4)?,
        };
        let plain = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / turning as f32);
        let frequency: Vec<f32> = (0..turning / 2).map(plain).collect();
        let frequency = match new.or(old) {
            Some(scaling) => scaled(&scaling, frequency, context)?,
            None => frequency,
        };
        Ok(Rotary { pairing: Pairing::Halves, frequency })
    }

    /// cos and sin for each position of a batch.
    pub fn angles(&self, precision: Precision, positions: &[usize]) -> Angles {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|&p| self.frequency.iter().map(move |f| p as f32 * f))
            .collect();
        let table = |turn: fn(f32) -> f32| {
            let values: Vec<f64> = angles.iter().map(|&a| turn(a).into()).collect();
            Tensor::of(precision, &[positions.len(), self.frequency.len()], &values)
        };
        Angles { cos: table(f32::cos), sin: table(f32::sin), pairing: self.pairing }
    }
}

fn scaled(c: &Config, frequency: Vec<f32>, context: usize) -> Result<Vec<f32>> {
    // `type` is what files before transformers 4.45 call `rope_type`.
    let kind = c.text_or("rope_type", c.text_or("type", "default")?)?;
    let needed = |field: &str| match c.get(field) {
        Some(_) => c.positive_or(field, 1.0).map(|n| n as f32),
        None => Err(c.error(field, format!("is missing beside rope_type `{kind}`"))),
    };
    match kind {
        "default" => Ok(frequency),
        "linear" => {
            let s = needed("factor")?;
            Ok(frequency.into_iter().map(|f| f / s).collect())
        }
        "llama3" => {
            let (s, low, high) =
                (needed("factor")?, needed("low_freq_factor")?, needed("high_freq_factor")?);
            let first = c.size_or("original_max_position_embeddings", Some(context))? as f32;
            let by_wavelength = |f: f32| match TAU / f {
                wave if wave < first / high => f,
                wave if wave > first / low => f / s,
                wave => {
                    let t = (first / wave - low) / (high - low);
                    (1.0 - t) * f / s + t * f
                }
            };
            Ok(frequency.into_iter().map(by_wavelength).collect())
        }
        _ => Err(Error::input(
            &c.path,
            "rope_type",
            format!("`{kind}` is not implemented"),
            "use a model with rope_type default, linear or llama3",
        )),
    }
}
