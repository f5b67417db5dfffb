//! Eigenvalues of symmetric matrices in f64: A = U diag(σ) Uᵀ, and the largest of one that is only
//! multiplied with.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, Spec};

use super::pieces;
use super::vector::{dot, norm};
use crate::base::Rng;

/// σ ascending, and U (F, F) by columns, of A (F, F), whose lower triangle is read; `None` where
/// they do not converge. Cost: about 9·F³ FLOP and 3·F² elements in addition to A.
pub fn symmetric(a: &Mat<f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let f = a.nrows();
    let par = pieces();
    let spec = Spec::default();
    let need = self_adjoint_evd_scratch::<f64>(f, ComputeEigenvectors::Yes, par, spec);
    let mut memory = MemBuffer::new(need);
    let mut sigma = Diag::<f64>::zeros(f);
    let mut u = Mat::zeros(f, f);
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(a.as_ref(), sigma.as_mut(), Some(u.as_mut()), par, stack, spec).ok()?;
    Some((sigma.column_vector().iter().copied().collect(), u))
}

/// Steps after which the ends of a spectrum are known to a few digits, whatever its size.
const STEPS: usize = 64;

/// The largest eigenvalue of a symmetric A (n, n) from products Ax alone: exact up to rounding for
/// n ≤ 64, else from below, by 64 steps of Lanczos's method with full orthogonalisation.
///
/// ```text
/// q_1 = b/‖b‖                                   b has a part along every eigenvector, in general
/// β_j q_{j+1} = A q_j − α_j q_j − β_{j−1} q_{j−1},  α_j = q_jᵀ A q_j        T = tridiag(β, α, β)
/// σ_max(T) ≤ σ_max(A)
/// ```
///
/// Source: Golub and Van Loan, Matrix Computations, 10.1.
pub fn largest(n: usize, product: impl Fn(&[f64]) -> Vec<f64>) -> f64 {
    let steps = n.min(STEPS);
    let mut t = Mat::<f64>::zeros(steps, steps);
    let mut q: Vec<Vec<f64>> = Vec::with_capacity(steps);
    let mut rng = Rng::new(0, "first vector of lanczos");
    let mut next: Vec<f64> = (0..n).map(|_| rng.uniform() - 0.5).collect();
    let mut beta = norm(&next);
    let mut size = 0.0f64;
    for j in 0..steps {
        // A space that A does not leave holds all that b has a part of.
        if beta <= f64::EPSILON * n as f64 * size {
            t = t.submatrix(0, 0, j, j).to_owned();
            break;
        }
        if j > 0 {
            t[(j, j - 1)] = beta;
        }
        q.push(next.iter().map(|x| x / beta).collect());
        next = product(&q[j]);
        t[(j, j)] = dot(&q[j], &next);
        size = size.max(norm(&next));
        // Twice is enough, once is not.
        for _ in 0..2 {
            for q in &q {
                let along = dot(q, &next);
                next.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
        }
        beta = norm(&next);
    }
    let last = |(sigma, _): (Vec<f64>, _)| sigma.last().copied();
    symmetric(&t).and_then(last).unwrap_or(f64::NAN)
}
