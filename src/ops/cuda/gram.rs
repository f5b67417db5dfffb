//! Launches of `kernels/gram_mma.cu`.

use crate::base::or_unwind;
pub use crate::gpu::kernels::gram_mma::FLUSH;
use crate::gpu::kernels::gram_mma::{GramAdd, GramFlush, SIDE, THREADS};
use crate::gpu::launch::{Elem, Grid, In, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::gram::packed_len;

/// part (F, F) f32 += KᵀK of k (N, F), N at most [`FLUSH`]; the lower triangle. It reads and writes
/// all of part: some thousand tokens at once are fast.
pub fn add(engine: &Engine, k: In, [n, f]: [usize; 2], part: &mut Array) {
    assert!(n <= FLUSH, "gram: {n} tokens at once lose digits");
    let tiles = f.div_ceil(SIDE);
    let grid = Grid::of([tiles, tiles, 1], THREADS);
    GramAdd { k, N: int(n), F: int(f), part: part.update() }.launch(engine, grid);
}

/// total (F, F) f64 += part, part = 0; after at most [`FLUSH`] tokens.
pub fn flush(engine: &Engine, f: usize, part: &mut Array, total: &mut Array) {
    GramFlush { F: int(f), part: part.update(), total: total.update() }
        .launch(engine, Grid::each(f * f, THREADS));
}

/// Totals (F, F) f64 on a device, the lower triangle, and the f32 sums that wait to join them.
pub struct DeviceTotals {
    engine: Engine,
    f: usize,
    part: Array,
    total: Array,
    waiting: usize, // tokens in `part`
}

impl DeviceTotals {
    /// Goes on from packed totals.
    pub fn new(engine: &Engine, f: usize, packed: &[f64]) -> DeviceTotals {
        let mut square = vec![0.0; f * f];
        for i in 0..f {
            square[i * f..][..i + 1].copy_from_slice(&packed[packed_len(i)..packed_len(i + 1)]);
        }
        let mut part = or_unwind(engine.array(Elem::F32, 0));
        or_unwind(part.resize(f * f));
        let total = or_unwind(engine.upload(Elem::F64, bytemuck::cast_slice(&square)));
        DeviceTotals { engine: engine.clone(), f, part, total, waiting: 0 }
    }

    /// Adds the keys k (N, F).
    pub fn add(&mut self, k: &Array) {
        let f = self.f;
        let mut from = 0;
        while from < k.len() / f {
            let n = (k.len() / f - from).min(FLUSH - self.waiting);
            let rows = k.slice().part(from * f, n * f);
            add(&self.engine, rows.into(), [n, f], &mut self.part);
            (from, self.waiting) = (from + n, self.waiting + n);
            if self.waiting == FLUSH {
                self.settle();
            }
        }
    }

    /// Lets what waits join the totals.
    pub fn settle(&mut self) {
        flush(&self.engine, self.f, &mut self.part, &mut self.total);
        self.waiting = 0;
    }

    /// Whether no sum waits.
    pub fn settled(&self) -> bool {
        self.waiting == 0
    }

    /// The totals, packed.
    pub fn packed(&mut self) -> Vec<f64> {
        self.settle();
        let row = |i: usize| self.total.download_part(i * self.f..i * self.f + i + 1);
        let number = |b: &[u8; 8]| f64::from_le_bytes(*b);
        let wide = |bytes: Vec<u8>| bytes.as_chunks::<8>().0.iter().map(number).collect::<Vec<_>>();
        (0..self.f).flat_map(|i| wide(row(i))).collect()
    }
}
