//! Products with few rows, where both operands are contiguous along the inner dimension.
//!
//! ```text
//! y_ij = Σ_k a_ik b_jk       a (rows, inner), b (cols, inner)
//! ```
//!
//! A general product would first copy b into another order, which costs as much as multiplying it
//! by a few rows does. Here a block of 4 rows of b meets up to 6 rows of a: 10 loads feed 24
//! multiply-adds, and the sums stay in registers. A sum runs over k in the processor's vector
//! width whatever the other sizes are, so a row's result does not depend on its neighbours.

use pulp::{Simd, WithSimd};

/// Rows up to which this is used. In a search of 25 rows, copying b took a third of the time (a
/// profile, AVX-512); with hundreds of rows it is nothing. Where the two meet was not measured.
pub const FEW: usize = 48;

/// Rows of b in a block.
const WIDE: usize = 4;
/// Rows of a in a block, at most.
const HIGH: usize = 6;

/// The product y = a bᵀ, handed out as (row, column, sum).
pub struct Dots<'a, W> {
    /// Elements summed over.
    pub inner: usize,
    /// a, and the distance between its rows.
    pub a: (&'a [f32], usize),
    /// How many.
    pub rows: usize,
    /// b, and the distance between its rows.
    pub b: (&'a [f32], usize),
    /// How many.
    pub cols: usize,
    /// Takes every sum.
    pub write: W,
}

impl<W: FnMut(usize, usize, f32)> WithSimd for Dots<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let whole = self.cols / WIDE * WIDE;
        for j in (0..whole).step_by(WIDE) {
            self.columns::<S, WIDE>(simd, j);
        }
        for j in whole..self.cols {
            self.columns::<S, 1>(simd, j);
        }
    }
}

impl<'a, W: FnMut(usize, usize, f32)> Dots<'a, W> {
    /// All rows of a with R rows of b, in blocks of nearly equal height.
    #[inline(always)]
    fn columns<S: Simd, const R: usize>(&mut self, simd: S, j: usize) {
        let blocks = self.rows.div_ceil(HIGH);
        for block in 0..blocks {
            let i = block * self.rows / blocks;
            let end = (block + 1) * self.rows / blocks;
            match end - i {
                1 => self.block::<S, R, 1>(simd, i, j),
                2 => self.block::<S, R, 2>(simd, i, j),
                3 => self.block::<S, R, 3>(simd, i, j),
                4 => self.block::<S, R, 4>(simd, i, j),
                5 => self.block::<S, R, 5>(simd, i, j),
                _ => self.block::<S, R, HIGH>(simd, i, j),
            }
        }
    }

    #[inline(always)]
    fn block<S: Simd, const R: usize, const C: usize>(&mut self, simd: S, i: usize, j: usize) {
        let a: [&'a [f32]; C] = std::array::from_fn(|c| row(self.a, i + c, self.inner));
        let b: [&'a [f32]; R] = std::array::from_fn(|r| row(self.b, j + r, self.inner));
        let lanes = S::F32_LANES;
        let whole = self.inner / lanes;
        let av = a.map(|a| &S::as_simd_f32s(a).0[..whole]);
        let bv = b.map(|b| &S::as_simd_f32s(b).0[..whole]);
        let mut sums = [[simd.splat_f32s(0.0); R]; C];
        for k in 0..whole {
            let b: [S::f32s; R] = std::array::from_fn(|r| bv[r][k]);
            for (c, sums) in sums.iter_mut().enumerate() {
                let a = av[c][k];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = simd.mul_add_f32s(a, b, *sum);
                }
            }
        }
        for (c, sums) in sums.into_iter().enumerate() {
            for (r, sum) in sums.into_iter().enumerate() {
                let rest = (whole * lanes..self.inner).map(|k| a[c][k] * b[r][k]).sum::<f32>();
                (self.write)(i + c, j + r, simd.reduce_sum_f32s(sum) + rest);
            }
        }
    }
}

#[inline(always)]
fn row((x, stride): (&[f32], usize), i: usize, len: usize) -> &[f32] {
    &x[i * stride..][..len]
}
