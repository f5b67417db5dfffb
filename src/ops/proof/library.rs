//! A library's products held to those of our kernels, for the size of a stored matrix.
//!
//! ```text
//! whole numbers   sums are exact, so the library's equal ours to the last bit
//! any numbers     a row has the same bits whatever the others and however many
//! ```
//!
//! At 9, 137 and 2,049 rows, both ways, f32 and bf16, with a bias and added to what is there. The
//! matrix is made of the lines of a small one, so nothing large is uploaded.

use super::numbers::{EXACT, encode, factor, hash, whole};
use crate::base::Result;
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};
use crate::ops::cuda::linear::{self, DeviceMatrix};
use crate::ops::cuda::rows;

/// Numbers of rows.
const ROWS: [usize; 3] = [9, 137, 2049];
/// Different rows of a matrix.
const LINES: usize = 61;
/// Rows that are compared, from both ends and from the middle.
const LOOKED_AT: usize = 16;

/// A matrix's sizes, and whether its rows lie one after another; else its columns do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixKind {
    /// out.
    pub out: usize,
    /// in.
    pub inner: usize,
    /// As (out, in).
    pub by_row: bool,
}

/// What a library multiplies otherwise than it should: which product, what is wrong.
pub struct Disagreement {
    /// Whether it is x Wᵀ; else dy W.
    pub forward: bool,
    /// "9 rows: row 3 differs".
    pub what: String,
}

/// Compares the products of an engine with those of another, which has our kernels alone.
///
/// # Errors
///
/// The device has no more memory.
pub fn compared(with: &Engine, own: &Engine, kind: MatrixKind) -> Result<Vec<Disagreement>> {
    let mut found = Vec::new();
    for forward in [true, false] {
        let what = disagreement(with, own, kind, forward)?;
        found.extend(what.map(|what| Disagreement { forward, what }));
    }
    Ok(found)
}

fn disagreement(
    with: &Engine,
    own: &Engine,
    kind: MatrixKind,
    forward: bool,
) -> Result<Option<String>> {
    for (elem, to) in [(Elem::F32, Elem::F32), (Elem::BF16, Elem::F32), (Elem::BF16, Elem::BF16)] {
        // Forward with a bias and without; backward alone, and added to what is there.
        for with_more in [false, true] {
            if with_more && !forward && to == Elem::BF16 {
                continue; // a product is added to f32
            }
            let product = Product { kind, forward, elem, to, with_more };
            let mut alone: Option<Vec<u8>> = None;
            for n in ROWS {
                let more = if with_more { ", more added" } else { "" };
                let about = format!("{n} rows of {} into {}{more}", elem.name(), to.name());
                let [got, want] = [product.of_whole(with, n)?, product.of_whole(own, n)?];
                if got != want {
                    return Ok(Some(format!("{about}: other sums of whole numbers")));
                }
                let first = product.of_any(with, n)?;
                if alone.as_ref().is_some_and(|alone| *alone != first) {
                    return Ok(Some(format!("{about}: other bits than among {}", ROWS[0])));
                }
                alone.get_or_insert(first);
            }
        }
    }
    Ok(None)
}

/// A product of numbers of a type, and its own type.
struct Product {
    kind: MatrixKind,
    forward: bool,
    elem: Elem,
    to: Elem,
    with_more: bool, // a bias forward; backward, what is there already
}

impl Product {
    /// Some rows of a product of whole numbers.
    fn of_whole(&self, engine: &Engine, n: usize) -> Result<Vec<u8>> {
        let [k, m, lines, len] = self.sizes();
        let x = factor(2, LINES.min(n) * k, self.elem);
        let sum = |row: &[f64]| row.iter().map(|x| x.abs()).sum();
        let largest = x.chunks(k.max(1)).map(sum).fold(0.0, f64::max);
        let most = if 3.0 * largest < EXACT { 3 } else { 1 };
        assert!(most as f64 * largest < EXACT, "sums up to {largest} are not exact");
        let w = lined(engine, Elem::BF16, &whole(1, LINES.min(lines) * len, most), [lines, len])?;
        let x = lined(engine, self.elem, &x, [n, k])?;
        let y = self.multiplied(engine, &x, &w, n)?;
        let some = LOOKED_AT.min(n);
        let starts = [0, (n - some) / 2, n - some];
        Ok(starts.into_iter().flat_map(|r| y.download_part(r * m..(r + some) * m)).collect())
    }

    /// The first rows of a product of numbers of any digits.
    fn of_any(&self, engine: &Engine, n: usize) -> Result<Vec<u8>> {
        let [k, m, lines, len] = self.sizes();
        let any = |series, n: usize| -> Vec<f64> {
            (0..n).map(|i| (hash(series, i) >> 40) as f64 / f64::from(1 << 23) - 1.0).collect()
        };
        let w = lined(engine, Elem::BF16, &any(3, LINES.min(lines) * len), [lines, len])?;
        let x = lined(engine, self.elem, &any(4, LINES.min(n) * k), [n, k])?;
        let y = self.multiplied(engine, &x, &w, n)?;
        Ok(y.download_part(0..ROWS[0] * m))
    }

    /// K, M, and the lines of the stored matrix and their length.
    fn sizes(&self) -> [usize; 4] {
        let MatrixKind { out, inner, by_row } = self.kind;
        let [k, m] = if self.forward { [inner, out] } else { [out, inner] };
        let [lines, len] = if by_row { [out, inner] } else { [inner, out] };
        [k, m, lines, len]
    }

    fn multiplied(&self, engine: &Engine, x: &Array, w: &Array, n: usize) -> Result<Array> {
        let MatrixKind { out, inner, by_row } = self.kind;
        let [row_stride, col_stride] = if by_row { [inner, 1] } else { [1, out] };
        let w = DeviceMatrix { w, out, inner, row_stride, col_stride };
        let m = self.sizes()[1];
        let more = whole(5, LINES.min(n) * m, 3);
        if self.forward {
            let bias = engine.upload(Elem::F32, &encode(Elem::F32, &more[..m]))?;
            let mut y = engine.array(self.to, n * m)?;
            linear::forward(engine, x, w, self.with_more.then_some(&bias), &mut y);
            return Ok(y);
        }
        let mut y = lined(engine, self.to, &more, [n, m])?;
        linear::backward(engine, x, w, &mut y, self.with_more);
        Ok(y)
    }
}

/// (n, len) of some lines: the first are those given, later ones among them by chance.
fn lined(engine: &Engine, elem: Elem, given: &[f64], [n, len]: [usize; 2]) -> Result<Array> {
    let base = engine.upload(elem, &encode(elem, given))?;
    let lines = given.len() / len.max(1);
    let place = |i: usize| if i < lines { i } else { hash(5, i) as usize % lines.max(1) };
    let index = rows::indices(engine, (0..n).map(place));
    let mut all = engine.array(elem, n * len)?;
    rows::gather(engine, &base, [len, 0, len], &index, &mut all);
    Ok(all)
}
