//! Changes of stored weights: `kernels/update.cu`, to the bytes that the host gives.

use super::numbers::{decode, encode, hash, whole};
use super::trial::{Trial, Verdict, Wrong};
use crate::base::DType;
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::update::{Stored, Term, update};
use crate::ops::cuda::update::DeviceFactors;
use crate::tensor::Layout;

/// A tile of 64 × 64 and a panel of 16 are crossed.
const ROWS: usize = 70;
const COLS: usize = 75;
const R: usize = 18;
/// Stored rows above those that are changed.
const ABOVE: usize = 3;

/// W, as it is stored, and the factors of its rows, from [`ABOVE`] on, and of its columns.
struct Change {
    w: Vec<f64>,
    rows: Vec<f64>,
    cols: Vec<f64>,
}

/// `update`, of some rows of a matrix, whichever way it lies; what does not fit the type, and what
/// lies all but halfway between two of its numbers.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    changed(engine, elem, Layout::OutIn, &ordinary(elem))?;
    changed(engine, elem, Layout::InOut, &at_the_ends(elem))
}

fn changed(engine: &Engine, elem: Elem, layout: Layout, change: &Change) -> Verdict {
    let (dtype, _) = digits(elem);
    let about = format!("{ROWS} × {COLS}, R {R}, W {layout:?}");
    let mut trial = Trial::new(engine, &*about);
    let before = encode(elem, &change.w);
    let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let (of_rows, of_cols) = (narrow(&change.rows), narrow(&change.cols));
    let (out, inner, left, right) = match layout {
        Layout::OutIn => (ROWS + ABOVE, COLS, &of_rows, &of_cols),
        Layout::InOut => (COLS, ROWS + ABOVE, &of_cols, &of_rows),
    };
    let w = Stored { dtype, layout, out, inner };
    let mut want = vec![0; before.len()];
    let rows = ABOVE..ABOVE + ROWS;
    let term = Term::LowRank { left, right, r: R };
    let sums = update(&before, w, rows.clone(), &[term], &mut want);

    let factors = DeviceFactors::new(engine, w.sides(), [&of_rows, &of_cols]);
    let w = trial.input_bytes("w", elem, &before);
    let mut now = trial.output("now", elem, ROWS * COLS);
    let mut of_tiles = trial.output("sums", Elem::F64, factors.sums(ROWS));
    trial.run("update", || factors.launch(&w, rows.clone(), &mut now, &mut of_tiles))?;
    trial.same_bytes("update", &now, &[ROWS, COLS], &want)?;
    // Sums of as many squares in f64, in another order.
    let got = decode(Elem::F64, trial.bytes(&of_tiles));
    let total = |part: usize| got.iter().skip(part).step_by(4).sum::<f64>();
    for (part, name, want) in [
        (0, "Σ W²", sums.weight),
        (1, "Σ Δ²", sums.wanted),
        (2, "Σ lost²", sums.lost),
        (3, "overflowed", sums.overflowed as f64),
    ] {
        let got = total(part);
        // Each sum is off by a rounding a term at most.
        let bound = (2 * ROWS * COLS) as f64 * f64::EPSILON / 2.0 * want;
        if !(got - want).abs().le(&bound) {
            let what = format!("{name} = {got}, should be {want} ± {bound:.1e}");
            return Err(Wrong { kernel: "update", trial: about, what });
        }
    }
    Ok(())
}

/// A type of weights, and the digits of its numbers.
fn digits(elem: Elem) -> (DType, i32) {
    match elem {
        Elem::BF16 => (DType::BF16, 8),
        Elem::F16 => (DType::F16, 11),
        _ => (DType::F32, 24),
    }
}

/// Of any sign and digits, about as large as the change; some zeros.
fn ordinary(elem: Elem) -> Change {
    let number = |i: usize| {
        let digits = (hash(1, i) >> 40) as f64 / f64::from(1 << 24) - 0.5;
        if i.is_multiple_of(97) { 0.0 } else { digits }
    };
    let factor = |series, n: usize| -> Vec<f64> {
        whole(series, n * R, 1 << 20).iter().map(|x| x / f64::from(1 << 22)).collect()
    };
    Change {
        w: decode(elem, &encode(elem, &(0..ROWS * COLS).map(number).collect::<Vec<_>>())),
        rows: factor(2, ROWS + ABOVE),
        cols: factor(3, COLS),
    }
}

/// The same with two other rows: the largest numbers of the type, of which the change makes some
/// infinite; and numbers beside 1 with a change of half of their last digit and 2⁻⁴⁰ more or less,
/// which two roundings, to f32 and on, would take for a half.
fn at_the_ends(elem: Elem) -> Change {
    let Change { mut w, mut rows, mut cols } = ordinary(elem);
    let (_, digits) = digits(elem);
    let (largest, scale) = match elem {
        Elem::BF16 => (f64::powi(2.0, 128) - f64::powi(2.0, 120), f64::powi(2.0, 126)),
        Elem::F16 => (65_504.0, 4096.0),
        _ => (f64::from(f32::MAX), f64::powi(2.0, 126)),
    };
    w[..COLS].fill(largest);
    rows[ABOVE * R..][..R].iter_mut().for_each(|x| *x *= scale);
    let last = f64::powi(2.0, 1 - digits);
    for (j, (w, of_col)) in w[COLS..].iter_mut().take(COLS).zip(cols.chunks_mut(R)).enumerate() {
        *w = 1.0 + last * (j % 4) as f64;
        let sign = if j % 8 < 4 { 1.0 } else { -1.0 };
        of_col[..2].copy_from_slice(&[last / 2.0, sign * f64::powi(2.0, -20)]);
    }
    let beside = &mut rows[(ABOVE + 1) * R..][..R];
    beside.fill(0.0);
    beside[..2].copy_from_slice(&[1.0, f64::powi(2.0, -20)]);
    Change { w, rows, cols }
}
