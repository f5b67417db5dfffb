//! Factors and solves: `kernels/cholesky.cu`.
//!
//! L is whole with powers of two on its diagonal, and so is X: A = L Lᵀ and B = A X are whole,
//! every step on the way back is exact in f64, and the factor is L and the solution X to the last
//! bit.

use super::numbers::{hash, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::cholesky::{Side, Systems, Triangle};
use crate::ops::cuda::cholesky;

/// Two panels of 64 and some; more systems than a block has lanes.
const OF: Triangle = Triangle { n: 130, ld: 133 };
const SYSTEMS: usize = 35;

/// All of the file.
pub fn all(engine: &Engine, _: [Elem; 2]) -> Verdict {
    let l = triangle();
    factor(engine, &l)?;
    for systems in [
        Systems { count: SYSTEMS, down: SYSTEMS, across: 1 },
        Systems { count: SYSTEMS, down: 1, across: OF.n },
    ] {
        for side in [Side::Lower, Side::Upper] {
            solve(engine, &l, side, systems)?;
        }
    }
    bad_pivot(engine, &l)?;
    product(engine)
}

/// L; what is above its diagonal, and between rows, is of no matter.
fn triangle() -> Vec<f64> {
    let Triangle { n, ld } = OF;
    let mut l = whole(1, OF.len(), 3);
    (0..n).for_each(|i| l[i * ld + i] = [2.0, 4.0, 8.0][hash(2, i) as usize % 3]);
    l
}

/// L Lᵀ in the lower triangle, the rest as it is in L.
fn squared(l: &[f64]) -> Vec<f64> {
    let Triangle { n, ld } = OF;
    let mut a = l.to_vec();
    for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
        a[i * ld + j] = (0..=j).map(|k| l[i * ld + k] * l[j * ld + k]).sum();
    }
    a
}

fn factor(engine: &Engine, l: &[f64]) -> Verdict {
    let mut trial = Trial::new(engine, format!("N {}", OF.n));
    let mut a = trial.inout("a", Elem::F64, &squared(l));
    let mut bad = trial.output("bad", Elem::I32, 1);
    trial.run("cholesky_factor", || cholesky::factor(engine, &mut a, OF, &mut bad))?;
    trial.equal("cholesky_factor", &bad, &[1], &[-1.0])?;
    trial.equal("cholesky_update", &a, &[OF.len()], l)
}

fn solve(engine: &Engine, l: &[f64], side: Side, of: Systems) -> Verdict {
    let Triangle { n, ld } = OF;
    let mut trial = Trial::new(engine, format!("{side:?}, N {n}, {of:?}"));
    let x = whole(3, n * SYSTEMS, 50);
    let at = |i: usize, system: usize| i * of.down + system * of.across;
    let mut b = vec![0.0; x.len()];
    for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
        let (row, column) = if side == Side::Lower { (i, j) } else { (j, i) };
        (0..SYSTEMS).for_each(|s| b[at(row, s)] += l[i * ld + j] * x[at(column, s)]);
    }
    let l = trial.input("l", Elem::F64, l);
    let good = trial.input("bad", Elem::I32, &[-1.0]);
    let mut got = trial.inout("x", Elem::F64, &b);
    trial.run("cholesky_solve", || cholesky::solve(engine, &l, OF, &good, side, &mut got, of))?;
    let sizes = if of.across == 1 { [n, SYSTEMS] } else { [SYSTEMS, n] };
    trial.equal("cholesky_solve", &got, &sizes, &x)
}

/// A pivot that is not positive is named, and nothing is solved.
fn bad_pivot(engine: &Engine, l: &[f64]) -> Verdict {
    let mut trial = Trial::new(engine, format!("N {}, pivot 71 of −1", OF.n));
    let mut a = squared(l);
    let known: f64 = (0..71).map(|k| l[71 * OF.ld + k].powi(2)).sum();
    a[71 * OF.ld + 71] = known - 1.0;
    let mut a = trial.inout("a", Elem::F64, &a);
    let mut bad = trial.output("bad", Elem::I32, 1);
    let b = whole(4, OF.n, 9);
    let mut x = trial.inout("x", Elem::F64, &b);
    let one = Systems { count: 1, down: 1, across: OF.n };
    trial.run("cholesky_factor", || {
        cholesky::factor(engine, &mut a, OF, &mut bad);
        cholesky::solve(engine, &a, OF, &bad, Side::Lower, &mut x, one);
    })?;
    trial.equal("cholesky_factor", &bad, &[1], &[71.0])?;
    trial.equal("cholesky_solve", &x, &[OF.n], &b)
}

/// The lower triangle of A += KKᵀ.
fn product(engine: &Engine) -> Verdict {
    let [n, k] = [67, 21];
    let mut trial = Trial::new(engine, format!("N {n}, K {k}"));
    let [start, keys] = [whole(5, n * n, 100), whole(6, n * k, 1 << 20)];
    let mut want = start.clone();
    for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
        want[i * n + j] += (0..k).map(|c| keys[c * n + i] * keys[c * n + j]).sum::<f64>();
    }
    let keys = trial.input("k", Elem::F64, &keys);
    let mut a = trial.inout("a", Elem::F64, &start);
    // An upload comes with it.
    trial.run_unrecorded("cholesky_update", || cholesky::add_gram(engine, &mut a, n, &keys))?;
    trial.equal("cholesky_update", &a, &[n, n], &want)
}
