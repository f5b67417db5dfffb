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

/// `update`, of some rows of a matrix.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    let dtype = match elem {
        Elem::BF16 => DType::BF16,
        Elem::F16 => DType::F16,
        _ => DType::F32,
    };
    let mut trial = Trial::new(engine, format!("{ROWS} × {COLS}, R {R}"));
    let before = encode(elem, &weights(elem));
    let factor = |series, n: usize| -> Vec<f32> {
        whole(series, n * R, 1 << 20).iter().map(|x| (x / f64::from(1 << 22)) as f32).collect()
    };
    let (above, left, right) = (3, factor(2, ROWS + 3), factor(3, COLS));
    let w = Stored { dtype, layout: Layout::OutIn, out: ROWS + above, inner: COLS };
    let mut want = vec![0; before.len()];
    let rows = above..above + ROWS;
    let term = Term::LowRank { left: &left, right: &right, r: R };
    let sums = update(&before, w, rows.clone(), &[term], &mut want);

    let factors = DeviceFactors::new(engine, w.sides(), [&left, &right]);
    let w = trial.input_bytes("w", elem, &before);
    let mut now = trial.output("now", elem, ROWS * COLS);
    let mut of_tiles = trial.output("sums", Elem::F64, factors.sums(ROWS));
    trial.run("update", || factors.launch(&w, rows.clone(), &mut now, &mut of_tiles))?;
    trial.same_bytes("update", &now, &[ROWS, COLS], &want)?;
    // Sums of as many squares in f64, in another order; what is not finite is not among them.
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
            return Err(Wrong { kernel: "update", trial: format!("R {R}"), what });
        }
    }
    Ok(())
}

/// Of any sign and digits, about as large as the change; some zeros.
fn weights(elem: Elem) -> Vec<f64> {
    let number = |i: usize| {
        let digits = (hash(1, i) >> 40) as f64 / f64::from(1 << 24) - 0.5;
        if i.is_multiple_of(97) { 0.0 } else { digits }
    };
    decode(elem, &encode(elem, &(0..ROWS * COLS).map(number).collect::<Vec<_>>()))
}
