//! Products of dense blocks: the one place that calls the `gemm` crate, behind checked bounds.
//! With few rows, operands of the right layout go to [`super::dots`].
//!
//! The order in which a product sums over its inner dimension depends on that dimension alone
//! (the crate cuts it by cache size), so results do not depend on the number of threads, and a
//! row's not on how many others there are, but for one step: up to 48 rows or more.

use std::marker::PhantomData;

use gemm::Parallelism;
use rayon::prelude::*;

use super::dots::{Dots, FEW};
use crate::base::Float;

/// A strided read-only block: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    /// The elements, from (0, 0) on.
    pub data: &'a [T],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// Dense rows of `cols` elements.
    pub fn rows(data: &'a [T], cols: usize) -> Self {
        View { data, row_stride: cols, col_stride: 1 }
    }

    /// The same block with rows and columns exchanged.
    pub fn t(self) -> Self {
        View { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        let last =
            rows.saturating_sub(1) * self.row_stride + cols.saturating_sub(1) * self.col_stride;
        rows == 0 || cols == 0 || last < self.data.len()
    }
}

/// A rectangle of a row-major matrix that nobody else can reach while it lives.
pub struct Tile<'a, T> {
    first: *mut T,
    stride: usize,
    /// The first row in the whole matrix.
    pub row: usize,
    /// The first column in the whole matrix.
    pub col: usize,
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub cols: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a tile is an exclusive borrow of its elements; `tiles` makes disjoint ones.
unsafe impl<T: Send> Send for Tile<'_, T> {}

/// Up to so many elements the crate has ways of its own, which sum in other orders.
const SMALL: usize = 256;

/// Cuts a row-major matrix of `cols` columns into tiles of at most `height` × `width`, all of
/// nearly the same size.
pub fn tiles<T: Float>(
    matrix: &mut [T],
    cols: usize,
    [height, width]: [usize; 2],
) -> impl ParallelIterator<Item = Tile<'_, T>> {
    let rows = matrix.len().checked_div(cols).unwrap_or(0);
    assert_eq!(matrix.len(), rows * cols, "tiles: not a whole number of rows");
    let down = rows.div_ceil(height);
    let across = cols.div_ceil(width);
    let height = rows.div_ceil(down.max(1));
    let width = cols.div_ceil(across.max(1));
    let first = matrix.as_mut_ptr() as usize;
    (0..down * across).into_par_iter().map(move |i| {
        let row = i / across * height;
        let col = i % across * width;
        Tile {
            // In range: row < rows and col < cols.
            first: (first as *mut T).wrapping_add(row * cols + col),
            stride: cols,
            row,
            col,
            rows: height.min(rows - row),
            cols: width.min(cols - col),
            life: PhantomData,
        }
    })
}

impl<'a, T: Float> Tile<'a, T> {
    /// A whole matrix of `cols` columns as one tile.
    pub fn whole(matrix: &'a mut [T], cols: usize) -> Self {
        let rows = matrix.len().checked_div(cols).unwrap_or(0);
        assert_eq!(matrix.len(), rows * cols, "Tile: not a whole number of rows");
        let first = matrix.as_mut_ptr();
        Tile { first, stride: cols, row: 0, col: 0, rows, cols, life: PhantomData }
    }

    /// tile = a b, or tile += a b; a (rows, inner), b (inner, cols).
    pub fn product(&mut self, inner: usize, a: View<T>, b: View<T>, add: bool) {
        assert!(a.holds(self.rows, inner), "product: the left block is too small");
        assert!(b.holds(inner, self.cols), "product: the right block is too small");
        if self.rows <= FEW && a.col_stride == 1 && b.row_stride == 1 && size_of::<T>() == 4 {
            return self.dots(inner, a, b, add);
        }
        if self.rows * self.cols <= SMALL {
            return self.padded(inner, a, b, add);
        }
        // SAFETY: the asserts above bound every read; the tile owns every element written.
        unsafe {
            gemm::gemm(
                self.rows,
                self.cols,
                inner,
                self.first,
                1,
                self.stride as isize,
                add,
                a.data.as_ptr(),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.col_stride as isize,
                b.row_stride as isize,
                T::of(1.0),
                T::of(1.0),
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    /// The product with more rows, which are thrown away: it sums as a large product does.
    fn padded(&mut self, inner: usize, a: View<T>, b: View<T>, add: bool) {
        let cols = self.cols;
        if cols == 0 {
            return;
        }
        let rows = SMALL / cols + 1;
        let mut x = vec![T::default(); rows * inner];
        let mut y = vec![T::default(); rows * cols];
        for i in 0..self.rows {
            for k in 0..inner {
                x[i * inner + k] = a.data[i * a.row_stride + k * a.col_stride];
            }
            y[i * cols..][..cols].copy_from_slice(self.row_mut(i));
        }
        Tile::whole(&mut y, cols).product(inner, View::rows(&x, inner), b, add);
        for i in 0..self.rows {
            self.row_mut(i).copy_from_slice(&y[i * cols..][..cols]);
        }
    }

    /// The product in f32 where both operands are contiguous along `inner`.
    fn dots(&mut self, inner: usize, a: View<T>, b: View<T>, add: bool) {
        let rows = self.rows;
        let cols = self.cols;
        let a = (bytemuck::cast_slice(a.data), a.row_stride);
        let b = (bytemuck::cast_slice(b.data), b.col_stride);
        let write = |i: usize, j: usize, sum: f32| {
            let y = &mut self.row_mut(i)[j];
            *y = if add { *y + T::from_f32(sum) } else { T::from_f32(sum) };
        };
        pulp::Arch::new().dispatch(Dots { inner, a, rows, b, cols, write });
    }

    /// Row `i` of the tile.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row_mut: outside the tile");
        // SAFETY: row i of the tile, which owns its elements.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.cols) }
    }
}
