//! C, factored for use: C⁻¹k by two triangular solves, never by an inverse.

use faer::Mat;

use super::file::Moment;
use crate::base::{Error, Result};
use crate::linalg::Cholesky;

/// A factored second moment.
pub struct Covariance {
    factor: Cholesky,
    /// What was added to the diagonal, where C alone could not be factored or had too few tokens.
    pub ridge: Option<f64>,
    /// Tokens behind C.
    pub tokens: u64,
}

/// The smallest ridge tried, as a part of the mean of the diagonal; ten times that after each
/// failure. f32 statistics carry errors of about 6e-8 of the largest entry.
const RIDGE: f64 = 1e-6;

impl Covariance {
    /// Factors C. With fewer tokens than F, C is singular by construction and gets a ridge at
    /// once; otherwise only where the factorisation fails.
    ///
    /// # Errors
    ///
    /// A second moment that is zero or not finite.
    pub fn of(moment: &Moment) -> Result<Covariance> {
        let f = moment.f;
        let c = Mat::from_fn(f, f, |i, j| f64::from(moment.second_moment[i * f + j]));
        let mean = (0..f).map(|i| c[(i, i)]).sum::<f64>() / f as f64;
        if !mean.is_normal() || mean < 0.0 {
            return Err(Error::numeric(
                format!("layer {}: the mean of the diagonal of C is {mean:e}", moment.layer),
                "collect the statistics again, or edit a layer whose keys are not silent",
            ));
        }
        let tokens = moment.tokens;
        if tokens >= f as u64
            && let Some(factor) = Cholesky::of(&c)
        {
            return Ok(Covariance { factor, ridge: None, tokens });
        }
        let ridges = std::iter::successors(Some(RIDGE), |r| (*r < 1.0).then_some(r * 10.0));
        for ridge in ridges.map(|r| r * mean) {
            let mut c = c.clone();
            (0..f).for_each(|i| c[(i, i)] += ridge);
            if let Some(factor) = Cholesky::of(&c) {
                return Ok(Covariance { factor, ridge: Some(ridge), tokens });
            }
        }
        Err(Error::numeric(
            format!("layer {}: C is not positive definite even with a ridge", moment.layer),
            "collect the statistics again: the file does not hold a second moment",
        ))
    }

    /// C⁻¹ k.
    pub fn solve(&self, k: &[f64]) -> Vec<f64> {
        let x = self.factor.solve(&Mat::from_fn(k.len(), 1, |i, _| k[i]));
        (0..k.len()).map(|i| x[(i, 0)]).collect()
    }
}
