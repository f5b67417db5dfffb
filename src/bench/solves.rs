//! What comes after the values: systems of a layer's size, and its change added to its weights.

use faer::Mat;

use super::limits::Limits;
use super::{Row, Sizes, Unit, time};
use crate::base::{DType, Result, Rng, catch_device_error, or_unwind};
use crate::edit::solve::device::with_solver;
use crate::gpu::launch::Elem;
use crate::linalg::least_squares::{Rhs, System};
use crate::ops::cholesky::{Systems, Triangle};
use crate::ops::cuda::cholesky;
use crate::ops::cuda::update::DeviceFactors;
use crate::ops::update::{Stored, Term, Terms};
use crate::tensor::{Compute, Layout, Precision};

/// Both; D and F are those of the shape that is measured.
///
/// # Errors
///
/// A device without room.
pub fn measure(
    compute: &Compute,
    sizes: Sizes,
    [d, f]: [usize; 2],
    limits: Limits,
    rows: &mut Vec<Row>,
) -> Result<()> {
    catch_device_error(|| {
        updates(compute, sizes, [d, f], limits, rows);
        system(compute, sizes, f, rows);
        of_facts(compute, sizes, [d, f], rows);
        Ok(())
    })
}

/// W (D, F) in bf16 + left rightᵀ.
fn updates(
    compute: &Compute,
    sizes: Sizes,
    [d, f]: [usize; 2],
    limits: Limits,
    rows: &mut Vec<Row>,
) {
    let w = Stored { dtype: DType::BF16, layout: Layout::OutIn, out: d, inner: f };
    for r in [1, 8, 64, 512].into_iter().filter(|r| *r <= d) {
        let [left, right] = [d, f].map(|n| vec![1e-3; n * r]);
        let moved = 2 * d * w.row_bytes();
        let took = match compute.engine() {
            Some(engine) => {
                let factors = DeviceFactors::new(engine, w.sides(), [&left, &right]);
                let room = |elem, n| or_unwind(engine.array(elem, n));
                let old = or_unwind(engine.upload(Elem::BF16, &vec![0; moved / 2]));
                let (mut new, mut sums) =
                    (room(Elem::BF16, d * f), room(Elem::F64, factors.sums(d)));
                time(compute, sizes.seconds, || factors.launch(&old, 0..d, &mut new, &mut sums))
            }
            None => {
                let term = Term::LowRank { left: &left, right: &right, r };
                let terms = Terms::new(compute, w, vec![term]);
                let (old, mut new) = (vec![0; moved / 2], vec![0; moved / 2]);
                let run = || _ = terms.add(&old, 0..d, &mut new);
                time(compute, sizes.seconds, run)
            }
        };
        let (work, limit) = match r {
            ..=8 => ((moved as f64, Unit::Bytes), Some(limits.copy)),
            _ => ((2.0 * (d * f * r) as f64, Unit::Flop), None),
        };
        let what = [format!("low-rank update, r {r}"), format!("{d} × {f}, BF16")];
        rows.push(Row::new("solves", what, took, work, limit));
    }
}

/// A = L Lᵀ and A⁻¹B for sixteen columns B, in f64; and with all that goes to a device and back.
fn system(compute: &Compute, sizes: Sizes, f: usize, rows: &mut Vec<Row>) {
    const COLUMNS: usize = 16;
    let mut rng = Rng::new(0, "systems of a benchmark");
    let b = Mat::from_fn(f, COLUMNS, |_, _| rng.normal());
    let a = Mat::from_fn(f, f, |i, j| if i == j { f as f64 } else { 0.5 });
    let mut row = |name: &str, took: [f64; 2]| {
        let work = (f * f) as f64 * (f as f64 / 3.0 + 2.0 * COLUMNS as f64);
        let what = [name.to_owned(), format!("{f} × {f}, {COLUMNS} columns")];
        rows.push(Row::new("solves", what, took, (work, Unit::Flop), None));
    };
    let host = Precision::F64.into();
    let whole = time(&host, sizes.seconds, || {
        with_solver(compute, |by| {
            let x = by(System { a: a.clone(), k: None, b: Rhs::Keys(&b) });
            assert!(x.is_some(), "a matrix that is positive definite");
        });
    });
    row("system", whole);
    let own = compute.own();
    let ways = [("factor and solve", Some(compute)), ("factor and solve, own", own.as_ref())];
    for (name, compute) in ways {
        let Some(engine) = compute.and_then(Compute::engine) else { continue };
        let up = |m: &Mat<f64>| {
            let all: Vec<f64> = m.col_iter().flat_map(|c| c.iter().copied()).collect();
            or_unwind(engine.upload(Elem::F64, bytemuck::cast_slice(&all)))
        };
        let (a, b) = (up(&a), up(&b));
        let [mut l, mut x] = [&a, &b].map(|m| or_unwind(engine.array(Elem::F64, m.len())));
        let systems = Systems { count: COLUMNS, down: 1, across: f };
        let took = time(&engine.clone().into(), sizes.seconds, || {
            l.copy(0, &a, 0..a.len());
            x.copy(0, &b, 0..b.len());
            let pivot = cholesky::divide(engine, &mut l, Triangle { n: f, ld: f }, &mut x, systems);
            assert!(pivot.is_none(), "a matrix that is positive definite");
        });
        row(name, took);
    }
}

/// (A + KKᵀ)X = KRᵀ for more facts than D, as an edit of thousands solves it in each layer: with
/// all that goes to a device and back.
fn of_facts(compute: &Compute, sizes: Sizes, [d, f]: [usize; 2], rows: &mut Vec<Row>) {
    let n = d * 5 / 2;
    let some = |rows, cols, of: usize| {
        Mat::from_fn(rows, cols, |i, j| ((i * 31 + j * 17) % of) as f64 / of as f64 - 0.5)
    };
    let (k, r) = (some(f, n, 1009), some(d, n, 997));
    let a = Mat::from_fn(f, f, |i, j| if i == j { f as f64 } else { 0.5 });
    let took = time(&Precision::F64.into(), sizes.seconds, || {
        with_solver(compute, |by| {
            let x = by(System { a: a.clone(), k: Some(&k), b: Rhs::Product(&k, &r) });
            assert!(x.is_some(), "a matrix that is positive definite");
        });
    });
    let [f64s, n64, d64] = [f, n, d].map(|x| x as f64);
    let work = f64s * f64s * (n64 + f64s / 3.0 + 2.0 * d64) + 2.0 * f64s * n64 * d64;
    let what = [format!("system of {n} facts"), format!("{f} × {f}, {d} columns")];
    rows.push(Row::new("solves", what, took, (work, Unit::Flop), None));
}
