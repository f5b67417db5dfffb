//! The matrix of rank r nearest to a given one, in f64.
//!
//! ```text
//! Δ (m, n)   given by factors L (m, k), R (n, k)            or whole
//!            L = Q_L T_L,  R = Q_R T_R                      Q_L = Q_R = I
//!            T_L T_Rᵀ = U Σ Vᵀ                              Δ = U Σ Vᵀ
//! nearest    Δ_r = B Aᵀ,  B = Q_L U_r Σ_r^½ (m, r),  A = Q_R V_r Σ_r^½ (n, r)
//! lost       ‖Δ − Δ_r‖² = Σ_{i>r} σ_i²,  which no matrix of rank r undercuts (Eckart, Young 1936)
//! cost       factors: 4(m + n)k² FLOP and an SVD (k, k); Δ is never formed
//! ```
//!
//! The root of Σ goes to both sides, so column i of B is as long as column i of A.
//!
//! `faer` orders its sums by the number of threads it finds, and results must not depend on that:
//! it finds one.

use faer::{Mat, MatRef};
use rayon::ThreadPoolBuilder;

/// Δ_r in factors, and what it costs.
pub struct Nearest {
    /// B (m, r), or fewer columns where Δ has no more.
    pub left: Mat<f64>,
    /// A (n, r), as many columns.
    pub right: Mat<f64>,
    /// ‖Δ − Δ_r‖², Frobenius; 0 where no singular value was dropped.
    pub lost: f64,
    /// ‖Δ‖².
    pub energy: f64,
}

/// Of Δ = L Rᵀ; `None` where the singular values do not converge.
pub fn of_product(left: MatRef<f64>, right: MatRef<f64>, r: usize) -> Option<Nearest> {
    on_one_thread(|| product(left, right, r))?
}

/// Of Δ itself; `None` as above.
pub fn of_matrix(delta: MatRef<f64>, r: usize) -> Option<Nearest> {
    on_one_thread(|| matrix(delta, r))?
}

/// What `work` gives in a pool of one thread; `None` where the system has no thread to give.
fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    Some(ThreadPoolBuilder::new().num_threads(1).build().ok()?.install(work))
}

fn product(left: MatRef<f64>, right: MatRef<f64>, r: usize) -> Option<Nearest> {
    let left = left.qr();
    let right = right.qr();
    let core = left.thin_R() * right.thin_R().transpose();
    let core = matrix(core.as_ref(), r)?;
    Some(Nearest {
        left: left.compute_thin_Q() * core.left,
        right: right.compute_thin_Q() * core.right,
        ..core
    })
}

fn matrix(delta: MatRef<f64>, r: usize) -> Option<Nearest> {
    let svd = delta.thin_svd().ok()?;
    let u = svd.U();
    let v = svd.V();
    let sigma = svd.S().column_vector();
    let r = r.min(sigma.nrows());
    // From the smallest up, so that the dropped ones are not lost in the sum.
    let squares = |from: usize| (from..sigma.nrows()).rev().map(|i| sigma[i] * sigma[i]).sum();
    Some(Nearest {
        left: Mat::from_fn(u.nrows(), r, |i, j| u[(i, j)] * sigma[j].sqrt()),
        right: Mat::from_fn(v.nrows(), r, |i, j| v[(i, j)] * sigma[j].sqrt()),
        lost: squares(r),
        energy: squares(0),
    })
}
