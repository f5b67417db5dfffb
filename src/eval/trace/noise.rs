//! The noise that corrupts a subject: ε ~ N(0, ν²) on the embeddings of its tokens.
//!
//! ```text
//! ν      a factor, 3 as published, times the standard deviation of embedding entries over the
//!        tokens of known subjects, each alone; or a value
//! ε      (n, tokens of the subject, D), the same draw for every fact: ν · RandomState(1).randn, as
//!        in the public code
//! ```

use std::fmt;
use std::str::FromStr;

use crate::base::{RandomState, Result};
use crate::model::Model;
use crate::ops::embed;
use crate::tensor::Tensor;

/// How strong noise is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoiseLevel {
    /// So many standard deviations of the embeddings of known subjects: `s3`.
    Deviations(f64),
    /// ν itself.
    Value(f64),
}

impl FromStr for NoiseLevel {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<NoiseLevel, String> {
        let (number, level): (_, fn(f64) -> NoiseLevel) = match text.strip_prefix('s') {
            Some(number) => (number, NoiseLevel::Deviations),
            None => (text, NoiseLevel::Value),
        };
        let number = number.parse::<f64>().ok().filter(|x| *x >= 0.0 && x.is_finite());
        number.map(level).ok_or_else(|| format!("`{text}` is no noise: say s3 or 0.1"))
    }
}

impl fmt::Display for NoiseLevel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NoiseLevel::Deviations(factor) => write!(f, "s{factor}"),
            NoiseLevel::Value(value) => write!(f, "{value}"),
        }
    }
}

/// The standard deviation of the token embeddings of some texts, all entries of all their tokens
/// alike.
///
/// # Errors
///
/// A device that is out of memory.
pub fn embedding_deviation(model: &Model, texts: &[Vec<u32>]) -> Result<f64> {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for ids in texts {
        let entries = model.compute.run(|| {
            let mut x = Tensor::zeros(&model.compute, &[ids.len(), model.arch.width]);
            embed::forward(ids, &model.embed, None, &mut x);
            Ok(x.to_f64())
        })?;
        n += entries.len() as f64;
        sum += entries.iter().sum::<f64>();
        squares += entries.iter().map(|x| x * x).sum::<f64>();
    }
    let mean = sum / n;
    Ok(((squares - n * mean * mean).max(0.0) / (n - 1.0)).sqrt())
}

/// ε (n, tokens, D) of a seed, row by row.
pub fn draw(seed: u32, nu: f64, shape: [usize; 3]) -> Vec<f64> {
    let mut state = RandomState::new(seed);
    (0..shape.iter().product()).map(|_| nu * state.normal()).collect()
}
