//! What the machine can do: the rate of a copy, and that of large products.

use super::{Row, Sizes, Unit, time};
use crate::base::{DType, Error, Operation, Remedy, Result, Rng};
use crate::ops::linear;
use crate::tensor::{Compute, Layout, Tensor, Weight};

/// The limits that other rows are held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes a second, read and written.
    pub copy: f64,
    /// FLOP a second, the best of all products so far.
    pub product: f64,
}

/// Measures both.
///
/// # Errors
///
/// A product whose answer is wrong.
pub fn measure(compute: &Compute, sizes: Sizes, rows: &mut Vec<Row>) -> Result<Limits> {
    let n = sizes.bytes / 8;
    let (from, mut to) = (Tensor::zeros(compute, &[n]), Tensor::zeros(compute, &[n]));
    let took = time(compute, sizes.seconds, || to.copy_from(&from));
    let row = |name: &str, shape: String, took: [f64; 2], work: f64, unit| {
        Row::new("limits", [name.to_owned(), shape], took, (work, unit), None)
    };
    rows.push(row("copy", format!("{n}"), took, (8 * n) as f64, Unit::Bytes));
    let mut limits = Limits { copy: rows[rows.len() - 1].rate(), product: 0.0 };
    let side = sizes.side;
    for dtype in [DType::BF16, DType::F32] {
        let took = product(compute, dtype, [side; 3], sizes.seconds)?;
        let flop = 2.0 * (side as f64).powi(3);
        let name = format!("product with {}", dtype.name());
        rows.push(row(&name, format!("{side} × {side} × {side}"), took, flop, Unit::Flop));
        limits.product = limits.product.max(rows[rows.len() - 1].rate());
    }
    Ok(limits)
}

/// The time of y (N, out) = x (N, in) Wᵀ, once its answer is right.
///
/// # Errors
///
/// An answer that is wrong.
pub fn product(
    compute: &Compute,
    dtype: DType,
    [n, out, inner]: [usize; 3],
    seconds: f64,
) -> Result<[f64; 2]> {
    let mut rng = Rng::new(0, "products of a benchmark");
    // Some numbers, over and over: a prime of them, so that no two rows are alike.
    let mut draw = |len: usize| -> Vec<f64> {
        let some: Vec<f64> = (0..len.min(10_007)).map(|_| rng.normal()).collect();
        some.into_iter().cycle().take(len).collect()
    };
    let (values, x) = (draw(out * inner), draw(n * inner));
    let mut bytes = Vec::new();
    dtype.narrow(&values, &mut bytes);
    let w = Weight::stored(std::sync::Arc::new(bytes), dtype, Layout::OutIn, [out, inner]);
    let x = Tensor::of(compute, &[n, inner], &x);
    let mut y = Tensor::zeros(compute, &[n, out]);
    let took = time(compute, seconds, || linear::forward(&x, &w, None, &mut y));
    right(&x, &w, &y)?;
    Ok(took)
}

/// ⟨u, y v⟩ = ⟨xᵀu, Wᵀv⟩ for random signs u and v, both in f64: the same sum of N·out·in terms, of
/// which a wrong one shows. Products round each factor to 2⁻¹⁷ at worst and add in f32.
fn right(x: &Tensor, w: &Weight, y: &Tensor) -> Result<()> {
    let ([n, inner], [out, _]) = (x.dims(), w.dims());
    let mut rng = Rng::new(1, "projections of a benchmark");
    let mut signs = |len: usize| -> Vec<f64> {
        (0..len).map(|_| if rng.bits() & 1 == 0 { 1.0 } else { -1.0 }).collect()
    };
    let (u, v) = (signs(n), signs(out));
    let sum = |rows: &[f64], width: usize, by: &[f64]| {
        let mut all = vec![0.0; width];
        for (row, by) in rows.chunks(width).zip(by) {
            all.iter_mut().zip(row).for_each(|(a, x)| *a += by * x);
        }
        all
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (xu, wv) = (sum(&x.to_f64(), inner, &u), sum(&w.to_dense::<f64>(), inner, &v));
    let (want, got) = (dot(&xu, &wv), dot(&sum(&y.to_f64(), out, &u), &v));
    // Rounding of a sum of `inner` products of unit size is at most 2⁻¹⁶ of each, of random sign
    // over all N·out sums; eight deviations.
    let budget = 8.0 * f64::powi(2.0, -16) * ((n * out) as f64).sqrt() * inner as f64;
    if (got - want).abs() <= budget {
        return Ok(());
    }
    let what = format!("a product of {n} × {inner} and {out} × {inner} is wrong: {got} ≠ {want}");
    let remedy = Remedy::from("report it, with what the machine offers");
    Err(Error::numeric(what, remedy.operation(Operation::Doctor)))
}
