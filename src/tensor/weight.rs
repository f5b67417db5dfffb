//! A frozen matrix W (out, in), read where the checkpoint stores it.
//!
//! Whatever the file holds (F32, F16, BF16; (out, in) or (in, out); q, k and v in one tensor, one
//! after the other or head by head), a `Weight` is described once by type, first element, two
//! strides and a gap between blocks of rows, never copied as a whole: products ask for panels, and
//! a panel in another type is widened as it is used. So a model in bf16 runs in the memory its
//! file takes.

use std::ops::Range;
use std::sync::Arc;

use crate::base::{DType, Float};

/// How a checkpoint stores a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (out, in), as `nn.Linear` does.
    OutIn,
    /// (in, out), as GPT-2's `Conv1D` does.
    InOut,
}

/// Bytes that stay valid while someone holds them: a range of a mapped file.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

#[derive(Clone)]
enum Source {
    Stored(DType, Shared),
    F32(Arc<Vec<f32>>),
    F64(Arc<Vec<f64>>),
}

/// A frozen matrix W (out, in).
#[derive(Clone)]
pub struct Weight {
    source: Source,
    rows: usize, // out
    cols: usize, // in
    first: usize,
    row_stride: usize,
    col_stride: usize,
    block: usize, // rows that lie row_stride apart …
    gap: usize,   // … and elements left out after so many
}

/// A block of a weight in the type of the computation.
pub struct Panel<'a, T> {
    /// Element (i, j) is `data[i * row_stride + j * col_stride]`.
    pub data: &'a [T],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl Weight {
    /// A stored matrix of (out, in).
    pub fn stored(bytes: Shared, dtype: DType, layout: Layout, [rows, cols]: [usize; 2]) -> Weight {
        let have = (*bytes).as_ref().len();
        assert_eq!(have, rows * cols * dtype.size(), "Weight: bytes do not fit the shape");
        let (row_stride, col_stride) = match layout {
            Layout::OutIn => (cols, 1),
            Layout::InOut => (1, rows),
        };
        let source = Source::Stored(dtype, bytes);
        Weight { source, rows, cols, first: 0, row_stride, col_stride, block: rows.max(1), gap: 0 }
    }

    /// Some of its rows.
    pub fn slice(&self, rows: Range<usize>) -> Weight {
        assert!(rows.end <= self.rows, "Weight: rows outside the matrix");
        assert_eq!(self.gap, 0, "Weight: rows of blocks of rows");
        let first = self.first + rows.start * self.row_stride;
        Weight { rows: rows.len(), first, block: rows.len().max(1), ..self.clone() }
    }

    /// The rows `rows` of every `period`: where heads lie side by side, the same part of each.
    pub fn every(&self, rows: Range<usize>, period: usize) -> Weight {
        assert!(rows.end <= period && self.rows.is_multiple_of(period), "Weight: no such blocks");
        assert_eq!(self.gap, 0, "Weight: blocks of blocks of rows");
        let first = self.first + rows.start * self.row_stride;
        let gap = (period - rows.len()) * self.row_stride;
        let all = self.rows / period * rows.len();
        Weight { rows: all, first, block: rows.len(), gap, ..self.clone() }
    }

    /// A matrix of our own, (out, in) row-major.
    pub fn dense_f32(values: Vec<f32>, rows: usize, cols: usize) -> Weight {
        assert_eq!(values.len(), rows * cols, "Weight: values do not fit the shape");
        let source = Source::F32(Arc::new(values));
        Weight {
            source,
            rows,
            cols,
            first: 0,
            row_stride: cols,
            col_stride: 1,
            block: rows.max(1),
            gap: 0,
        }
    }

    /// A matrix of our own in double precision, (out, in) row-major.
    pub fn dense_f64(values: Vec<f64>, rows: usize, cols: usize) -> Weight {
        assert_eq!(values.len(), rows * cols, "Weight: values do not fit the shape");
        let source = Source::F64(Arc::new(values));
        Weight {
            source,
            rows,
            cols,
            first: 0,
            row_stride: cols,
            col_stride: 1,
            block: rows.max(1),
            gap: 0,
        }
    }

    /// (out, in).
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// W[rows, cols] in type `T`: in place where it is stored so, else widened into `scratch`.
    pub fn panel<'a, T: Float>(
        &'a self,
        rows: Range<usize>,
        cols: Range<usize>,
        scratch: &'a mut Vec<T>,
    ) -> Panel<'a, T> {
        let at = |row: usize, col: usize| {
            let skipped = row / self.block * self.gap;
            self.first + row * self.row_stride + skipped + col * self.col_stride
        };
        let (row_stride, col_stride) = (self.row_stride, self.col_stride);
        let one_block =
            self.gap == 0 || rows.start / self.block == rows.end.saturating_sub(1) / self.block;
        let whole: Option<&[T]> = match &self.source {
            Source::Stored(DType::F32, b) if size_of::<T>() == 4 => {
                bytemuck::try_cast_slice((**b).as_ref()).ok()
            }
            Source::F32(v) if size_of::<T>() == 4 => Some(bytemuck::cast_slice(v)),
            Source::F64(v) if size_of::<T>() == 8 => Some(bytemuck::cast_slice(v)),
            _ => None,
        };
        if let Some(whole) = whole.filter(|_| one_block) {
            return Panel { data: &whole[at(rows.start, cols.start)..], row_stride, col_stride };
        }
        // Runs of stored neighbours: rows of an (out, in) matrix, columns of an (in, out) one.
        let (high, wide) = (rows.len(), cols.len());
        scratch.resize(high * wide, T::default());
        if col_stride == 1 {
            for (row, out) in rows.zip(scratch.chunks_exact_mut(wide.max(1))) {
                self.read(at(row, cols.start), out);
            }
            return Panel { data: scratch, row_stride: wide, col_stride: 1 };
        }
        assert!(one_block, "Weight: blocks of rows of an (in, out) matrix");
        for (col, out) in cols.zip(scratch.chunks_exact_mut(high.max(1))) {
            self.read(at(rows.start, col), out);
        }
        Panel { data: scratch, row_stride: 1, col_stride: high }
    }

    /// Row `i`, widened.
    pub fn row<T: Float>(&self, i: usize, out: &mut [T]) {
        assert_eq!(out.len(), self.cols, "Weight::row: output of another width");
        let mut scratch = Vec::new();
        let panel = self.panel(i..i + 1, 0..self.cols, &mut scratch);
        for (j, o) in out.iter_mut().enumerate() {
            *o = panel.data[j * panel.col_stride];
        }
    }

    /// The whole matrix, (out, in) row-major.
    pub fn to_dense<T: Float>(&self) -> Vec<T> {
        let mut all = vec![T::default(); self.rows * self.cols];
        for (i, row) in all.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.row(i, row);
        }
        all
    }

    /// `out.len()` stored neighbours from element `at` on.
    fn read<T: Float>(&self, at: usize, out: &mut [T]) {
        let n = out.len();
        match &self.source {
            Source::Stored(dtype, b) => {
                let size = dtype.size();
                dtype.widen(&(**b).as_ref()[at * size..][..n * size], out);
            }
            Source::F32(v) => {
                out.iter_mut().zip(&v[at..]).for_each(|(o, &x)| *o = T::from_f32(x));
            }
            Source::F64(v) => out.iter_mut().zip(&v[at..]).for_each(|(o, &x)| *o = T::of(x)),
        }
    }
}
