//! A library's factor and solve held to those of our kernels.
//!
//! A = N I + S with S symmetric and |s_ij| ≤ ½, so A's condition is some 3 and both are off from
//! X by no more than 2⁻⁵³ times some N² of its largest number: `FAR` of it is far more.

use super::numbers::{decode, encode, hash, whole};
use crate::base::Result;
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::cholesky::{Systems, Triangle};
use crate::ops::cuda::cholesky;

const N: usize = 130;
const COUNT: usize = 3;
/// How far X may be off, of its largest number.
const FAR: f64 = 1e-10;
/// The largest number of X.
const LARGEST: u64 = 50;

/// Solves the same systems on both; what the first gets wrong.
///
/// # Errors
///
/// The device has no more memory.
pub fn compared(with: &Engine, own: &Engine) -> Result<Option<String>> {
    let x = whole(1, N * COUNT, LARGEST);
    for (engine, whose) in [(own, "our kernels'"), (with, "the library's")] {
        let solved = solved(engine, &x)?;
        let Some(solved) = solved else {
            return Ok(Some(format!("{whose} factor of {N} finds a pivot that is not positive")));
        };
        let off = |(got, want): (&f64, &f64)| (got - want).abs();
        let bad = solved.iter().zip(&x).map(off).position(|off| !off.le(&(FAR * LARGEST as f64)));
        if let Some(at) = bad {
            let (got, want) = (solved[at], x[at]);
            return Ok(Some(format!("{whose} solution x[{at}] = {got}, should be {want}")));
        }
    }
    Ok(None)
}

/// A⁻¹ (A X); `None` where a pivot is not positive.
fn solved(engine: &Engine, x: &[f64]) -> Result<Option<Vec<f64>>> {
    let a = |i: usize, j: usize| {
        let place = i.max(j) * N + i.min(j);
        let s = (hash(2, place) >> 40) as f64 / f64::from(1 << 24) - 0.5;
        if i == j { N as f64 + s } else { s }
    };
    let b: Vec<f64> =
        (0..N * COUNT).map(|at| (0..N).map(|k| a(at % N, k) * x[at / N * N + k]).sum()).collect();
    let a: Vec<f64> = (0..N * N).map(|at| a(at / N, at % N)).collect();
    let mut a = engine.upload(Elem::F64, &encode(Elem::F64, &a))?;
    let mut x = engine.upload(Elem::F64, &encode(Elem::F64, &b))?;
    let systems = Systems { count: COUNT, down: 1, across: N };
    let bad = cholesky::divide(engine, &mut a, Triangle { n: N, ld: N }, &mut x, systems);
    Ok(bad.is_none().then(|| decode(Elem::F64, &x.download())))
}
