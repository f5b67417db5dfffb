//! Definition of [`crate::ops::update`].

use std::ops::Range;

use rayon::prelude::*;

use super::lanes::vectorised;
use crate::base::DType;
use crate::tensor::Layout;

/// A matrix W (out, in) as a checkpoint stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of its elements.
    pub dtype: DType,
    /// Which side comes first.
    pub layout: Layout,
    /// Rows of W.
    pub out: usize,
    /// Columns of W.
    pub inner: usize,
}

impl Stored {
    /// Rows and columns as they lie in the file.
    pub fn sides(&self) -> [usize; 2] {
        match self.layout {
            Layout::OutIn => [self.out, self.inner],
            Layout::InOut => [self.inner, self.out],
        }
    }

    /// Bytes of a stored row.
    pub fn row_bytes(&self) -> usize {
        self.sides()[1] * self.dtype.size()
    }
}

/// Sums of squares over the elements that were changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ W².
    pub weight: f64,
    /// Σ Δ², what was wanted.
    pub wanted: f64,
    /// Σ (W + Δ − new)², what rounding lost; not of those that overflowed.
    pub lost: f64,
    /// Elements that were finite and are not any more: the type is too narrow for the change.
    pub overflowed: usize,
}

impl Sums {
    /// The sums over both parts.
    pub fn and(self, other: Sums) -> Sums {
        Sums {
            weight: self.weight + other.weight,
            wanted: self.wanted + other.wanted,
            lost: self.lost + other.lost,
            overflowed: self.overflowed + other.overflowed,
        }
    }
}

/// A change of W (out, in).
#[derive(Clone, Copy, Debug)]
pub enum Term<'a> {
    /// left · rightᵀ.
    LowRank {
        /// (out, r), row-major.
        left: &'a [f32],
        /// (in, r), row-major.
        right: &'a [f32],
        /// Columns of both.
        r: usize,
    },
    /// Δ (out, in), row-major.
    Dense(&'a [f32]),
}

/// Stored rows of a task: a tile's factor is transposed once for as many.
const ROWS: usize = 64;
/// Columns of a tile: enough independent sums to hide the latency of an addition.
const COLS: usize = 32;

/// See [`Terms::add`](crate::ops::update::Terms::add).
pub fn update(
    original: &[u8],
    w: Stored,
    rows: Range<usize>,
    terms: &[Term],
    new: &mut [u8],
) -> Sums {
    let task = ROWS * w.row_bytes();
    if task == 0 {
        return Sums::default();
    }
    let parts = original.par_chunks(task).zip(new.par_chunks_mut(task)).enumerate();
    let sums: Vec<Sums> = parts
        .map(|(i, (original, new))| {
            let first = rows.start + i * ROWS;
            vectorised(|| band(original, w, first, terms, new))
        })
        .collect();
    sums.into_iter().fold(Sums::default(), Sums::and)
}

/// A few stored rows from row `first` on, tile by tile.
#[inline(always)]
fn band(original: &[u8], w: Stored, first: usize, terms: &[Term], new: &mut [u8]) -> Sums {
    let ([_, cols], row, size) = (w.sides(), w.row_bytes(), w.dtype.size());
    let mut delta = vec![[0.0; COLS]; original.len() / row];
    let mut tile = Vec::new();
    let mut rounded = Vec::new();
    let mut sums = Sums::default();
    for col in (0..cols).step_by(COLS) {
        let width = COLS.min(cols - col);
        delta.fill([0.0; COLS]);
        for &term in terms {
            match term {
                Term::LowRank { left, right, r } => {
                    let (a, b) = match w.layout {
                        Layout::OutIn => (left, right),
                        Layout::InOut => (right, left),
                    };
                    transpose(&b[col * r..][..width * r], r, &mut tile);
                    add_products(&a[first * r..], r, &tile, &mut delta);
                }
                Term::Dense(dense) => add_dense(dense, w, first, col..col + width, &mut delta),
            }
        }
        for (i, delta) in delta.iter().enumerate() {
            let at = i * row + col * size..i * row + (col + width) * size;
            let old = &original[at.clone()];
            let new = &mut new[at];
            sums = sums.and(round(old, w, &delta[..width], &mut rounded, new));
        }
    }
    sums
}

/// tile[k][j] = b[j][k], with zeros where b (width, r) is narrower than a tile.
#[inline(always)]
fn transpose(b: &[f32], r: usize, tile: &mut Vec<[f64; COLS]>) {
    tile.clear();
    tile.resize(r, [0.0; COLS]);
    for (j, row) in b.chunks_exact(r).enumerate() {
        tile.iter_mut().zip(row).for_each(|(t, &x)| t[j] = x.into());
    }
}

/// delta[i][j] += a[i][k]·tile[k][j], k = 0, 1, … in this order.
#[inline(always)]
fn add_products(a: &[f32], r: usize, tile: &[[f64; COLS]], delta: &mut [[f64; COLS]]) {
    for (a, delta) in a.chunks_exact(r).zip(delta) {
        let mut sum = *delta;
        for (&a, b) in a.iter().zip(tile) {
            let a = f64::from(a);
            sum.iter_mut().zip(b).for_each(|(s, b)| *s += a * b);
        }
        *delta = sum;
    }
}

#[inline(always)]
fn add_dense(
    dense: &[f32],
    w: Stored,
    first: usize,
    cols: Range<usize>,
    delta: &mut [[f64; COLS]],
) {
    let (row, col) = match w.layout {
        Layout::OutIn => (w.inner, 1),
        Layout::InOut => (1, w.inner),
    };
    for (i, delta) in delta.iter_mut().enumerate() {
        for (d, j) in delta.iter_mut().zip(cols.clone()) {
            *d += f64::from(dense[(first + i) * row + j * col]);
        }
    }
}

/// new = round(old + delta), at most a tile's width of it.
#[inline(always)]
fn round(old: &[u8], w: Stored, delta: &[f64], rounded: &mut Vec<u8>, new: &mut [u8]) -> Sums {
    let n = delta.len();
    let mut before = [0.0; COLS];
    let mut wanted = [0.0; COLS];
    let mut after = [0.0; COLS];
    w.dtype.widen(old, &mut before[..n]);
    for j in 0..n {
        wanted[j] = before[j] + delta[j];
    }
    rounded.clear();
    w.dtype.narrow(&wanted[..n], rounded);
    new.copy_from_slice(rounded);
    if before[..n].iter().any(|x| x.is_nan()) {
        let size = w.dtype.size();
        let nan = (0..n).filter(|&j| before[j].is_nan()).map(|j| j * size..(j + 1) * size);
        nan.for_each(|at| new[at.clone()].copy_from_slice(&old[at]));
    }
    w.dtype.widen(new, &mut after[..n]);
    let mut sums = Sums::default();
    for j in 0..n {
        let lost = wanted[j] - after[j];
        let beyond = before[j].is_finite() && !after[j].is_finite();
        sums.weight += before[j] * before[j];
        sums.wanted += delta[j] * delta[j];
        sums.lost += if beyond { 0.0 } else { lost * lost };
        sums.overflowed += usize::from(beyond);
    }
    sums
}
