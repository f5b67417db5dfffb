//! Products with a stored matrix at its real size, by our kernels, held to sums in f64.
//!
//! ```text
//! x_i = ±1, row i alike row i mod BASE      r_j = ±1      block q: BLOCK columns of y = x Wᵀ
//! Σ_j r_j y_ij = Σ_k x_ik v_kq              v_kq = Σ_j r_j w_jk                      j in q
//! |what the left side may be off| ≤ size Σ_j Σ_k |w_jk|
//! ```
//!
//! The right side is N + M numbers a row, not N M, and so is what is read of the device: the first
//! BASE rows, and some up to the last, which have their bits. What a sum of products may lose of
//! Σ |x||w| is in `kernels/linear_mma.cu`; x has no low part. A stride that is another's shows; an
//! index of more than 31 bits does not, since rows are as many as fit `ROOM`. Backward dy W alike.

use rayon::prelude::*;

use super::numbers::{U, decode, encode, hash};
use crate::base::Result;
use crate::gpu::kernels::linear_mma::RUN;
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};
use crate::ops::cuda::{linear, rows};
use crate::tensor::Weight;

/// Rows that are different.
const BASE: usize = 17;
/// Columns of a sum.
const BLOCK: usize = 64;
/// Rows besides the first that are looked at.
const LOOKS: usize = 64;
/// Bytes of a product and of what it is made from, at most.
const ROOM: u64 = 1 << 30;

/// Which product.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// y = x Wᵀ.
    Forward,
    /// dx = dy W.
    Backward,
}

/// Multiplies `n` rows, or as many as there is room for, by a matrix, both ways. What is wrong.
///
/// # Errors
///
/// The device has no more memory.
pub fn multiplied(engine: &Engine, w: &Weight, n: usize) -> Result<Option<String>> {
    for way in [Way::Forward, Way::Backward] {
        if let Some(wrong) = one_way(&engine.own(), w, n, way)? {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}

fn one_way(engine: &Engine, w: &Weight, n: usize, way: Way) -> Result<Option<String>> {
    let [out, inner] = w.dims();
    let (name, k, m) = if way == Way::Forward { ("y", inner, out) } else { ("dx", out, inner) };
    let memory = engine.memory();
    let room = ROOM.min((memory.limit - memory.used) / 4) / (4 * (k + m).max(1)) as u64;
    let n = n.min(room as usize).max(BASE);
    let sign = |series, i| if hash(series, i) & 1 == 0 { 1.0 } else { -1.0 };
    let base: Vec<f64> = (0..BASE * k).map(|i| sign(1, i)).collect();
    let want = sums(w, way, &base, &(0..m).map(|j| sign(2, j)).collect::<Vec<_>>());

    let there = w.on(engine);
    let elem = there.w.elem();
    let x = repeated(engine, &base, k, n)?;
    let mut y = engine.array(Elem::F32, n * m)?;
    match way {
        Way::Forward => linear::forward(engine, &x, (&there).into(), None, &mut y),
        Way::Backward => linear::backward(engine, &x, (&there).into(), &mut y, false),
    }
    let about = format!("{n} rows by a matrix {out} × {inner} in {}", elem.name());
    let size = lost(elem, k);
    let first = decode(Elem::F32, &y.download_part(0..BASE * m));
    for (i, row) in first.chunks(m).enumerate() {
        for (q, (row, (want, sizes))) in row.chunks(BLOCK).zip(&want).enumerate() {
            let from = q * BLOCK;
            let got: f64 = row.iter().zip(from..).map(|(y, j)| sign(2, j) * y).sum();
            let bound = size * sizes;
            if !(got - want[i]).abs().le(&bound) {
                return Ok(Some(format!(
                    "{about}: the signed sum of {name}[{i}, {from}..{}] = {got}, should be {} ± \
                     {bound:.1e}",
                    from + row.len(),
                    want[i]
                )));
            }
        }
    }
    let step = (n / LOOKS).max(1);
    for i in (BASE..n).filter(|i| i % step == 0 || i + BASE >= n) {
        let [here, alike] = [i, i % BASE].map(|i| y.download_part(i * m..(i + 1) * m));
        if here != alike {
            let alike = i % BASE;
            return Ok(Some(format!("{about}: row {i} of {name} has other bits than row {alike}")));
        }
    }
    Ok(None)
}

/// (n, k) f32 on the device: row i is that of i mod BASE.
pub(super) fn repeated(engine: &Engine, base: &[f64], k: usize, n: usize) -> Result<Array> {
    let base = engine.upload(Elem::F32, &encode(Elem::F32, base))?;
    let index = rows::indices(engine, (0..n).map(|i| i % BASE));
    let mut x = engine.array(Elem::F32, n * k)?;
    rows::gather(engine, &base, [k, 0, k], &index, &mut x);
    Ok(x)
}

/// What a product with weights of a type may lose of a sum of `k` absolute values: the third part
/// of an f32 weight, a run's sums of every product of parts, and sums of runs.
fn lost(weight: Elem, k: usize) -> f64 {
    let (products, left_out) = match weight {
        Elem::BF16 => (2.0, 0.0),
        Elem::F16 => (2.0, 0.0),
        _ => (3.0, f64::powi(2.0, -17)),
    };
    let run = (17 * RUN / 16) as f64 * f64::powi(2.0, -23);
    left_out + 1.02 * (products * run + (k / RUN + 2) as f64 * U)
}

/// By blocks of columns: the signed sum of each row of the product, and Σ |w|.
fn sums(w: &Weight, way: Way, base: &[f64], signs: &[f64]) -> Vec<(Vec<f64>, f64)> {
    let [out, inner] = w.dims();
    let (k, m) = if way == Way::Forward { (inner, out) } else { (out, inner) };
    let blocks: Vec<usize> = (0..m).step_by(BLOCK).collect();
    let block = |scratch: &mut Vec<f64>, from: usize| {
        let columns = from..m.min(from + BLOCK);
        let mut size = 0.0;
        let mut v = vec![0.0; k];
        let panel = match way {
            Way::Forward => w.panel::<f64>(columns.clone(), 0..k, scratch),
            Way::Backward => w.panel::<f64>(0..k, columns.clone(), scratch),
        };
        let (along_k, along_m) = match way {
            Way::Forward => (panel.col_stride, panel.row_stride),
            Way::Backward => (panel.row_stride, panel.col_stride),
        };
        for (j, column) in columns.enumerate() {
            for (x, v) in v.iter_mut().enumerate() {
                let w = panel.data[j * along_m + x * along_k];
                *v += signs[column] * w;
                size += w.abs();
            }
        }
        let dot = |x: &[f64]| x.iter().zip(&v).map(|(x, v)| x * v).sum();
        (base.chunks(k).map(dot).collect(), size)
    };
    blocks.into_par_iter().map_init(Vec::new, block).collect()
}
