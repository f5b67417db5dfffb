//! A block of quantised numbers is a grid: element i is
//!
//! ```text
//! value[i] = scale[i / group] · code[i] + offset[i / group]        in f32, one rounding each
//! ```
//!
//! with a whole number `code[i]` of few bits. The elements of a group share one [`Step`]. This is
//! every type of block but the ones with a codebook, and the formula rounds as ggml's does: a type
//! without offsets has the offset −0, to which adding changes no number, not even −0.
//!
//! The bits of the codes lie in [`Plane`]s. A plane has w bits of every element, in bytes that
//! hold 8/w elements each, `stride` apart. With n = stride · 8/w elements a run:
//!
//! ```text
//! element  n·r + stride·s + j   has the bits  w·s … w·s + w − 1  of the byte  start + stride·r + j
//! code     = (the bits of all planes, the first plane's lowest, exclusive-or flip) − bias
//! ```
//!
//! So a type is data, its codes are read and written by the same two loops, and a block with other
//! codes keeps its steps bit for bit.

use std::ops::RangeInclusive;

/// The most elements a block has.
pub const MAX_ELEMENTS: usize = 256;
/// The most groups a block has.
pub const MAX_GROUPS: usize = 16;

/// The grid of a group of elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// The distance of neighbouring codes' values; of either sign, and perhaps 0.
    pub scale: f32,
    /// The value of code 0; −0 where the type has no offsets.
    pub offset: f32,
}

impl Step {
    /// The value of a code, as ggml rounds it.
    pub fn value(self, code: i8) -> f32 {
        self.scale * f32::from(code) + self.offset
    }
}

/// Some bits of every element's code.
#[derive(Clone, Copy, Debug)]
pub struct Plane {
    /// Its first byte in the block.
    pub start: usize,
    /// Bits of an element: 1, 2, 4 or 8.
    pub bits: usize,
    /// How many elements lie side by side before a byte's next bits are used.
    pub stride: usize,
}

/// How a type of block keeps its grid.
#[derive(Debug)]
pub struct BlockGrid {
    /// Elements of a block.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Elements that share a step.
    pub group: usize,
    /// Where the codes are, the lowest bits first.
    pub planes: &'static [Plane],
    /// Bits that are stored the other way round.
    pub flip: u8,
    /// What is stored for code 0, before `flip`.
    pub bias: i16,
    /// Reads the steps of a block's groups.
    pub steps: fn(&[u8], &mut [Step]),
}

impl BlockGrid {
    /// How many groups a block has.
    pub fn groups(&self) -> usize {
        self.elements / self.group
    }

    /// The codes there are.
    pub fn codes(&self) -> RangeInclusive<i16> {
        let bits: usize = self.planes.iter().map(|plane| plane.bits).sum();
        -self.bias..=(1 << bits) - 1 - self.bias
    }

    /// Reads one block: the step of each group, and each element's code.
    ///
    /// # Panics
    ///
    /// Where the sizes are not those of a block.
    pub fn read(&self, block: &[u8], steps: &mut [Step], codes: &mut [i8]) {
        assert_eq!(block.len(), self.bytes, "BlockGrid: bytes of a block");
        assert_eq!(steps.len(), self.groups(), "BlockGrid: steps of a block");
        assert_eq!(codes.len(), self.elements, "BlockGrid: codes of a block");
        (self.steps)(block, steps);
        let (mut stored, mut below) = ([0u8; MAX_ELEMENTS], 0);
        let stored = &mut stored[..self.elements];
        for plane in self.planes {
            let mask = plane.mask();
            plane.runs(self.elements, |elements, bytes, shift| {
                for (code, byte) in stored[elements].iter_mut().zip(&block[bytes]) {
                    *code |= ((byte >> shift) & mask) << below;
                }
            });
            below += plane.bits;
        }
        for (code, &stored) in codes.iter_mut().zip(&*stored) {
            *code = (i16::from(stored ^ self.flip) - self.bias) as i8;
        }
    }

    /// Puts other codes into a block; its steps stay as they are.
    ///
    /// # Panics
    ///
    /// Where the sizes are not those of a block, or a code is none of [`codes`](BlockGrid::codes).
    pub fn put_codes(&self, block: &mut [u8], codes: &[i8]) {
        assert_eq!(block.len(), self.bytes, "BlockGrid: bytes of a block");
        assert_eq!(codes.len(), self.elements, "BlockGrid: codes of a block");
        let range = self.codes();
        let (mut stored, mut below) = ([0u8; MAX_ELEMENTS], 0);
        for (stored, &code) in stored.iter_mut().zip(codes) {
            assert!(range.contains(&code.into()), "BlockGrid: {code} is not in {range:?}");
            *stored = (i16::from(code) + self.bias) as u8 ^ self.flip;
        }
        for plane in self.planes {
            let mask = plane.mask();
            plane.runs(self.elements, |elements, bytes, shift| {
                for (code, byte) in stored[elements].iter().zip(&mut block[bytes]) {
                    *byte = *byte & !(mask << shift) | ((code >> below) & mask) << shift;
                }
            });
            below += plane.bits;
        }
    }

    /// The values of whole blocks, end to end.
    ///
    /// # Panics
    ///
    /// Where `out` has not as many elements as the blocks.
    pub fn values(&self, blocks: &[u8], out: &mut [f32]) {
        let n = blocks.len() / self.bytes;
        assert_eq!(blocks.len(), n * self.bytes, "BlockGrid: whole blocks");
        assert_eq!(out.len(), n * self.elements, "BlockGrid: elements of the blocks");
        let (mut steps, mut codes) = ([Step::default(); MAX_GROUPS], [0; MAX_ELEMENTS]);
        let (steps, codes) = (&mut steps[..self.groups()], &mut codes[..self.elements]);
        let blocks = blocks.chunks_exact(self.bytes);
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.elements)) {
            self.read(block, steps, codes);
            let groups = out.chunks_exact_mut(self.group).zip(codes.chunks_exact(self.group));
            for (step, (out, codes)) in steps.iter().zip(groups) {
                for (value, &code) in out.iter_mut().zip(codes) {
                    *value = step.value(code);
                }
            }
        }
    }
}

impl Plane {
    fn mask(self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }

    /// Calls `each` with elements, their bytes in the block, and how far their bits are shifted.
    fn runs(
        self,
        elements: usize,
        mut each: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>, usize),
    ) {
        let (mut first, mut byte) = (0, self.start);
        while first < elements {
            for shift in (0..8).step_by(self.bits) {
                each(first..first + self.stride, byte..byte + self.stride, shift);
                first += self.stride;
            }
            byte += self.stride;
        }
    }
}
