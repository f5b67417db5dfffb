//! A = U diag(σ) Uᵀ of a symmetric matrix in f64.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, Spec};

use super::pieces;

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
