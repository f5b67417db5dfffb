//! The types that a tensor of a GGUF file may have, a row each.
//!
//! A tensor is blocks end to end; a row of it is whole blocks. A type we do not read is here for
//! its size: files mix types, and where the next tensor begins must be known. Q8_1 and Q8_K are of
//! intermediate results and are in no file.

use super::grid::{BlockGrid, Plane};
use super::steps;
use crate::base::DType;

/// A type of block.
#[derive(Debug)]
pub struct BlockType {
    /// Its number in the file.
    pub id: u32,
    /// Its name in llama.cpp.
    pub name: &'static str,
    /// Elements of a block.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// What is in a block.
    pub content: Content,
}

/// What is in a block.
#[derive(Debug)]
pub enum Content {
    /// One element, as it is.
    Plain(DType),
    /// Codes on a grid.
    Grid(BlockGrid),
    /// What we do not read.
    Other,
}

impl PartialEq for BlockType {
    fn eq(&self, other: &BlockType) -> bool {
        self.id == other.id
    }
}

impl BlockType {
    /// The type of that number.
    pub fn by_id(id: u32) -> Option<&'static BlockType> {
        TYPES.iter().find(|of| of.id == id)
    }

    /// The type of that name.
    pub fn by_name(name: &str) -> Option<&'static BlockType> {
        TYPES.iter().find(|of| of.name == name)
    }

    /// Its grid, if it has one.
    pub fn grid(&self) -> Option<&BlockGrid> {
        if let Content::Grid(grid) = &self.content { Some(grid) } else { None }
    }

    /// The names of the types whose values are read.
    pub fn read_names() -> impl Iterator<Item = &'static str> {
        let is_read = |of: &&BlockType| !matches!(of.content, Content::Other);
        TYPES.iter().filter(is_read).map(|of| of.name)
    }

    /// Bytes of a tensor of so many elements, outermost first: `None` where its rows are no whole
    /// blocks, or the size overflows.
    pub fn size(&self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        let elements = shape.iter().copied().try_fold(1, usize::checked_mul)?;
        let blocks = row.is_multiple_of(self.elements).then_some(elements / self.elements)?;
        blocks.checked_mul(self.bytes)
    }

    /// The values of whole blocks; `false`, and nothing is written, where the type is not read.
    ///
    /// # Panics
    ///
    /// Where `out` has not as many elements as the blocks.
    pub fn values(&self, blocks: &[u8], out: &mut [f32]) -> bool {
        match &self.content {
            Content::Plain(dtype) => dtype.widen(blocks, out),
            Content::Grid(grid) => grid.values(blocks, out),
            Content::Other => return false,
        }
        true
    }
}

const fn plain(id: u32, name: &'static str, bytes: usize, dtype: DType) -> BlockType {
    BlockType { id, name, elements: 1, bytes, content: Content::Plain(dtype) }
}

const fn grid(id: u32, name: &'static str, grid: BlockGrid) -> BlockType {
    BlockType { id, name, elements: grid.elements, bytes: grid.bytes, content: Content::Grid(grid) }
}

const fn other(id: u32, name: &'static str, elements: usize, bytes: usize) -> BlockType {
    BlockType { id, name, elements, bytes, content: Content::Other }
}

const fn plane(start: usize, bits: usize, stride: usize) -> Plane {
    Plane { start, bits, stride }
}

const Q4_0: BlockGrid = BlockGrid {
    elements: 32,
    bytes: 18,
    group: 32,
    planes: &[plane(2, 4, 16)],
    flip: 0,
    bias: 8,
    steps: steps::scale,
};
const Q4_1: BlockGrid = BlockGrid {
    bytes: 20,
    planes: &[plane(4, 4, 16)],
    bias: 0,
    steps: steps::scale_and_offset,
    ..Q4_0
};
const Q5_0: BlockGrid =
    BlockGrid { bytes: 22, planes: &[plane(6, 4, 16), plane(2, 1, 1)], bias: 16, ..Q4_0 };
const Q5_1: BlockGrid = BlockGrid { bytes: 24, planes: &[plane(8, 4, 16), plane(4, 1, 1)], ..Q4_1 };
/// A code is a byte with a sign, which is 128 less than the byte with its highest bit turned.
const Q8_0: BlockGrid =
    BlockGrid { bytes: 34, planes: &[plane(2, 8, 32)], flip: 128, bias: 128, ..Q4_0 };
const Q2_K: BlockGrid = BlockGrid {
    elements: 256,
    bytes: 84,
    group: 16,
    planes: &[plane(16, 2, 32)],
    flip: 0,
    bias: 0,
    steps: steps::q2_k,
};
/// The upper bit is stored as 1 where nothing is subtracted, so that the code is 4 less than all
/// three bits.
const Q3_K: BlockGrid = BlockGrid {
    bytes: 110,
    planes: &[plane(32, 2, 32), plane(0, 1, 32)],
    bias: 4,
    steps: steps::q3_k,
    ..Q2_K
};
const Q4_K: BlockGrid =
    BlockGrid { bytes: 144, group: 32, planes: &[plane(16, 4, 32)], steps: steps::q45_k, ..Q2_K };
const Q5_K: BlockGrid =
    BlockGrid { bytes: 176, planes: &[plane(48, 4, 32), plane(16, 1, 32)], ..Q4_K };
const Q6_K: BlockGrid = BlockGrid {
    bytes: 210,
    planes: &[plane(0, 4, 64), plane(128, 2, 32)],
    bias: 32,
    steps: steps::q6_k,
    ..Q2_K
};

static TYPES: [BlockType; 32] = [
    plain(0, "F32", 4, DType::F32),
    plain(1, "F16", 2, DType::F16),
    plain(30, "BF16", 2, DType::BF16),
    grid(2, "Q4_0", Q4_0),
    grid(3, "Q4_1", Q4_1),
    grid(6, "Q5_0", Q5_0),
    grid(7, "Q5_1", Q5_1),
    grid(8, "Q8_0", Q8_0),
    grid(10, "Q2_K", Q2_K),
    grid(11, "Q3_K", Q3_K),
    grid(12, "Q4_K", Q4_K),
    grid(13, "Q5_K", Q5_K),
    grid(14, "Q6_K", Q6_K),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(29, "IQ1_M", 256, 56),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    other(39, "MXFP4", 32, 17),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
];
