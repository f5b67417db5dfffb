//! A quantised tensor as a grid: each element has the codes of its type, on the scale and offset
//! that its group has in the file. Rounding to it changes codes only.

use half::f16;

use crate::linalg::nearest_plane::CodeGrid;
use crate::store::gguf::{BlockGrid, BlockType, Step};

/// What tensors of fewer bits may be raised to.
pub const RAISED: &str = "Q8_0";
/// Elements of its block.
const RAISED_BLOCK: usize = 32;

/// Blocks of [`RAISED`] whose scales reach some values, with the nearest codes; `None` where a row
/// of `inner` elements is no whole blocks, or half precision does not hold a scale.
///
/// ```text
/// d = max|x|/127 of a block, in half precision       code = x/d, within ±127
/// ```
pub fn raised(values: &[f64], inner: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() / RAISED_BLOCK * 34);
    for block in values.chunks(RAISED_BLOCK) {
        let most = block.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let d = f16::from_f64(most / 127.0);
        bytes.extend(d.to_le_bytes());
        let d = f64::from(d);
        if !d.is_finite() {
            return None;
        }
        bytes.extend(block.iter().map(|x| match d == 0.0 {
            true => 0,
            false => (x / d).round().clamp(-127.0, 127.0) as i8 as u8,
        }));
    }
    inner.is_multiple_of(RAISED_BLOCK).then_some(bytes)
}

/// The blocks of a tensor (out, in), read.
pub struct TensorGrid {
    of: &'static BlockGrid,
    inner: usize,
    steps: Vec<Step>, // one a group, row by row
    codes: Vec<i8>,   // (out, in) as in the file
    ends: [f64; 2],   // the least and the largest code
}

impl TensorGrid {
    /// Reads whole rows of `inner` elements; `None` where the type has no grid.
    pub fn read(kind: &'static BlockType, inner: usize, bytes: &[u8]) -> Option<TensorGrid> {
        let of = kind.grid()?;
        let blocks = bytes.len() / of.bytes;
        let mut steps = vec![Step::default(); blocks * of.groups()];
        let mut codes = vec![0; blocks * of.elements];
        let parts = steps.chunks_exact_mut(of.groups()).zip(codes.chunks_exact_mut(of.elements));
        for (block, (steps, codes)) in bytes.chunks_exact(of.bytes).zip(parts) {
            of.read(block, steps, codes);
        }
        let ends = of.codes();
        let ends = [ends.start(), ends.end()].map(|&end| f64::from(end));
        Some(TensorGrid { of, inner, steps, codes, ends })
    }

    fn step(&self, row: usize, column: usize) -> Step {
        self.steps[(row * self.inner + column) / self.of.group]
    }

    /// The blocks with other codes, as the file has them.
    ///
    /// # Panics
    ///
    /// Where there are not as many codes as elements, or one is none of the type's.
    pub fn with_codes(&self, original: &[u8], codes: &[i16]) -> Vec<u8> {
        assert_eq!(codes.len(), self.codes.len(), "TensorGrid: codes of the tensor");
        let mut bytes = original.to_vec();
        let blocks = bytes.chunks_exact_mut(self.of.bytes);
        for (block, codes) in blocks.zip(codes.chunks_exact(self.of.elements)) {
            let codes: Vec<i8> = codes.iter().map(|&code| code as i8).collect();
            self.of.put_codes(block, &codes);
        }
        bytes
    }

    /// The share of codes that are others now, and the share that the end of the grid holds back:
    /// what was wanted there lies more than half a code beyond it.
    pub fn shares(&self, codes: &[i16], wanted: &[f64]) -> [f64; 2] {
        let all = codes.len().max(1) as f64;
        let changed = codes.iter().zip(&self.codes).filter(|(new, old)| **new != i16::from(**old));
        let beyond = wanted.iter().enumerate().filter(|&(i, &x)| {
            let Step { scale, offset } = self.step(0, i);
            let code = (x - f64::from(offset)) / f64::from(scale);
            scale != 0.0 && (code < self.ends[0] - 0.5 || code > self.ends[1] + 0.5)
        });
        [changed.count() as f64 / all, beyond.count() as f64 / all]
    }
}

impl CodeGrid for TensorGrid {
    /// Where a group has no scale, all codes have one value, and the file's stays.
    fn nearest(&self, row: usize, column: usize, x: f64) -> i16 {
        let Step { scale, offset } = self.step(row, column);
        let old = self.codes[row * self.inner + column];
        if scale == 0.0 || x == self.value(row, column, old.into()) {
            return old.into();
        }
        let code = (x - f64::from(offset)) / f64::from(scale);
        code.round().clamp(self.ends[0], self.ends[1]) as i16
    }

    fn value(&self, row: usize, column: usize, code: i16) -> f64 {
        self.step(row, column).value(code as i8).into()
    }
}
