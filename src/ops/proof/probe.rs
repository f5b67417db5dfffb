//! Instructions of a warp and of a number: `kernels/probe.cu`, which is every instruction of
//! `ptx.cuh` by itself.
//!
//! Matrices of whole numbers are multiplied exactly, so a fragment that lies elsewhere, or an
//! element that a copy should leave out, shows.

use super::numbers::{hash, rounded, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::kernels::probe::{Doubles, Loaded, Rounded, Staged, THREADS};
use crate::gpu::launch::{Elem, Grid};

/// All of the file.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    for along_k in [false, true] {
        fragments(engine, elem, along_k, None)?;
        // The elements at the end that a copy leaves out: none, one, a packet and a half.
        [0, 1, 12].into_iter().try_for_each(|cut| fragments(engine, elem, along_k, Some(cut)))?;
    }
    if elem == Elem::BF16 {
        doubles(engine)?; // which knows no elem, and is the first type's
    }
    round(engine, elem)
}

/// c + a b of (m, k) and (k, n), b by its elements.
pub fn product(
    [m, k, n]: [usize; 3],
    c: &[f64],
    a: &[f64],
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b(l, j)).sum::<f64>();
    (0..m * n).map(|at| c[at] + dot(at / n, at % n)).collect()
}

/// `loaded`, or `staged` through shared memory with the last `cut` elements of b as zeros.
fn fragments(engine: &Engine, elem: Elem, along_k: bool, cut: Option<usize>) -> Verdict {
    let kernel = if cut.is_some() { "staged" } else { "loaded" };
    let mut trial = Trial::new(engine, format!("along_k {along_k}, cut {}", cut.unwrap_or(0)));
    let [a, b, start] = [1, 2, 3].map(|series| whole(series, 256, 16));
    let want = product([16; 3], &start, &a, |k, n| {
        let at = if along_k { n * 16 + k } else { k * 16 + n };
        if at < 256 - cut.unwrap_or(0) { b[at] } else { 0.0 }
    });
    let a = trial.input("a", elem, &a);
    let b = trial.input("b", elem, &b);
    let mut c = trial.inout("c", Elem::F32, &start);
    let along_k = i32::from(along_k);
    let warp = Grid::line(1, 32);
    trial.run(kernel, || {
        let (a, b, c) = (a.read(), b.read(), c.update());
        match cut {
            None => Loaded { a, b, along_k, c }.launch(engine, warp),
            Some(cut) => Staged { a, b, along_k, cut: cut as i32, c }.launch(engine, warp),
        }
    })?;
    trial.equal(kernel, &c, &[16, 16], &want)
}

fn doubles(engine: &Engine) -> Verdict {
    let mut trial = Trial::new(engine, "8 × 4 × 8");
    let [a, b, start] = [(4, 32), (5, 32), (6, 64)].map(|(series, n)| whole(series, n, 1 << 20));
    let want = product([8, 4, 8], &start, &a, |k, n| b[k * 8 + n]);
    let a = trial.input("a", Elem::F64, &a);
    let b = trial.input("b", Elem::F64, &b);
    let mut c = trial.inout("c", Elem::F64, &start);
    trial.run("doubles", || {
        Doubles { a: a.read(), b: b.read(), c: c.update() }.launch(engine, Grid::line(1, 32));
    })?;
    trial.equal("doubles", &c, &[8, 8], &want)
}

/// To the nearest, and to even at ties.
fn round(engine: &Engine, elem: Elem) -> Verdict {
    let n = 3 * THREADS + 5;
    let mut trial = Trial::new(engine, format!("n {n}"));
    // Halfway between two numbers of the type, just beside, and anywhere.
    let digits = if elem == Elem::BF16 { 16 } else { 13 };
    let number = |i: usize| {
        let bits = hash(7, i);
        let exponent = (120 + bits % 16) as u32;
        let upper = (bits >> 8) as u32 & 0x007f_ffff & !((1 << digits) - 1);
        let lower = [1 << (digits - 1), (1 << (digits - 1)) + 1, (1 << (digits - 1)) - 1, 0]
            .get(i % 5)
            .copied()
            .unwrap_or((bits >> 40) as u32 & ((1 << digits) - 1));
        f64::from(f32::from_bits(exponent << 23 | upper | lower))
    };
    let x: Vec<f64> = (0..n).map(number).collect();
    let want: Vec<f64> = x.iter().map(|&x| rounded(elem, x)).collect();
    let x = trial.input("x", Elem::F32, &x);
    let mut y = trial.output("y", elem, n);
    let mut back = trial.output("back", Elem::F32, n);
    trial.run("rounded", || {
        let (y, back) = (y.write(), back.write());
        Rounded { x: x.read(), n: n as i32, y, back }.launch(engine, Grid::each(n, THREADS));
    })?;
    trial.equal("rounded", &y, &[n], &want)?;
    trial.equal("rounded", &back, &[n], &want)
}
