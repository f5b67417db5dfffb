//! The least-squares problem behind every edit of many facts.
//!
//! ```text
//! Δ = R Xᵀ,   X = (εM + KKᵀ)⁻¹K          minimises ‖ΔK − R‖² + ε tr ΔMΔᵀ; meets ΔK = R for ε = 0
//!
//! K (F, n)  keys, one column a fact       R (D, n)  what is missing of their values
//! M (F, F)  what keys the change should leave alone, as a second moment; positive definite
//!
//! primal  F×F   A = εM + KKᵀ,           X = A⁻¹K          F²n + F³/3 + 2F²·min(n, D) FLOP
//! dual    n×n   Y = M⁻¹K, S = εI + KᵀY, X = Y S⁻¹         F³/3 + 2F²n + 4Fn² + n³/3
//! ```
//!
//! Both are exact (Woodbury); the cheaper one is taken. Where n > D the primal route solves for
//! Δᵀ = A⁻¹KRᵀ, which has fewer columns than X; KRᵀ costs 2FnD, as RXᵀ does otherwise. Source:
//! Meng et al. 2023, arXiv:2210.07229, eq. 14.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, ColRef, Mat, MatRef, Scale};

use super::{Cholesky, eigen, pieces};

/// M.
pub enum Prior<'a> {
    /// μI.
    Scaled(f64),
    /// Made when it is needed, and again if it is needed again; the lower triangle is read.
    Matrix(&'a dyn Fn() -> Mat<f64>),
}

/// Δ, by its right factor or as a whole.
pub enum Solution {
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
    pub b: Rhs<'a>,
}

/// The right side of a system.
pub enum Rhs<'a> {
    /// K (F, n).
    Keys(&'a Mat<f64>),
    /// KRᵀ (F, D).
    Product(&'a Mat<f64>, &'a Mat<f64>),
}

/// Solves large systems on the host or a device: X, or `None` where the matrix is not positive
/// definite.
pub type Solver<'a> = &'a dyn Fn(System) -> Option<Mat<f64>>;

/// The [`Solver`] of the host.
pub fn on_host(system: System) -> Option<Mat<f64>> {
    let System { mut a, k, b } = system;
    if let Some(k) = k {
        add_gram(&mut a, k);
    }
    let factor = Cholesky::of(a)?;
    Some(factor.solve(match b {
        Rhs::Keys(k) => k.clone(),
        Rhs::Product(k, r) => product(k, r),
    }))
}

/// The two ways to the same X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The F×F system.
    Primal,
    /// The n×n system.
    Dual,
}

impl Route {
    /// The cheaper way for F, n and D; ε = 0 leaves only n×n.
    pub fn choose(prior: &Prior, epsilon: f64, [f, n, d]: [usize; 3]) -> Route {
        let [f, n, d] = [f, n, d].map(|x| x as f64);
        let primal = f * f * n + f * f * f / 3.0 + 2.0 * f * f * n.min(d);
        let dual = match prior {
            Prior::Scaled(_) => 4.0 * f * n * n + n * n * n / 3.0,
            Prior::Matrix(_) => {
                f * f * f / 3.0 + 2.0 * f * f * n + 4.0 * f * n * n + n * n * n / 3.0
            }
        };
        if epsilon == 0.0 || dual < primal { Route::Dual } else { Route::Primal }
    }

    /// The size of its system.
    pub fn words(self) -> &'static str {
        match self {
            Route::Primal => "F×F",
            Route::Dual => "n×n",
        }
    }

    /// Bytes the route takes beyond K and R.
    pub fn bytes(self, [f, n, d]: [usize; 3]) -> u64 {
        let elements = match self {
            Route::Primal => f * f + f * n.min(d),
            Route::Dual => f * f + 2 * f * n + n * n,
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
    solver: Solver,
) -> Option<Solution> {
    match route {
        Route::Primal => solve_primal(prior, epsilon, k, r, solver),
        Route::Dual => solve_dual(prior, epsilon, k, solver).map(Solution::Right),
    }
}

fn solve_primal(
    prior: &Prior,
    epsilon: f64,
    k: &Mat<f64>,
    r: &Mat<f64>,
    solver: Solver,
) -> Option<Solution> {
    let f = k.nrows();
    let n = k.ncols();
    let d = r.nrows();
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
    if n > d {
        solver(System { a, k: Some(k), b: Rhs::Product(k, r) }).map(Solution::Whole)
    } else {
        solver(System { a, k: Some(k), b: Rhs::Keys(k) }).map(Solution::Right)
    }
}

fn solve_dual(prior: &Prior, epsilon: f64, k: &Mat<f64>, solver: Solver) -> Option<Mat<f64>> {
    let n = k.ncols();
    let y = match prior {
        Prior::Scaled(mu) => Mat::from_fn(k.nrows(), n, |i, j| k[(i, j)] / mu),
        Prior::Matrix(m) => solver(System { a: m(), k: None, b: Rhs::Keys(k) })?,
    };
    let mut s = times(k.transpose(), y.as_ref());
    let size = (0..n).map(|i| s[(i, i)]).fold(0.0, f64::max);
    (0..n).for_each(|i| s[(i, i)] += epsilon);
    let s = Cholesky::of(s)?;
    // A key that is a combination of others leaves a pivot of the size of a rounding error.
    if epsilon == 0.0 && s.smallest() <= f64::EPSILON * n as f64 * size {
        return None;
    }
    Some(s.solve(y.transpose().to_owned()).transpose().to_owned()) // (S⁻¹Yᵀ)ᵀ
}

/// s, the smallest eigenvalue of Kᵀ(εM)⁻¹K: of what is missing along its direction ΔK gives
/// s/(1 + s) and misses 1/(1 + s), and that is the most it misses along any.
///
/// ```text
/// KᵀX = S(S + I)⁻¹   with S = Kᵀ(εM)⁻¹K, so that 1/(1 + s) is the largest eigenvalue of I − KᵀX
/// ```
///
/// For more than 64 keys a bound from above, close to it. Where all is met but for rounding, s is
/// what rounding leaves; `None` where X is not finite.
pub fn smallest_s(k: &Mat<f64>, x: &Mat<f64>) -> Option<f64> {
    let missed = eigen::largest(k.ncols(), |v| {
        let v = ColRef::from_slice(v);
        let w = v - k.transpose() * (x * v);
        w.iter().copied().collect()
    });
    let least = k.ncols() as f64 * f64::EPSILON;
    missed.is_finite().then(|| 1.0 / missed.clamp(least, 1.0) - 1.0)
}

/// The lower triangle of A (F, F) += KKᵀ.
pub fn add_gram(a: &mut Mat<f64>, k: &Mat<f64>) {
    add_gram_times(a, k, 1.0);
}

/// The lower triangle of A (F, F) += c·KKᵀ.
pub fn add_gram_times(a: &mut Mat<f64>, k: &Mat<f64>, c: f64) {
    let lower = BlockStructure::TriangularLower;
    let full = BlockStructure::Rectangular;
    triangular::matmul(a.as_mut(), lower, Accum::Add, k, full, k.transpose(), full, c, pieces());
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
