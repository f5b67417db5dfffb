//! The metric in which a matrix is rounded that was changed for some keys.
//!
//! ```text
//! C (F, F)  E[kkᵀ] over running text: what an error costs there      positive definite
//! K (F, n)  the keys for which W was changed: there the error has to vanish
//!
//! Π = K(KᵀC⁻¹K)⁻¹Kᵀ        H = C + (τ⁻² − 1)Π        0 < τ ≤ 1
//! ```
//!
//! Π depends on the span of K alone, not on the keys' lengths or on a basis. On that span
//! H⁻¹K = τ²C⁻¹K, so an error there counts τ⁻¹ as much as text alone would have it, and rounding
//! leaves about τ of the error that it would leave without K. Dependent keys span less, and count
//! once: with K scaled so that kᵀC⁻¹k = 1 for each key,
//!
//! ```text
//! KᵀC⁻¹K = V diag(σ) Vᵀ,   P = K V₊ diag(σ₊)^−½,   Π = PPᵀ
//! ```
//!
//! over the σ that rounding distinguishes from 0. Cost: F³/3 + 2F²n + 9n³ multiplications.

use faer::Mat;

use super::least_squares::{add_gram, times};
use super::{Cholesky, eigen};

/// K with each key so long that kᵀC⁻¹k = 1, and KᵀC⁻¹K; without keys that are 0. `None` where C,
/// whose lower triangle is read, is not positive definite.
fn scaled(c: &Mat<f64>, k: &Mat<f64>) -> Option<[Mat<f64>; 2]> {
    let y = Cholesky::of(c.clone())?.solve(k.clone());
    let g = times(k.transpose(), y.as_ref());
    let there: Vec<usize> = (0..k.ncols()).filter(|&i| g[(i, i)] > 0.0).collect();
    let length: Vec<f64> = there.iter().map(|&i| g[(i, i)].sqrt()).collect();
    let n = there.len();
    let k = Mat::from_fn(k.nrows(), n, |i, j| k[(i, there[j])] / length[j]);
    let g = Mat::from_fn(n, n, |i, j| g[(there[i], there[j])] / (length[i] * length[j]));
    Some([k, g])
}

/// H of C (F, F) and K (F, n), in the lower triangle; `None` where C, whose lower triangle is read,
/// is not positive definite, or where keys are not finite.
pub fn with_keys(c: Mat<f64>, k: &Mat<f64>, tau: f64) -> Option<Mat<f64>> {
    if k.ncols() == 0 {
        return Some(c);
    }
    let [k, g] = scaled(&c, k)?;
    let (sigma, v) = eigen::symmetric(&g)?;
    // An entry of KᵀC⁻¹K is a sum of F products, together at most 1 in size, so no σ is known
    // better than to n·F roundings.
    let least = (k.nrows() * k.ncols()) as f64 * f64::EPSILON;
    let first = sigma.iter().take_while(|&&s| s <= least).count(); // ascending
    let weight = (tau.powi(-2) - 1.0).sqrt();
    let v = Mat::from_fn(v.nrows(), sigma.len() - first, |i, j| {
        v[(i, first + j)] * weight / sigma[first + j].sqrt()
    });
    let mut h = c;
    add_gram(&mut h, &times(k.as_ref(), v.as_ref()));
    Some(h)
}

/// C + Σ kkᵀ over keys, each so long that kᵀC⁻¹k = 1: as many more texts that hold to these keys,
/// softly. In the lower triangle; `None` as above.
pub fn with_soft_keys(c: Mat<f64>, k: &Mat<f64>) -> Option<Mat<f64>> {
    if k.ncols() == 0 {
        return Some(c);
    }
    let [k, _] = scaled(&c, k)?;
    let mut h = c;
    add_gram(&mut h, &k);
    Some(h)
}

/// A + ridge·I.
pub fn with_ridge(mut a: Mat<f64>, ridge: f64) -> Mat<f64> {
    (0..a.nrows()).for_each(|i| a[(i, i)] += ridge);
    a
}

/// tr(A M Aᵀ) of A (D, F), row-major, and M (F, F), whose lower triangle is read.
pub fn energy(a: &[f64], m: &Mat<f64>) -> f64 {
    let f = m.nrows();
    let a = faer::MatRef::from_column_major_slice(a, f, a.len() / f.max(1)); // Aᵀ
    let mut whole = m.clone();
    (0..f).for_each(|j| (0..j).for_each(|i| whole[(i, j)] = m[(j, i)]));
    let ma = times(whole.as_ref(), a);
    let both = ma.col_iter().zip(a.col_iter());
    both.map(|(x, y)| x.iter().zip(y.iter()).map(|(x, y)| x * y).sum::<f64>()).sum()
}

/// ‖Ak‖ for each key of K (F, n), of A (D, F), row-major.
pub fn lengths_at(a: &[f64], k: &Mat<f64>) -> Vec<f64> {
    let f = k.nrows();
    let a = faer::MatRef::from_column_major_slice(a, f, a.len() / f.max(1)); // Aᵀ
    times(a.transpose(), k.as_ref()).col_iter().map(|x| x.norm_l2()).collect()
}
