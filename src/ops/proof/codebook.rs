//! The nearest key and its value: `kernels/codebook.cu`.
//!
//! All numbers are whole, so squares and their sums are exact, and the choice is the definition's.

use super::numbers::whole;
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::codebook as definition;
use crate::ops::cuda::codebook;

/// Rows of x, and those that are looked up.
const N: usize = 6;
const ROWS: [usize; 5] = [5, 0, 2, 2, 4];
/// Keys, more than two for each of a block's warps, and their width, more than two for each lane.
const KEYS: usize = 19;
const F: usize = 70;
const D: usize = 300;

/// All of the file.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    look_up(engine, elem)?;
    replaced(engine, elem)
}

/// A key that is there three times, in one warp and in two, at a distance that is its radius; a
/// key that is nearest and too far; an x that is a key.
fn look_up(engine: &Engine, elem: Elem) -> Verdict {
    const KERNEL: &str = "nearest_key";
    let mut trial = Trial::new(engine, format!("n {KEYS}, F {F}"));
    let (mut keys, mut x) = (whole(1, KEYS * F, 100), whole(2, N * F, 100));
    let mut radii = vec![1.0; KEYS];
    for twin in [4, 11] {
        keys.copy_within(3 * F..4 * F, twin * F);
    }
    x[5 * F..6 * F].copy_from_slice(&keys[3 * F..4 * F]);
    x[5 * F + 1] += 3.0;
    x[5 * F + 69] -= 4.0;
    radii[3] = 5.0;
    x[..F].copy_from_slice(&keys[17 * F..18 * F]);
    x[33] += 2.0;
    x[2 * F..3 * F].copy_from_slice(&keys[18 * F..]);
    let mut want = [0; ROWS.len()];
    definition::nearest(&x, &ROWS, &keys, &radii, F, &mut want);
    assert_eq!(want, [3, -1, 18, 18, -1], "the trial asks what it says");
    let there = trial.input("x", elem, &x);
    let rows = trial.input("rows", Elem::I32, &ROWS.map(|row| row as f64));
    let keys = trial.input("keys", Elem::F32, &keys);
    let radii = trial.input("radii", Elem::F32, &radii);
    let mut chosen = trial.output("chosen", Elem::I32, ROWS.len());
    trial.run(KERNEL, || {
        codebook::nearest(engine, &there, &rows, &keys, &radii, F, &mut chosen);
    })?;
    trial.equal(KERNEL, &chosen, &[ROWS.len()], &want.map(f64::from))
}

/// Rows whose choice is a key, none, and a key that another row has too.
fn replaced(engine: &Engine, elem: Elem) -> Verdict {
    const KERNEL: &str = "replace_rows";
    let mut trial = Trial::new(engine, format!("D {D}"));
    let (values, y) = (whole(1, 3 * D, 100), whole(2, N * D, 100));
    let (rows, of, chosen) = ([1, 5, 0, 2], [2, 0, 1, 2], [0, -1, 2]);
    let mut want = y.clone();
    definition::replace(&mut want, &rows, &of, &chosen, &values, D);
    let values = trial.input("values", Elem::F32, &values);
    let at = trial.input("rows", Elem::I32, &rows.map(|row| row as f64));
    let by = trial.input("of", Elem::I32, &of.map(|of| of as f64));
    let chosen = trial.input("chosen", Elem::I32, &chosen.map(f64::from));
    let mut got = trial.inout("y", elem, &y);
    trial.run(KERNEL, || codebook::replace(engine, &mut got, &at, &by, &chosen, &values, D))?;
    trial.equal(KERNEL, &got, &[N, D], &want)
}
