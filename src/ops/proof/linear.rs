//! Products with a frozen matrix: `kernels/linear_mma.cu`, `linear_row.cu` and `linear_split.cu`.
//!
//! On whole numbers they are exact ([`super::numbers`]), so they equal the definition. Of numbers
//! of two parts on both sides the kernel leaves out lo lo, and so does what it should give:
//!
//! ```text
//! y = x Wᵀ − lo(x) lo(W)ᵀ + b     dx = dy W − lo(dy) lo(W), + what was there
//! ```

use super::numbers::{EXACT, encode, factor, hash, low, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::kernels::linear_mma::RUN;
use crate::gpu::kernels::linear_split::{LinearSplit, NUMBERS, THREADS};
use crate::gpu::launch::{Elem, Grid};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::linear as definition;
use crate::ops::cuda::linear::{self, DeviceMatrix};
use crate::tensor::{Layout, Weight};

/// What is added to a product.
#[derive(Clone, Copy, PartialEq)]
enum More {
    Nothing,
    /// b.
    Bias,
    /// What is there.
    Before,
}

/// Whether a product is rounded to the type of the activations.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Wide,
    Rounded,
}

/// [N, K, M], forward or back, how W lies, and the end.
type Row = ([usize; 3], bool, Layout, More, End);

/// Tiles of 128 rows, 128 columns and a run of 128 products are crossed; W lies along K and along
/// M, in whole packs and not. Then three runs and a bit.
const MANY: [Row; 6] = [
    ([131, 136, 137], true, Layout::OutIn, More::Bias, End::Wide),
    ([131, 101, 137], true, Layout::InOut, More::Bias, End::Rounded),
    ([131, 136, 144], false, Layout::OutIn, More::Before, End::Wide),
    ([131, 101, 137], false, Layout::InOut, More::Nothing, End::Rounded),
    ([19, 3 * RUN + 5, 24], true, Layout::OutIn, More::Nothing, End::Wide),
    ([19, 3 * RUN + 5, 24], false, Layout::OutIn, More::Nothing, End::Wide),
];

/// One and two rows, more, and more numbers than a block takes at a time.
const FEW: [Row; 4] = [
    ([2, 1096, 67], true, Layout::OutIn, More::Bias, End::Wide),
    ([7, 1031, 72], true, Layout::InOut, More::Bias, End::Rounded),
    ([8, 101, 67], true, Layout::OutIn, More::Nothing, End::Rounded),
    ([1, 1096, 72], true, Layout::InOut, More::Bias, End::Wide),
];

/// `linear_mma`.
pub fn many(engine: &Engine, [elem, weight]: [Elem; 2]) -> Verdict {
    MANY.into_iter().try_for_each(|row| product(engine, "linear_mma", [elem, weight], row))
}

/// `linear_row`.
pub fn few(engine: &Engine, [elem, weight]: [Elem; 2]) -> Verdict {
    FEW.into_iter().try_for_each(|row| product(engine, "linear_row", [elem, weight], row))
}

fn product(
    engine: &Engine,
    kernel: &'static str,
    [elem, weight]: [Elem; 2],
    ([n, k, m], forward, layout, more, end): Row,
) -> Verdict {
    let engine = &engine.own();
    let way = if forward { "y" } else { "dx" };
    let mut trial = Trial::new(engine, format!("{way}, N {n}, K {k}, M {m}, W {layout:?}"));
    let [out, inner] = if forward { [m, k] } else { [k, m] };
    let a = factor(1, n * k, elem);
    let w = factor(2, out * inner, weight); // (out, in)
    let added = match more {
        More::Nothing => Vec::new(),
        More::Bias => whole(3, m, 100),
        More::Before => whole(4, n * m, 100),
    };
    // lo lo is left out where both have two parts; on the ordinary units none is.
    let leaves_out = kernel == "linear_mma" && elem != Elem::BF16 && weight != Elem::BF16;
    let mut want = multiplied(&a, &w, [n, out, inner], forward);
    if leaves_out {
        let left_out = multiplied(&low(&a), &low(&w), [n, out, inner], forward);
        want.iter_mut().zip(left_out).for_each(|(y, left_out)| *y -= left_out);
    }
    want.iter_mut().zip(added.iter().cycle()).for_each(|(y, added)| *y += added);

    let stored = if layout == Layout::OutIn { w } else { transposed(&w, [out, inner]) };
    let [row_stride, col_stride] = if layout == Layout::OutIn { [inner, 1] } else { [1, out] };
    let a = trial.input("a", elem, &a);
    let w = trial.input("w", weight, &stored);
    let b = (more == More::Bias).then(|| trial.input("b", Elem::F32, &added));
    let to = if end == End::Rounded { elem } else { Elem::F32 };
    let mut c = match more {
        More::Before => trial.inout("c", to, &added),
        _ => trial.output("c", to, n * m),
    };
    let w = DeviceMatrix { w: &w, out, inner, row_stride, col_stride };
    trial.run(kernel, || match forward {
        true => linear::forward(engine, &a, w, b.as_ref(), &mut c),
        false => linear::backward(engine, &a, w, &mut c, more == More::Before),
    })?;
    trial.equal(kernel, &c, &[n, m], &want)
}

/// a Wᵀ or, backward, a W, by the definition.
fn multiplied(a: &[f64], w: &[f64], [n, out, inner]: [usize; 3], forward: bool) -> Vec<f64> {
    let product = |a: &[f64], w: Vec<f64>| {
        let w = Weight::dense_f64(w, out, inner);
        let mut c = vec![0.0; n * if forward { out } else { inner }];
        match forward {
            true => definition::forward(a, &w, None, &mut c),
            false => definition::backward(a, &w, &mut c, false),
        }
        c
    };
    let sizes = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let largest = product(&sizes(a), sizes(w)).into_iter().fold(0.0, f64::max);
    assert!(largest < EXACT, "sums up to {largest} are not exact");
    product(a, w.to_vec())
}

fn transposed(w: &[f64], [rows, cols]: [usize; 2]) -> Vec<f64> {
    (0..rows * cols).map(|at| w[at % rows * cols + at / rows]).collect()
}

/// `linear_split`: the bytes that the host gives.
pub fn split(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    let n = NUMBERS * (THREADS + 3);
    let mut trial = Trial::new(engine, format!("N {n}"));
    let x = any(n);
    let want = [x.clone(), low(&x)].concat();
    let x = trial.input("x", Elem::F32, &x);
    let mut y: Array = trial.output("y", elem, 2 * n);
    trial.run("linear_split", || {
        let grid = Grid::each(n / NUMBERS, THREADS);
        LinearSplit { x: x.read(), N: n as i32, y: y.write() }.launch(engine, grid);
    })?;
    trial.same_bytes("linear_split", &y, &[2, n], &encode(elem, &want))
}

/// Numbers of any digits and of sizes from 2⁻²⁰ to 2²⁰.
fn any(n: usize) -> Vec<f64> {
    let number = |i| {
        let bits = hash(5, i);
        let size = f32::from_bits(((107 + bits % 41) as u32) << 23 | (bits >> 41) as u32);
        f64::from(if bits >> 40 & 1 == 0 { size } else { -size })
    };
    (0..n).map(number).collect()
}
