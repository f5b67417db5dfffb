//! A = L Lᵀ and solves with both triangles, held to the bounds of their rounding errors.
//!
//! ```text
//! |A − L Lᵀ| ≤ γ(n + 1) |L||Lᵀ|      |B − L X| ≤ γ(n) |L||X|      γ(k) = ku/(1 − ku)
//! ```
//!
//! element by element, in whatever order sums are made, fused or not (Higham 2002, theorems 10.3
//! and 8.5). The residual is computed in f64 with as much error again, so twice γ(n + 2) is the
//! bound in f64, and more than the bound in f32.

use incise::base::{Float, Rng};
use incise::gpu::Engine;
use incise::gpu::kernels::cholesky::PANEL;
use incise::gpu::launch::Elem;
use incise::ops::cholesky::{self, Side, Systems, Triangle};
use incise::ops::cuda::cholesky as cuda;
use rayon::prelude::*;

use crate::support::budget::{U32, U64};
use crate::support::projection::{Matrix, Numbers, Product, Within};
use crate::support::toy::{Draw, cast};
use crate::support::twin;

const SIZES: [usize; 8] = [1, 2, 7, 31, 32, 33, 65, 130];

/// A random positive definite matrix, not a number above the diagonal and between rows.
fn matrix(draw: &mut Draw, n: usize) -> (Vec<f64>, Triangle) {
    let of = Triangle { n, ld: n + 3 };
    let g = draw.normal(n * n);
    let mut a = vec![f64::NAN; of.len()];
    for i in 0..n {
        for j in 0..=i {
            let product: f64 = (0..n).map(|k| g[i * n + k] * g[j * n + k]).sum();
            a[i * of.ld + j] = f64::from((product / n as f64) as f32) + f64::from(i == j);
        }
    }
    (a, of)
}

fn gamma(n: usize, u: f64) -> f64 {
    2.0 * (n + 2) as f64 * u / (1.0 - (n + 2) as f64 * u)
}

/// Nothing but the triangle has changed, and it is the factor.
fn check_factor(case: &str, a: &[f64], l: &[f64], of: Triangle, u: f64) {
    for i in 0..of.n {
        for j in 0..of.n {
            let at = i * of.ld + j;
            if j > i {
                assert!(at >= l.len() || l[at].to_bits() == a[at].to_bits(), "{case}: above");
                continue;
            }
            let products = || (0..=j).map(|k| l[i * of.ld + k] * l[j * of.ld + k]);
            let off = (products().sum::<f64>() - a[at]).abs();
            let bound = gamma(of.n, u) * products().map(f64::abs).sum::<f64>();
            assert!(off <= bound, "{case}: ({i}, {j}) is off by {off:e} > {bound:e}");
        }
    }
}

fn check_solve(
    case: &str,
    (l, of): (&[f64], Triangle),
    side: Side,
    (b, x): (&[f64], &[f64]),
    s: Systems,
    u: f64,
) {
    let at = |i: usize, j: usize| i * s.down + j * s.across;
    for (i, j) in (0..of.n).flat_map(|i| (0..s.count).map(move |j| (i, j))) {
        let products = || {
            (0..of.n)
                .filter(|&k| if side == Side::Lower { k <= i } else { k >= i })
                .map(|k| l[i.max(k) * of.ld + i.min(k)] * x[at(k, j)])
        };
        let off = (products().sum::<f64>() - b[at(i, j)]).abs();
        let bound = gamma(of.n, u) * products().map(f64::abs).sum::<f64>();
        assert!(off <= bound, "{case} {side:?}: ({i}, {j}) is off by {off:e} > {bound:e}");
    }
}

/// Systems side by side, and one after another.
fn layouts(n: usize, count: usize) -> [Systems; 2] {
    [Systems { count, down: count, across: 1 }, Systems { count, down: 1, across: n }]
}

fn defined<T: Float>(n: usize, u: f64) {
    let mut draw = Draw::new("cholesky", true);
    let (a, of) = matrix(&mut draw, n);
    let wide = |x: &[T]| x.iter().map(|x| x.f64()).collect::<Vec<f64>>();
    let a: Vec<f64> = wide(&cast::<T>(&a));
    let mut l = cast::<T>(&a);
    assert_eq!(cholesky::factor(&mut l, of), None);
    check_factor(&format!("{n}"), &a, &wide(&l), of, u);
    for side in [Side::Lower, Side::Upper] {
        for systems in layouts(n, 5) {
            let b = draw.normal(n * 5);
            let mut x = cast::<T>(&b);
            cholesky::solve(&l, of, side, &mut x, systems);
            check_solve(&format!("{n}"), (&wide(&l), of), side, (&b, &wide(&x)), systems, u);
        }
    }
}

#[test]
fn definition() {
    for n in SIZES {
        defined::<f32>(n, U32);
        defined::<f64>(n, U64);
    }
}

/// L, the bad pivot, and X for both sides in both layouts.
fn run(engine: &Engine, a: &[f64], of: Triangle, b: &[f64]) -> (Vec<f64>, i32, [Vec<f64>; 4]) {
    let mut l = twin::up(engine, Elem::F64, a);
    let mut bad = twin::up(engine, Elem::I32, &[77.0]);
    cuda::factor(engine, &mut l, of, &mut bad);
    let [side, end] = layouts(of.n, b.len() / of.n);
    let solves = [(Side::Lower, side), (Side::Upper, side), (Side::Lower, end), (Side::Upper, end)];
    let xs = solves.map(|(side, systems)| {
        let mut x = twin::up(engine, Elem::F64, b);
        cuda::solve(engine, &l, of, &bad, side, &mut x, systems);
        twin::down(&x)
    });
    (twin::down(&l), twin::down(&bad)[0] as i32, xs)
}

fn bits(x: &[f64]) -> Vec<u64> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::cholesky::kernels") else { return };
    for n in SIZES {
        let mut draw = Draw::new("cholesky kernels", false);
        let (a, of) = matrix(&mut draw, n);
        let count = if n == 130 { 67 } else { 3 };
        let b = draw.normal(n * count);
        let (l, bad, xs) = run(&engines[0].1, &a, of, &b);
        assert_eq!(bad, -1);
        check_factor(&format!("kernel {n}"), &a, &l, of, U64);
        let [side, end] = layouts(n, count);
        for (i, systems) in [side, side, end, end].into_iter().enumerate() {
            let side = [Side::Lower, Side::Upper][i % 2];
            check_solve(&format!("kernel {n}"), (&l, of), side, (&b, &xs[i]), systems, U64);
        }
        // A thread of ThreadSanitizer's costs as much as thousands of ours.
        for (name, engine) in engines[1..].iter().filter(|(e, _)| n < 99 || !e.contains("thread")) {
            let (other, bad, others) = run(engine, &a, of, &b);
            assert!(bits(&other) == bits(&l) && bad == -1, "{n} on {name}");
            assert!(others.map(|x| bits(&x)) == xs.clone().map(|x| bits(&x)), "{n} on {name}");
        }
    }
}

/// |B − A X| ≤ γ(3n + 1) |L||Lᵀ||X| (theorem 10.4), twice for what the check itself rounds.
fn check_division(engine: &Engine, case: &str, n: usize, count: usize) {
    let mut draw = Draw::new("cholesky division", false);
    let (a, of) = matrix(&mut draw, n);
    let b = draw.normal(n * count);
    for systems in layouts(n, count) {
        let mut l = twin::up(engine, Elem::F64, &a);
        let mut x = twin::up(engine, Elem::F64, &b);
        assert_eq!(cuda::divide(engine, &mut l, of, &mut x, systems), None, "{case}");
        let (l, x) = (twin::down(&l), twin::down(&x));
        check_factor(case, &a, &l, of, U64);
        let at = |i: usize, j: usize| i * systems.down + j * systems.across;
        // Lᵀ x and |Lᵀ| |x|, then what L makes of the second.
        for j in 0..count {
            let sizes: Vec<f64> = (0..n)
                .map(|k| (k..n).map(|i| (l[i * of.ld + k] * x[at(i, j)]).abs()).sum())
                .collect();
            for i in 0..n {
                let of_a = |k: usize| a[i.max(k) * of.ld + i.min(k)];
                let product: f64 = (0..n).map(|k| of_a(k) * x[at(k, j)]).sum();
                let size: f64 = (0..=i).map(|k| l[i * of.ld + k].abs() * sizes[k]).sum();
                let (off, bound) = ((b[at(i, j)] - product).abs(), gamma(3 * n + 1, U64) * size);
                assert!(off <= bound, "{case}: ({i}, {j}) is off by {off:e} > {bound:e}");
            }
        }
    }
}

/// A pivot that is none is named, and nothing is divided.
fn check_no_division(engine: &Engine, case: &str, n: usize) {
    for index in [0, n / 2, n - 1] {
        let mut draw = Draw::new("cholesky division", false);
        let (mut a, of) = matrix(&mut draw, n);
        a[index * of.ld + index] = -1.0;
        let b = draw.normal(n);
        let [mut l, mut x] = [&a, &b].map(|x| twin::up(engine, Elem::F64, x));
        let systems = Systems { count: 1, down: 1, across: n };
        let bad = cuda::divide(engine, &mut l, of, &mut x, systems);
        assert!(bad == Some(index) && bits(&twin::down(&x)) == bits(&b), "{case}: {bad:?}");
    }
}

#[test]
fn kernels_divide() {
    let Some(engines) = twin::engines("ops::cholesky::kernels_divide") else { return };
    for n in [1, 7, 65] {
        check_division(&engines[0].1, &format!("{n}"), n, 5);
        check_no_division(&engines[0].1, &format!("{n}"), n);
    }
}

#[test]
fn library_divides() {
    let test = "ops::cholesky::library_divides";
    let Some(card) = twin::library(test, |e| e.cusolver().is_some()) else { return };
    for (n, count) in [(1, 1), (7, 3), (65, 5), (130, 67), (700, 33)] {
        check_division(&card, &format!("cuSOLVER, {n}"), n, count);
        check_no_division(&card, &format!("cuSOLVER, {n}"), n);
    }
}

/// Of the size of GPT-J's keys: the factor, and some of many systems.
fn check_large(case: &str, engine: &Engine, [n, count]: [usize; 2]) {
    // The eigenvalues of the off-diagonal are within 2 √(n/3) of 0, all but surely (Wigner 1955).
    let mut a = vec![0.0; n * n];
    a.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        let mut rng = Rng::new(i as u64, "a large matrix");
        row[..i].fill_with(|| 2.0 * rng.uniform() - 1.0);
        row[i] = 2.0 * (n as f64).sqrt();
    });
    let mut rng = Rng::new(0, "large systems");
    let b: Vec<f64> = (0..n * count).map(|_| 2.0 * rng.uniform() - 1.0).collect();
    let up = |x: &[f64]| engine.upload(Elem::F64, bytemuck::cast_slice(x)).unwrap();
    let (mut l, mut x) = (up(&a), up(&b));
    let (of, systems) = (Triangle { n, ld: n }, Systems { count, down: 1, across: n });
    assert_eq!(cuda::divide(engine, &mut l, of, &mut x, systems), None, "{case}");
    let (l, x) = (Numbers::of(&l), Numbers::of(&x));
    let a = Matrix { rows: n, cols: n, at: |i: usize, j: usize| a[i.max(j) * n + i.min(j)] };
    let l = Matrix { rows: n, cols: n, at: |i, j| if j <= i { l.at(i * n + j) } else { 0.0 } };
    let one = |k: usize| k as f64 * U64 / (1.0 - k as f64 * U64);
    Product::square(&l).hold(case, &a, Within { size: one(n + 1), last: 0.0 });

    // As in `check_division`, of three systems.
    let some = [0, count / 2, count - 1];
    let some = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..n).flat_map(|i| some.map(|j| of(j * n + i))).collect()
    };
    let (x, b) = (some(&|at| x.at(at)), some(&|at| b[at]));
    let (l, sizes) = (l.abs(), x.iter().map(|x| x.abs()).collect::<Vec<_>>());
    let sizes = l.times(&l.transposed().times(&sizes, 3), 3);
    for (i, product) in a.times(&x, 3).iter().enumerate() {
        let (off, bound) = ((b[i] - product).abs(), gamma(3 * n + 1, U64) * sizes[i]);
        assert!(off <= bound, "{case}: unknown {} is off by {off:e} > {bound:e}", i / 3);
    }
}

#[test]
fn kernels_large() {
    let Some(engine) = twin::engine("ops::cholesky::kernels_large") else { return };
    check_large("ours", &engine.own(), twin::sizes([16384, 1000], [200, 3]));
}

#[test]
fn library_large() {
    let test = "ops::cholesky::library_large";
    let Some(card) = twin::library(test, |e| e.cusolver().is_some()) else { return };
    check_large("cuSOLVER", &card, twin::sizes([16384, 1000], [200, 3]));
}

/// The first pivot that is none is named, whatever it is; its block is not written, and nothing is
/// solved.
#[test]
fn pivots() {
    let Some(engines) = twin::engines("ops::cholesky::pivots") else { return };
    let engine = &engines[0].1;
    for n in [7, 130] {
        for index in [0, 6, 40, 63, 64, 129].into_iter().filter(|&i| i < n) {
            for pivot in [0.0, -1.0, f64::NAN, f64::INFINITY] {
                let case = format!("{pivot} at {index} of {n}");
                let mut draw = Draw::new("cholesky pivots", false);
                let (mut a, of) = matrix(&mut draw, n);
                a[index * of.ld + index] = pivot;
                let mut defined = a.clone();
                assert_eq!(cholesky::factor(&mut defined, of), Some(index), "{case}");
                let b = draw.normal(n);
                let (l, bad, xs) = run(engine, &a, of, &b);
                assert_eq!(bad, index as i32, "{case}");
                assert!(xs.iter().all(|x| bits(x) == bits(&b)), "{case}: solved");
                assert!(index >= PANEL || bits(&l) == bits(&a), "{case}: written");
            }
        }
    }
}
