//! Rotary frequencies and their scalings, for both dialects of `config.json`.
//!
//! ```text
//! f_i = 1/θ^(2i/R),  i < R/2      angle = position · f_i
//! linear   f_i / s
//! llama3   λ = 2π/f_i;  λ < C/high: f_i    λ > C/low: f_i/s
//!          between: (1 − t) f_i/s + t f_i,  t = (C/λ − low)/(high − low)
//! yarn     (1 − t) f_i + t f_i/s,  t = clamp((i − a)/(b − a), 0, 1),
//!          a = i(β fast), b = i(β slow),  i(n) = R ln(C/(2πn))/(2 ln θ), the index whose f_i makes
//!          n full turns over C tokens; cos and sin are multiplied by m(mscale)/m(mscale_all_dim),
//!          m(x) = 0.1 x ln s + 1, or by m(1) where one of the two is missing
//! ```
//!
//! R is the number of rotated elements of a head, C the context length the model was trained with
//! before the scaling (`original_max_position_embeddings`), s the `factor`. Everything here is f32,
//! as in the framework, even where the rest is f64: the tables are part of the model. Source: Su et
//! al. 2021, arXiv:2104.09864; Chen et al. 2023, arXiv:2306.15595 (linear); the model card of
//! Llama 3.1 (llama3); Peng et al. 2023, arXiv:2309.00071 (yarn).

use std::f32::consts::TAU;

use serde_json::json;

use super::config::Config;
use crate::base::{Error, Result};
use crate::ops::rope::{Angles, Pairing};
use crate::tensor::{Compute, Tensor};

/// How many elements of a head are rotated: R.
#[derive(Clone, Copy)]
pub(super) enum RotaryDim {
    /// All: R = E.
    Full,
    /// The number in this field, or the default, at the frequencies of θ = 10,000, never scaled.
    Elements(&'static str, usize),
    /// The fraction of E in this field, or the default.
    Fraction(&'static str, f64),
}

/// Rotary position encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Which elements of a head form a pair.
    pub pairing: Pairing,
    /// f_i, radians a token, R/2 of them.
    pub frequency: Vec<f32>,
    /// Factor of cos and sin.
    pub factor: f32,
}

impl Rotary {
    /// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before it), for
    /// heads of E elements and sequences of up to `max_positions` tokens.
    pub(super) fn read(
        config: &Config,
        dim: RotaryDim,
        pairing: Pairing,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Rotary> {
        let old = config.object("rope_scaling")?.filter(|old| *old.value != json!({}));
        let scaling = match old {
            Some(old) => Some(old),
            None => config.object("rope_parameters")?,
        };
        let parameter = |field: &str, old: &str, default: f64| match &scaling {
            Some(p) => p.positive_or(field, config.positive_or(old, default)?),
            None => config.positive_or(old, default),
        };
        let (field, elements, theta) = match dim {
            RotaryDim::Full => ("head_dim", head_dim, parameter("rope_theta", "rope_theta", 1e4)?),
            RotaryDim::Elements(field, default) => match config.value.get(field) {
                None => (field, default, 1e4),
                Some(_) => (field, config.size(field)?, 1e4),
            },
            RotaryDim::Fraction(field, default) => {
                let fraction = parameter("partial_rotary_factor", field, default)?;
                let theta = parameter("rope_theta", "rotary_emb_base", 1e4)?;
                (field, (head_dim as f64 * fraction) as usize, theta)
            }
        };
        // The table is allocated before any weight is looked up; 2¹⁶ is far above any real head.
        if elements == 0 || elements % 2 != 0 || elements > head_dim.min(1 << 16) {
            let what = format!(
                "{elements} of a head's {head_dim} elements cannot be rotated, pair by pair"
            );
            return Err(config.error(field, what));
        }
        let unscaled = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / elements as f32);
        let frequency: Vec<f32> = (0..elements / 2).map(unscaled).collect();
        let (frequency, factor) = match (scaling, dim) {
            (None, _) | (_, RotaryDim::Elements(..)) => (frequency, 1.0),
            (Some(scaling), _) => {
                let field = "original_max_position_embeddings";
                let trained = scaling.size_or(field, Some(max_positions))?;
                // As in the framework, the outer field has precedence.
                let trained = config.size_or(field, Some(trained))?;
                scaled(&scaling, frequency, theta, Lengths { trained, scaled: max_positions })?
            }
        };
        Ok(Rotary { pairing, frequency, factor })
    }

    /// cos and sin for each position of a batch.
    pub fn angles(&self, compute: &Compute, positions: &[usize]) -> Angles {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|&p| self.frequency.iter().map(move |f| p as f32 * f))
            .collect();
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f64> =
                angles.iter().map(|&angle| (function(angle) * self.factor).into()).collect();
            Tensor::of(compute, &[positions.len(), self.frequency.len()], &values)
        };
        Angles { cos: table(f32::cos), sin: table(f32::sin), pairing: self.pairing }
    }
}

/// Context lengths in tokens, before a scaling and with it.
#[derive(Clone, Copy)]
struct Lengths {
    trained: usize,
    scaled: usize,
}

/// The scaled frequencies, and the factor of cos and sin.
fn scaled(c: &Config, f: Vec<f32>, theta: f64, lengths: Lengths) -> Result<(Vec<f32>, f32)> {
    // `type` is what files before transformers 4.45 call `rope_type`.
    let kind = c.string_or("rope_type", c.string_or("type", "default")?)?;
    let required = |field: &str| match c.get(field) {
        Some(_) => c.positive_or(field, 1.0).map(|n| n as f32),
        None => Err(c.error(field, format!("is missing, and rope_type `{kind}` needs it"))),
    };
    match kind {
        // Dynamic scaling affects only sequences longer than the context, which are refused.
        "default" | "dynamic" => Ok((f, 1.0)),
        "linear" => {
            let s = required("factor")?;
            Ok((f.into_iter().map(|f| f / s).collect(), 1.0))
        }
        "llama3" => {
            let s = required("factor")?;
            let low = required("low_freq_factor")?;
            let high = required("high_freq_factor")?;
            if low > high {
                let what = format!("{low} is above the high_freq_factor, {high}");
                return Err(c.error("low_freq_factor", what));
            }
            let trained = lengths.trained as f32;
            let by_wavelength = |f: f32| match TAU / f {
                wave if wave < trained / high => f,
                wave if wave >= trained / low => f / s,
                wave => {
                    let t = (trained / wave - low) / (high - low);
                    (1.0 - t) * f / s + t * f
                }
            };
            Ok((f.into_iter().map(by_wavelength).collect(), 1.0))
        }
        "yarn" => yarn(c, &f, theta, lengths),
        _ => Err(Error::input(
            &c.path,
            "rope_type",
            format!("`{kind}` is not implemented"),
            "use a model with rope_type default, linear, dynamic, llama3 or yarn",
        )),
    }
}

fn yarn(c: &Config, f: &[f32], theta: f64, lengths: Lengths) -> Result<(Vec<f32>, f32)> {
    let trained = lengths.trained as f64;
    let s = c.positive_or("factor", lengths.scaled as f64 / trained)?;
    let m = |x: f64| if s <= 1.0 { 1.0 } else { 0.1 * x * s.ln() + 1.0 };
    let factor = match (c.get("mscale"), c.get("mscale_all_dim")) {
        (Some(_), Some(_)) => {
            m(c.positive_or("mscale", 1.0)?) / m(c.positive_or("mscale_all_dim", 1.0)?)
        }
        _ => m(1.0),
    };
    let factor = c.positive_or("attention_factor", factor)?;
    let r = (2 * f.len()) as f64;
    let index = |n: f64| r * (trained / (n * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let mut a = index(c.positive_or("beta_fast", 32.0)?);
    let mut b = index(c.positive_or("beta_slow", 1.0)?);
    if c.bool_or("truncate", true)? {
        a = a.floor();
        b = b.ceil();
    }
    let a = a.max(0.0) as f32;
    let mut b = b.min(r - 1.0) as f32;
    if a == b {
        b += 0.001; // as in the framework
    }
    let blended = |(i, &f): (usize, &f32)| {
        let t = ((i as f32 - a) / (b - a)).clamp(0.0, 1.0);
        (1.0 - t) * f + t * (f / s as f32)
    };
    Ok((f.iter().enumerate().map(blended).collect(), factor as f32))
}
