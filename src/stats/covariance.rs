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
        let made = with_ridge(moment, |ridge| Cholesky::of(matrix(moment, ridge)))?;
        let (factor, ridge) = made.ok_or_else(|| indefinite(moment.layer))?;
        Ok(Covariance { factor, ridge, tokens: moment.tokens })
    }

    /// C⁻¹ k.
    pub fn solve(&self, k: &[f64]) -> Vec<f64> {
        let x = self.factor.solve(Mat::from_fn(k.len(), 1, |i, _| k[i]));
        (0..k.len()).map(|i| x[(i, 0)]).collect()
    }
}

/// C + ridge·I (F, F) in f64.
pub fn matrix(moment: &Moment, ridge: f64) -> Mat<f64> {
    let f = moment.f;
    let add = |i, j| if i == j { ridge } else { 0.0 };
    // C is symmetric, and the matrix is stored column by column.
    Mat::from_fn(f, f, |i, j| f64::from(moment.second_moment[j * f + i]) + add(i, j))
}

/// Tries to solve with a ridge of 0, then with growing ones; with fewer tokens than F, C is
/// singular by construction and gets a ridge at once. Returns the ridge that was needed; `None`
/// where none is enough.
///
/// # Errors
///
/// A second moment that is zero or not finite.
pub fn with_ridge<T>(
    moment: &Moment,
    mut attempt: impl FnMut(f64) -> Option<T>,
) -> Result<Option<(T, Option<f64>)>> {
    let f = moment.f;
    let mean = (0..f).map(|i| f64::from(moment.second_moment[i * f + i])).sum::<f64>() / f as f64;
    if !mean.is_normal() || mean < 0.0 {
        return Err(Error::numeric(
            format!("layer {}: the mean of the diagonal of C is {mean:e}", moment.layer),
            "collect the statistics again, or edit a layer whose keys are not silent",
        ));
    }
    if moment.tokens >= f as u64
        && let Some(done) = attempt(0.0)
    {
        return Ok(Some((done, None)));
    }
    let ridges = std::iter::successors(Some(RIDGE), |r| (*r < 1.0).then_some(r * 10.0));
    for ridge in ridges.map(|r| r * mean) {
        if let Some(done) = attempt(ridge) {
            return Ok(Some((done, Some(ridge))));
        }
    }
    Ok(None)
}

/// C is no second moment.
pub fn indefinite(layer: usize) -> Error {
    Error::numeric(
        format!("layer {layer}: C is not positive definite even with a ridge"),
        "collect the statistics again: the file does not hold a second moment",
    )
}
