//! The least squares behind every edit of many facts.
//!
//! ```text
//! Δ = R Xᵀ,   X = (εM + KKᵀ)⁻¹K          minimises ‖ΔK − R‖² + ε tr ΔMΔᵀ; meets ΔK = R for ε = 0
//!
//! K (F, n)  keys, one column a fact       R (D, n)  what is missing of their values
//! M (F, F)  what keys the change should leave alone, as a second moment; positive definite
//!
//! F×F   A = εM + KKᵀ,           X = A⁻¹K                    F²n + F³/3 + 2F²·min(n, D) FLOP
//! n×n   Y = M⁻¹K, S = εI + KᵀY, X = Y S⁻¹                   F³/3 + 2F²n + 4Fn² + n³/3
//! ```
//!
//! Both are exact (Woodbury); the cheaper one is taken. Where n > D the F×F route solves for
//! Δᵀ = A⁻¹KRᵀ, which has fewer columns than X; KRᵀ costs 2FnD, as RXᵀ does otherwise. Source:
//! Meng et al. 2023, arXiv:2210.07229, eq. 14.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Scale};

use super::{Cholesky, pieces};

/// M.
pub enum Prior<'a> {
    /// μI.
    Scaled(f64),
    /// Made when it is needed, and again if it is needed again; the lower triangle is read.
    Matrix(&'a dyn Fn() -> Mat<f64>),
}

/// Δ, one way or the other.
pub enum Change {
    /// X (F, n), of Δ = R Xᵀ.
    Right(Mat<f64>),
    /// Δᵀ (F, D).
    Whole(Mat<f64>),
}

/// (A + KKᵀ)X = B.
pub struct System<'a> {
    /// A (F, F); the lower triangle is read.
    pub a: Mat<f64>,
    /// K (F, n), where there is one.
    pub k: Option<&'a Mat<f64>>,
    /// B.
    pub b: Known<'a>,
}

/// The right side of a system.
pub enum Known<'a> {
    /// K (F, n).
    Keys(&'a Mat<f64>),
    /// KRᵀ (F, D).
    Product(&'a Mat<f64>, &'a Mat<f64>),
}

/// What large systems are solved with, the host or a device: X, or `None` where the matrix is not
/// positive definite.
pub type Means<'a> = &'a dyn Fn(System) -> Option<Mat<f64>>;

/// [`Means`] on the host.
pub fn on_host(system: System) -> Option<Mat<f64>> {
    let System { mut a, k, b } = system;
    if let Some(k) = k {
        add_gram(&mut a, k);
    }
    let factor = Cholesky::of(a)?;
    Some(factor.solve(match b {
        Known::Keys(k) => k.clone(),
        Known::Product(k, r) => product(k, r),
    }))
}

/// The two ways to the same X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The F×F system.
    Keys,
    /// The n×n system.
    Facts,
}

impl Route {
    /// The cheaper way for F, n and D; ε = 0 leaves only n×n.
    pub fn choose(prior: &Prior, epsilon: f64, [f, n, d]: [usize; 3]) -> Route {
        let [f, n, d] = [f, n, d].map(|x| x as f64);
        let keys = f * f * n + f * f * f / 3.0 + 2.0 * f * f * n.min(d);
        let facts = match prior {
            Prior::Scaled(_) => 4.0 * f * n * n + n * n * n / 3.0,
            Prior::Matrix(_) => {
                f * f * f / 3.0 + 2.0 * f * f * n + 4.0 * f * n * n + n * n * n / 3.0
            }
        };
        if epsilon == 0.0 || facts < keys { Route::Facts } else { Route::Keys }
    }

    /// The size of its system.
    pub fn words(self) -> &'static str {
        match self {
            Route::Keys => "F×F",
            Route::Facts => "n×n",
        }
    }

    /// Bytes the route takes beyond K and R.
    pub fn bytes(self, [f, n, d]: [usize; 3]) -> u64 {
        let elements = match self {
            Route::Keys => f * f + f * n.min(d),
            Route::Facts => f * f + 2 * f * n + n * n,
        };
        8 * elements as u64
    }
}

/// Δ by a route; `None` where the system is not positive definite: an M that is singular, or keys
/// that depend on each other with ε = 0.
pub fn solve(
    prior: &Prior,
    epsilon: f64,
    k: &Mat<f64>,
    r: &Mat<f64>,
    route: Route,
    by: Means,
) -> Option<Change> {
    match route {
        Route::Keys => by_keys(prior, epsilon, k, r, by),
        Route::Facts => by_facts(prior, epsilon, k, by).map(Change::Right),
    }
}

fn by_keys(prior: &Prior, epsilon: f64, k: &Mat<f64>, r: &Mat<f64>, by: Means) -> Option<Change> {
    let (f, n, d) = (k.nrows(), k.ncols(), r.nrows());
    let a = match prior {
        Prior::Scaled(mu) => Mat::from_fn(f, f, |i, j| if i == j { epsilon * mu } else { 0.0 }),
        Prior::Matrix(m) => {
            let mut a = m();
            if epsilon != 1.0 {
                a *= Scale(epsilon);
            }
            a
        }
    };
    match n > d {
        true => by(System { a, k: Some(k), b: Known::Product(k, r) }).map(Change::Whole),
        false => by(System { a, k: Some(k), b: Known::Keys(k) }).map(Change::Right),
    }
}

fn by_facts(prior: &Prior, epsilon: f64, k: &Mat<f64>, by: Means) -> Option<Mat<f64>> {
    let n = k.ncols();
    let y = match prior {
        Prior::Scaled(mu) => Mat::from_fn(k.nrows(), n, |i, j| k[(i, j)] / mu),
        Prior::Matrix(m) => by(System { a: m(), k: None, b: Known::Keys(k) })?,
    };
    let mut s = times(k.transpose(), y.as_ref());
    let size = (0..n).map(|i| s[(i, i)]).fold(0.0, f64::max);
    (0..n).for_each(|i| s[(i, i)] += epsilon);
    let s = Cholesky::of(s)?;
    // A key that others make up leaves a pivot of rounding's size, which is none.
    if epsilon == 0.0 && s.smallest() <= f64::EPSILON * n as f64 * size {
        return None;
    }
    Some(s.solve(y.transpose().to_owned()).transpose().to_owned()) // (S⁻¹Yᵀ)ᵀ
}

/// The lower triangle of A (F, F) += KKᵀ.
pub fn add_gram(a: &mut Mat<f64>, k: &Mat<f64>) {
    let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    let (add, par) = (Accum::Add, pieces());
    triangular::matmul(a.as_mut(), lower, add, k, full, k.transpose(), full, 1.0, par);
}

/// A B.
pub fn times(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut ab = Mat::zeros(a.nrows(), b.ncols());
    matmul(ab.as_mut(), Accum::Replace, a, b, 1.0, pieces());
    ab
}

/// A Bᵀ.
pub fn product(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    times(a.as_ref(), b.transpose())
}
