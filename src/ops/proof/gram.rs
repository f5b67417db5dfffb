//! Key second moments: `kernels/gram_mma.cu`, exact on whole numbers.
//!
//! ```text
//! part += Kᵀ K − lo(K)ᵀ lo(K)     total += part, part = 0      the lower triangles; the rest stays
//! ```

use super::numbers::{EXACT, factor, low, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::kernels::gram_mma::RUN;
use crate::gpu::launch::Elem;
use crate::ops::cpu::gram::{accumulate, packed_len};
use crate::ops::cuda::gram;

/// A tile of 128 rows and columns and a run of 128 tokens are crossed; in whole packs and not. Then
/// three runs and a bit.
const SIZES: [[usize; 2]; 3] = [[130, 137], [133, 144], [3 * RUN + 5, 24]];

/// `gram_add` and `gram_flush`.
pub fn moments(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    SIZES.into_iter().try_for_each(|[n, f]| add(engine, elem, n, f))?;
    // The flush knows no elem, and is the first type's.
    let flushed = if elem == Elem::F32 { &SIZES[..] } else { &[] };
    flushed.iter().try_for_each(|[_, f]| flush(engine, *f))
}

fn add(engine: &Engine, elem: Elem, n: usize, f: usize) -> Verdict {
    let mut trial = Trial::new(engine, format!("N {n}, F {f}"));
    let mut k = factor(1, n * f, elem);
    // Of more tokens fewer have numbers of two parts, so that squares are summed exactly.
    let small = k.chunks_mut(f).enumerate().filter(|(i, _)| n > 2 * RUN && i % 3 > 0);
    small.flat_map(|(_, row)| row).for_each(|k| *k %= 5.0);
    let start = whole(2, f * f, 1000);
    let mut want = start.clone();
    let products = lower(&k, f);
    let left_out = lower(&low(&k), f);
    for (i, j) in (0..f).flat_map(|i| (0..=i).map(move |j| (i, j))) {
        want[i * f + j] += products[packed_len(i) + j] - left_out[packed_len(i) + j];
    }
    let k = trial.input("k", elem, &k);
    let mut part = trial.inout("part", Elem::F32, &start);
    trial.run("gram_add", || gram::add(engine, k.read(), [n, f], &mut part))?;
    trial.equal("gram_add", &part, &[f, f], &want)
}

/// KᵀK by the definition, packed.
fn lower(k: &[f64], f: usize) -> Vec<f64> {
    let product = |k: &[f64]| {
        let mut total = vec![0.0; packed_len(f)];
        accumulate(k, f, &mut total);
        total
    };
    let sizes: Vec<f64> = k.iter().map(|k| k.abs()).collect();
    let largest = product(&sizes).into_iter().fold(0.0, f64::max);
    assert!(largest < EXACT, "sums up to {largest} are not exact");
    product(k)
}

fn flush(engine: &Engine, f: usize) -> Verdict {
    let mut trial = Trial::new(engine, format!("F {f}"));
    let [sums, totals] = [whole(3, f * f, 1 << 20), whole(4, f * f, 1 << 40)];
    let [mut part_after, mut total_after] = [sums.clone(), totals.clone()];
    for (i, j) in (0..f).flat_map(|i| (0..=i).map(move |j| (i, j))) {
        total_after[i * f + j] += sums[i * f + j];
        part_after[i * f + j] = 0.0;
    }
    let mut part = trial.inout("part", Elem::F32, &sums);
    let mut total = trial.inout("total", Elem::F64, &totals);
    trial.run("gram_flush", || gram::flush(engine, f, &mut part, &mut total))?;
    trial.equal("gram_flush", &part, &[f, f], &part_after)?;
    trial.equal("gram_flush", &total, &[f, f], &total_after)
}
