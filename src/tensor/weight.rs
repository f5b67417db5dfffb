//! A frozen matrix W (out, in), read where the checkpoint stores it.
//!
//! Whatever the file holds (F32, F16, BF16; (out, in) or (in, out); q, k and v in one tensor, one
//! after the other or head by head), a `Weight` is described once by type, first element, two
//! strides and a gap between blocks of rows, never copied as a whole: products ask for panels, and
//! a panel in another type is widened as it is used. So a model in bf16 runs in the memory its
//! file takes. On a device it is the same elements in the same type, those of other matrices left
//! out, from its first use on. A matrix that is trained is a [`Tensor`] where the model computes.

use std::ops::{Deref, Range};
use std::sync::Arc;

use rayon::prelude::*;

use super::Tensor;
use crate::base::{DType, Float, or_unwind};
use crate::gpu::launch::Elem;
use crate::gpu::weights::WeightSlot;
use crate::gpu::{Array, Engine};

/// Bytes that one core copies at a time on their way to a device.
const PART: usize = 256 << 10;

/// How a checkpoint stores a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (out, in), as `nn.Linear` does.
    OutIn,
    /// (in, out), as GPT-2's `Conv1D` does.
    InOut,
}

/// Bytes that stay valid while someone holds them: a range of a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

#[derive(Clone)]
enum Source {
    Stored(DType, SharedBytes),
    F32(Arc<Vec<f32>>),
    F64(Arc<Vec<f64>>),
    Own(Arc<Tensor>),
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
    block: usize, // rows that are row_stride apart …
    gap: usize,   // … and elements skipped after so many
    slot: Arc<WeightSlot>,
}

/// W (out, in) on a device; element (i, j) is `w[i * row_stride + j * col_stride]`.
pub struct OnDevice {
    /// The elements.
    pub w: DeviceElements,
    /// out.
    pub out: usize,
    /// in.
    pub inner: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

/// Elements of a weight on a device.
pub enum DeviceElements {
    /// Uploaded, for all who share the weight.
    Uploaded(Arc<Array>),
    /// Those of a tensor there.
    Own(Arc<Tensor>),
}

impl Deref for DeviceElements {
    type Target = Array;

    fn deref(&self) -> &Array {
        match self {
            DeviceElements::Uploaded(array) => array,
            DeviceElements::Own(tensor) => tensor.array(),
        }
    }
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
    pub fn stored(
        bytes: SharedBytes,
        dtype: DType,
        layout: Layout,
        [rows, cols]: [usize; 2],
    ) -> Weight {
        let have = (*bytes).as_ref().len();
        assert_eq!(have, rows * cols * dtype.size(), "Weight: bytes do not fit the shape");
        let (row_stride, col_stride) = match layout {
            Layout::OutIn => (cols, 1),
            Layout::InOut => (1, rows),
        };
        let source = Source::Stored(dtype, bytes);
        Weight::of(source, [rows, cols], [row_stride, col_stride])
    }

    fn of(
        source: Source,
        [rows, cols]: [usize; 2],
        [row_stride, col_stride]: [usize; 2],
    ) -> Weight {
        let block = rows.max(1);
        let slot = Arc::default();
        Weight { source, rows, cols, first: 0, row_stride, col_stride, block, gap: 0, slot }
    }

    /// Some of its rows.
    pub fn slice(&self, rows: Range<usize>) -> Weight {
        assert!(rows.end <= self.rows, "Weight: rows outside the matrix");
        assert_eq!(self.gap, 0, "Weight: rows of blocks of rows");
        let first = self.first + rows.start * self.row_stride;
        let rows = rows.len();
        let slot = Arc::default();
        Weight { rows, first, block: rows.max(1), slot, ..self.clone() }
    }

    /// The rows `rows` of every `period`: the same part of each head, where heads are interleaved.
    pub fn every(&self, rows: Range<usize>, period: usize) -> Weight {
        assert!(rows.end <= period && self.rows.is_multiple_of(period), "Weight: no such blocks");
        assert_eq!(self.gap, 0, "Weight: blocks of blocks of rows");
        let first = self.first + rows.start * self.row_stride;
        let gap = (period - rows.len()) * self.row_stride;
        let all = self.rows / period * rows.len();
        let block = rows.len();
        let slot = Arc::default();
        Weight { rows: all, first, block, gap, slot, ..self.clone() }
    }

    /// A matrix of our own, (out, in) row-major.
    pub fn dense_f32(values: Vec<f32>, rows: usize, cols: usize) -> Weight {
        assert_eq!(values.len(), rows * cols, "Weight: values do not fit the shape");
        Weight::of(Source::F32(Arc::new(values)), [rows, cols], [cols, 1])
    }

    /// A matrix of our own in double precision, (out, in) row-major.
    pub fn dense_f64(values: Vec<f64>, rows: usize, cols: usize) -> Weight {
        assert_eq!(values.len(), rows * cols, "Weight: values do not fit the shape");
        Weight::of(Source::F64(Arc::new(values)), [rows, cols], [cols, 1])
    }

    /// A tensor (out, in) where the model computes, which [`own_mut`](Weight::own_mut) may change.
    pub fn own(tensor: Tensor) -> Weight {
        let [rows, cols] = tensor.dims();
        Weight::of(Source::Own(Arc::new(tensor)), [rows, cols], [cols, 1])
    }

    /// The tensor of [`own`](Weight::own), to be changed.
    ///
    /// # Panics
    ///
    /// Where it is another weight's too, or the weight has none.
    pub fn own_mut(&mut self) -> &mut Tensor {
        match &mut self.source {
            Source::Own(tensor) => Arc::get_mut(tensor).expect("a tensor of one weight"),
            _ => panic!("a weight without a tensor of its own"),
        }
    }

    /// The tensor of [`own`](Weight::own).
    ///
    /// # Panics
    ///
    /// Where the weight has none.
    pub fn own_tensor(&self) -> &Tensor {
        match &self.source {
            Source::Own(tensor) => tensor,
            _ => panic!("a weight without a tensor of its own"),
        }
    }

    /// (out, in).
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Its type, sizes and layout: `4096 × 16384 in bf16 by rows`.
    pub fn title(&self) -> String {
        let elem = match &self.source {
            Source::Stored(dtype, _) => Elem::from(dtype).name(),
            Source::F32(_) => "f32",
            Source::F64(_) => "f64",
            Source::Own(tensor) => tensor.precision().name(),
        };
        let lies = if self.col_stride == 1 { "rows" } else { "columns" };
        format!("{} × {} in {elem} by {lies}", self.rows, self.cols)
    }

    /// How many bytes its elements are.
    pub fn bytes(&self) -> u64 {
        let size = match &self.source {
            Source::Stored(dtype, _) => dtype.size(),
            Source::F32(_) => 4,
            Source::F64(_) => 8,
            Source::Own(tensor) => tensor.precision().size(),
        };
        (self.rows * self.cols * size) as u64
    }

    /// W[rows, cols] in type `T`: in place where it is stored so, else widened into `scratch`.
    pub fn panel<'a, T: Float>(
        &'a self,
        rows: Range<usize>,
        cols: Range<usize>,
        scratch: &'a mut Vec<T>,
    ) -> Panel<'a, T> {
        let at = |row, col| self.at(row, col);
        let row_stride = self.row_stride;
        let col_stride = self.col_stride;
        let one_block =
            self.gap == 0 || rows.start / self.block == rows.end.saturating_sub(1) / self.block;
        let whole: Option<&[T]> = match &self.source {
            Source::Stored(DType::F32, b) if size_of::<T>() == 4 => {
                bytemuck::try_cast_slice((**b).as_ref()).ok()
            }
            Source::F32(v) if size_of::<T>() == 4 => Some(bytemuck::cast_slice(v)),
            Source::F64(v) if size_of::<T>() == 8 => Some(bytemuck::cast_slice(v)),
            Source::Own(t) if t.engine().is_none() && t.precision().size() == size_of::<T>() => {
                Some(t.get())
            }
            _ => None,
        };
        if let Some(whole) = whole.filter(|_| one_block) {
            return Panel { data: &whole[at(rows.start, cols.start)..], row_stride, col_stride };
        }
        // Runs of stored neighbours: rows of an (out, in) matrix, columns of an (in, out) one.
        let high = rows.len();
        let wide = cols.len();
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

    /// The matrix on a device, uploaded where it is not there. A device without room unwinds.
    pub fn on(&self, engine: &Engine) -> OnDevice {
        if let Source::Own(tensor) = &self.source {
            let w = DeviceElements::Own(tensor.clone());
            let [out, inner] = self.dims();
            return OnDevice { w, out, inner, row_stride: inner, col_stride: 1 };
        }
        let (elem, bytes): (Elem, &[u8]) = match &self.source {
            Source::Stored(dtype, bytes) => (dtype.into(), (**bytes).as_ref()),
            Source::F32(values) => (Elem::F32, bytemuck::cast_slice(values)),
            Source::F64(_) => panic!("a weight in f64 cannot go to a device"),
            Source::Own(_) => unreachable!("is there"),
        };
        // Runs of neighbours, one after the other: rows, or columns where they are stored so.
        let by_row = self.col_stride == 1;
        let [runs, run] = if by_row { [self.rows, self.cols] } else { [self.cols, self.rows] };
        assert!(by_row || self.rows <= self.block, "Weight: blocks of rows of an (in, out) matrix");
        let size = elem.size();
        let copy = |from: usize, mut piece: &mut [u8]| {
            let mut i = from / (run * size);
            let mut within = from % (run * size);
            while !piece.is_empty() {
                let at = if by_row { self.at(i, 0) } else { self.at(0, i) } * size + within;
                let here = piece.len().min(run * size - within);
                let (now, rest) = piece.split_at_mut(here);
                now.copy_from_slice(&bytes[at..at + here]);
                (piece, i, within) = (rest, i + 1, 0);
            }
        };
        // One core copies slower than a card takes it, and slower still from a file not read yet. A
        // thread of the pool copies alone: waiting for others it would be given other work, while
        // it holds the device.
        let mut fill = |from: usize, piece: &mut [u8]| {
            if rayon::current_thread_index().is_some() {
                return copy(from, piece);
            }
            let parts = piece.par_chunks_mut(PART).enumerate();
            parts.for_each(|(i, part)| copy(from + i * PART, part));
        };
        let w = or_unwind(engine.resident(&self.slot, elem, runs * run, &mut fill));
        let w = DeviceElements::Uploaded(w);
        let [row_stride, col_stride] = if by_row { [self.cols, 1] } else { [1, self.rows] };
        OnDevice { w, out: self.rows, inner: self.cols, row_stride, col_stride }
    }

    /// The stored place of an element.
    fn at(&self, row: usize, col: usize) -> usize {
        let skipped = row / self.block * self.gap;
        self.first + row * self.row_stride + skipped + col * self.col_stride
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
            Source::Own(t) => {
                let all = t.part_f64(at..at + n);
                out.iter_mut().zip(all).for_each(|(o, x)| *o = T::of(x));
            }
        }
    }
}
