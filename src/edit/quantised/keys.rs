//! The keys for which patches changed a matrix, and the metric in which it is rounded.
//!
//! ```text
//! K (F, n)   of a patch: its own keys, else C·right where its factors say them, by the C that it
//!            was planned with, else none
//! H          C + ridge, then with the keys                                linalg/metric.rs
//! ```
//!
//! Keys in H cost nothing in the metric of C beyond what they had cost before, as long as they are
//! few beside F. Beyond F/4 the ones at which the change does most are kept, by ‖Δk‖ for keys with
//! kᵀC⁻¹k = 1, and the others count as text that is to be spared. Which ones these are depends on
//! the set of patches alone.

use faer::Mat;

use crate::base::{Error, Result};
use crate::linalg::least_squares::times;
use crate::linalg::{Cholesky, metric};
use crate::stats::Moment;
use crate::stats::covariance::{indefinite, matrix};
use crate::store::{Change, Delta, FactKeys, Metadata};

/// τ: what is left at the keys of the error that rounding without them leaves.
pub const TAU: f64 = 1.0 / 30.0;

/// What is added to the diagonal of C, as a part of its mean: f32 statistics of few tokens are
/// singular, and what no text uses may still not be thrown away.
const RIDGE: f64 = 1e-4;

/// The statistics that the keys of a change follow from, where they do and its patch names them:
/// those whose C its factors were solved with. Earlier versions did not name them.
pub fn planned_with<'a>(change: &Change, of: &'a Metadata, layer: usize) -> Option<&'a str> {
    let follow = change.keys.is_none() && change.keys_follow(of);
    of.statistics_of(layer).filter(|_| follow)
}

/// The keys of a change (F, n), by the C they may follow from; `None` where nothing says them.
pub fn keys(change: &Change, of: &Metadata, c: Option<&Mat<f64>>) -> Option<Mat<f64>> {
    let wide = |values: &[f32], n: usize| {
        Mat::from_fn(change.inner, n, |i, j| f64::from(values[i * n + j]))
    };
    match (&change.keys, &change.delta) {
        (Some(FactKeys { values, n }), _) => Some(wide(values, *n)),
        (None, Delta::LowRank { right, r, .. }) if change.keys_follow(of) => {
            c.map(|c| times(c.as_ref(), wide(right, *r).as_ref()))
        }
        _ => None,
    }
}

/// C (F, F) of a layer, whole: what running text asks of its matrix.
pub fn second_moment(moment: &Moment) -> Mat<f64> {
    matrix(moment, 0.0)
}

/// What a matrix is rounded by.
pub struct RoundingMetric {
    /// H, in the lower triangle.
    pub h: Mat<f64>,
    /// How many keys count as text only.
    pub soft: usize,
}

impl RoundingMetric {
    /// Of C, whole, the change ΣΔ (out, in), and the keys of all patches.
    ///
    /// # Errors
    ///
    /// A C that is no second moment.
    pub fn of(layer: usize, c: &Mat<f64>, delta: &[f64], k: &Mat<f64>) -> Result<RoundingMetric> {
        let f = c.nrows();
        let mean = (0..f).map(|i| c[(i, i)]).sum::<f64>() / f as f64;
        let mut c = metric::with_ridge(c.clone(), RIDGE * mean);
        let failed = || indefinite(layer);
        let most = (f / 4).max(1);
        let mut soft = 0;
        let mut hard = k.clone();
        if k.ncols() > most {
            let factor = Cholesky::of(c.clone()).ok_or_else(failed)?;
            let y = factor.solve(k.clone());
            let asked = metric::lengths_at(delta, k);
            let does = |j: usize| {
                let length = k.col(j).transpose() * y.col(j);
                asked[j] / length.max(f64::MIN_POSITIVE).sqrt()
            };
            let mut order: Vec<(usize, f64)> = (0..k.ncols()).map(|j| (j, does(j))).collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1));
            let some =
                |which: &[(usize, f64)]| Mat::from_fn(f, which.len(), |i, j| k[(i, which[j].0)]);
            let (first, rest) = order.split_at(most);
            soft = rest.len();
            c = metric::with_soft_keys(c, &some(rest)).ok_or_else(failed)?;
            hard = some(first);
        }
        let h = metric::with_keys(c, &hard, TAU).ok_or_else(failed)?;
        Ok(RoundingMetric { h, soft })
    }
}

/// Refuses statistics that are of another width, or of a share of the text alone.
///
/// # Errors
///
/// Such statistics.
pub fn check(moment: &Moment, f: usize) -> Result<()> {
    let refused = |what: String| {
        let remedy = "name the folder of statistics that the patch was planned with";
        Err(Error::refused(format!("statistics of layer {}: {what}", moment.layer), remedy))
    };
    if moment.f != f {
        return refused(format!("of {} neurons, and the matrix has {f}", moment.f));
    }
    if moment.part.is_some() {
        return refused("of one shard of the text alone".to_owned());
    }
    Ok(())
}
