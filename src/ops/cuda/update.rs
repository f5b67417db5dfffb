//! Launches of `kernels/update.cu`.

use std::ops::Range;

use crate::base::or_unwind;
use crate::gpu::kernels::update::{SIDE, THREADS, Update};
use crate::gpu::launch::{Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::update::Sums;

/// What is added to a matrix (rows, cols) as it is stored.
pub struct DeviceFactors {
    left: Array,  // (rows, R)
    right: Array, // (cols, R)
    sides: [usize; 2],
}

impl DeviceFactors {
    /// left (rows, R) and right (cols, R) on a device. One without room unwinds.
    pub fn new(engine: &Engine, sides: [usize; 2], factors: [&[f32]; 2]) -> DeviceFactors {
        let up = |x: &[f32]| or_unwind(engine.upload(Elem::F32, bytemuck::cast_slice(x)));
        let [left, right] = factors.map(up);
        DeviceFactors { left, right, sides }
    }

    /// new = some rows, whose bytes are `original`, + left rightᵀ, rounded once.
    pub fn add(&self, original: &[u8], elem: Elem, rows: Range<usize>, new: &mut [u8]) -> Sums {
        let engine = self.left.engine();
        let w = or_unwind(engine.upload(elem, original));
        let mut now = or_unwind(engine.array(elem, w.len()));
        let mut sums = or_unwind(engine.array(Elem::F64, self.sums(rows.len())));
        self.launch(&w, rows, &mut now, &mut sums);
        new.copy_from_slice(&now.download());
        let sums = sums.download();
        let total = |part: usize| -> f64 {
            let of = |block: &[u8]| bytemuck::pod_read_unaligned::<[f64; 4]>(block)[part];
            sums.chunks_exact(size_of::<[f64; 4]>()).map(of).sum()
        };
        let overflowed = total(3) as usize;
        Sums { weight: total(0), wanted: total(1), lost: total(2), overflowed }
    }

    /// Elements of `sums` that n rows need.
    pub fn sums(&self, n: usize) -> usize {
        4 * n.div_ceil(SIDE) * self.sides[1].div_ceil(SIDE)
    }

    /// now = some rows, of which w holds the elements, + left rightᵀ; and the sums of each tile.
    pub fn launch(&self, w: &Array, rows: Range<usize>, now: &mut Array, sums: &mut Array) {
        let ([all, cols], n, blocks) = (self.sides, rows.len(), sums.len() / 4);
        if blocks == 0 {
            return;
        }
        let r = self.left.len() / all;
        Update {
            left: self.left.slice().part(rows.start * r, n * r).into(),
            right: self.right.read(),
            R: int(r),
            rows: int(n),
            cols: int(cols),
            w: w.read(),
            now: now.write(),
            sums: sums.write(),
        }
        .launch(self.left.engine(), Grid::line(blocks, THREADS));
    }
}
