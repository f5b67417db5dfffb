//! Launches of `kernels/update.cu`.

use std::ops::Range;

use crate::base::fits;
use crate::gpu::kernels::update::{SIDE, THREADS, Update};
use crate::gpu::launch::{Elem, Grid};
use crate::gpu::{Array, Engine};
use crate::ops::update::Sums;

/// What is added to a matrix (rows, cols) as it is stored.
pub struct Factors {
    left: Array,  // (rows, R)
    right: Array, // (cols, R)
    sides: [usize; 2],
}

impl Factors {
    /// left (rows, R) and right (cols, R) on a device. One without room unwinds.
    pub fn new(engine: &Engine, sides: [usize; 2], factors: [&[f32]; 2]) -> Factors {
        let up = |x: &[f32]| fits(engine.upload(Elem::F32, bytemuck::cast_slice(x)));
        let [left, right] = factors.map(up);
        Factors { left, right, sides }
    }

    /// new = some rows, whose bytes are `original`, + left rightᵀ, rounded once.
    pub fn add(&self, original: &[u8], elem: Elem, rows: Range<usize>, new: &mut [u8]) -> Sums {
        let ([all, cols], n, engine) = (self.sides, rows.len(), self.left.engine());
        if n * cols == 0 {
            return Sums::default();
        }
        let r = self.left.len() / all;
        let blocks = n.div_ceil(SIDE) * cols.div_ceil(SIDE);
        let w = fits(engine.upload(elem, original));
        let mut now = fits(engine.array(elem, n * cols));
        let mut sums = fits(engine.array(Elem::F64, 4 * blocks));
        Update {
            left: self.left.place().part(rows.start * r, n * r).into(),
            right: self.right.read(),
            R: r as i32,
            rows: n as i32,
            cols: cols as i32,
            w: w.read(),
            now: now.write(),
            sums: sums.write(),
        }
        .launch(engine, Grid::line(blocks, THREADS as u32));
        new.copy_from_slice(&now.download());
        let sums = sums.download();
        let total = |part: usize| -> f64 {
            let of = |block: &[u8]| bytemuck::pod_read_unaligned::<[f64; 4]>(block)[part];
            sums.chunks_exact(size_of::<[f64; 4]>()).map(of).sum()
        };
        let overflowed = total(3) as usize;
        Sums { weight: total(0), wanted: total(1), lost: total(2), overflowed }
    }
}
