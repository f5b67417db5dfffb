//! Rotary frequencies and their scalings, for both dialects of `config.json`.
//!
//! ```text
//! f_i = 1/θ^(2i/R),  i < R/2      angle = position · f_i
//! linear   f_i / s
//! llama3   λ = 2π/f_i;  λ < C/high: f_i    λ > C/low: f_i/s
//!          between: (1 − t) f_i/s + t f_i,  t = (C/λ − low)/(high − low)
//! yarn     (1 − t) f_i + t f_i/s,  t = (i − a)/(b − a) held in [0, 1],
//!          a = i(β fast), b = i(β slow),  i(n) = R ln(C/(2πn))/(2 ln θ): where f_i turns n times
//!          over C tokens; cos and sin times m(mscale)/m(mscale_all_dim), m(x) = 0.1 x ln s + 1,
//!          or m(1) where either is not said
//! ```
//!
//! C is the length of the texts the model was trained on before its scaling
//! (`original_max_position_embeddings`), s the `factor`. All in f32, as the framework has it, also
//! where the rest is f64: the tables are part of the model. Source: Su et al. 2021,
//! arXiv:2104.09864; Chen et al. 2023, arXiv:2306.15595 (linear); the model card of Llama 3.1
//! (llama3); Peng et al. 2023, arXiv:2309.00071 (yarn).

use std::f32::consts::TAU;

use serde_json::json;

use super::config::Config;
use super::family::Turning;
use crate::base::{Error, Result};
use crate::ops::rope::{Angles, Pairing};
use crate::tensor::{Compute, Tensor};

/// How a family turns its queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Which elements of a head turn together.
    pub pairing: Pairing,
    /// f_i, radians a token, R/2 of them.
    pub frequency: Vec<f32>,
    /// Factor of cos and sin.
    pub factor: f32,
}

impl Rotary {
    /// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before it), for
    /// heads of E elements and texts of up to `context` tokens.
    pub(super) fn read(
        config: &Config,
        turning: Turning,
        pairing: Pairing,
        head: usize,
        context: usize,
    ) -> Result<Rotary> {
        let old = config.inside("rope_scaling")?.filter(|old| *old.value != json!({}));
        let scaling = match old {
            Some(old) => Some(old),
            None => config.inside("rope_parameters")?,
        };
        let said = |field: &str, old: &str, default: f64| match &scaling {
            Some(p) => p.positive_or(field, config.positive_or(old, default)?),
            None => config.positive_or(old, default),
        };
        let (field, elements, theta) = match turning {
            Turning::Whole => ("head_dim", head, said("rope_theta", "rope_theta", 1e4)?),
            Turning::Elements(field, default) => match config.value.get(field) {
                None => (field, default, 1e4),
                Some(_) => (field, config.size(field)?, 1e4),
            },
            Turning::Share(field, default) => {
                let share = said("partial_rotary_factor", field, default)?;
                (field, (head as f64 * share) as usize, said("rope_theta", "rotary_emb_base", 1e4)?)
            }
        };
        // The table is made before the weights are asked; 2¹⁶ is far above any real head.
        if elements == 0 || elements % 2 != 0 || elements > head.min(1 << 16) {
            let what = format!("{elements} of a head's {head} elements turn, which forms no pairs");
            return Err(config.error(field, what));
        }
        let plain = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / elements as f32);
        let frequency: Vec<f32> = (0..elements / 2).map(plain).collect();
        let (frequency, factor) = match (scaling, turning) {
            (None, _) | (_, Turning::Elements(..)) => (frequency, 1.0),
            (Some(scaling), _) => {
                let field = "original_max_position_embeddings";
                let trained = scaling.size_or(field, Some(context))?;
                // The framework lets the outer field win.
                let trained = config.size_or(field, Some(trained))?;
                scaled(&scaling, frequency, theta, [trained, context])?
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
        let table = |turn: fn(f32) -> f32| {
            let values: Vec<f64> = angles.iter().map(|&a| (turn(a) * self.factor).into()).collect();
            Tensor::of(compute, &[positions.len(), self.frequency.len()], &values)
        };
        Angles { cos: table(f32::cos), sin: table(f32::sin), pairing: self.pairing }
    }
}

/// The scaled frequencies, and the factor of cos and sin; `trained` and `context` are the lengths
/// of texts before the scaling and with it.
fn scaled(
    c: &Config,
    f: Vec<f32>,
    theta: f64,
    [trained, context]: [usize; 2],
) -> Result<(Vec<f32>, f32)> {
    // `type` is what files before transformers 4.45 call `rope_type`.
    let kind = c.text_or("rope_type", c.text_or("type", "default")?)?;
    let needed = |field: &str| match c.get(field) {
        Some(_) => c.positive_or(field, 1.0).map(|n| n as f32),
        None => Err(c.error(field, format!("is missing beside rope_type `{kind}`"))),
    };
    match kind {
        // Dynamic scales only texts longer than the context, and none is let in.
        "default" | "dynamic" => Ok((f, 1.0)),
        "linear" => {
            let s = needed("factor")?;
            Ok((f.into_iter().map(|f| f / s).collect(), 1.0))
        }
        "llama3" => {
            let (s, low, high) =
                (needed("factor")?, needed("low_freq_factor")?, needed("high_freq_factor")?);
            if low > high {
                let what = format!("{low} is above the high_freq_factor, {high}");
                return Err(c.error("low_freq_factor", what));
            }
            let trained = trained as f32;
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
        "yarn" => yarn(c, &f, theta, [trained, context]),
        _ => Err(Error::input(
            &c.path,
            "rope_type",
            format!("`{kind}` is not implemented"),
            "use a model with rope_type default, linear, dynamic, llama3 or yarn",
        )),
    }
}

fn yarn(c: &Config, f: &[f32], theta: f64, lengths: [usize; 2]) -> Result<(Vec<f32>, f32)> {
    let [trained, context] = lengths.map(|n| n as f64);
    let s = c.positive_or("factor", context / trained)?;
    let strength = |m: f64| if s <= 1.0 { 1.0 } else { 0.1 * m * s.ln() + 1.0 };
    let factor = match (c.get("mscale"), c.get("mscale_all_dim")) {
        (Some(_), Some(_)) => {
            strength(c.positive_or("mscale", 1.0)?)
                / strength(c.positive_or("mscale_all_dim", 1.0)?)
        }
        _ => strength(1.0),
    };
    let factor = c.positive_or("attention_factor", factor)?;
    let r = (2 * f.len()) as f64;
    let turns = |n: f64| r * (trained / (n * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let (a, b) =
        (turns(c.positive_or("beta_fast", 32.0)?), turns(c.positive_or("beta_slow", 1.0)?));
    let (a, b) = if c.switch_or("truncate", true)? { (a.floor(), b.ceil()) } else { (a, b) };
    let (a, mut b) = (a.max(0.0) as f32, b.min(r - 1.0) as f32);
    if a == b {
        b += 0.001; // as the framework has it
    }
    let blended = |(i, &f): (usize, &f32)| {
        let t = ((i as f32 - a) / (b - a)).clamp(0.0, 1.0);
        (1.0 - t) * f + t * (f / s as f32)
    };
    Ok((f.iter().enumerate().map(blended).collect(), factor as f32))
}
