//! Random inputs without symmetry, exact in f32, and weights as checkpoints store them.

use std::sync::Arc;

use incise::base::{DType, Float, Rng};
use incise::tensor::{Layout, Weight};

/// What numbers are drawn.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Standard normal.
    Normal,
    /// Standard normal around a mean far from it.
    Offset(f64),
    /// Normal with a spread.
    Wide(f64),
    /// One number, drawn once.
    Constant,
}

impl Fill {
    /// `n` numbers, exact in f32.
    pub fn draw(self, rng: &mut Rng, n: usize) -> Vec<f64> {
        let once = rng.normal();
        let one = |_| {
            let x = match self {
                Fill::Normal => rng.normal(),
                Fill::Offset(mean) => mean + rng.normal(),
                Fill::Wide(spread) => spread * rng.normal(),
                Fill::Constant => once,
            };
            f64::from(x as f32)
        };
        (0..n).map(one).collect()
    }
}

/// `n` standard normal numbers, exact in f32.
pub fn normal(rng: &mut Rng, n: usize) -> Vec<f64> {
    Fill::Normal.draw(rng, n)
}

/// A whole number below `n`.
pub fn below(rng: &mut Rng, n: usize) -> usize {
    (rng.uniform() * n as f64) as usize
}

/// The values in another type; they are exact in it.
pub fn cast<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::of(x)).collect()
}

/// Values as f64.
pub fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.f64()).collect()
}

/// How a weight is held.
#[derive(Clone, Copy, Debug)]
pub enum Held {
    /// In a file, perhaps as some rows of a larger matrix, its bytes `shift` off alignment.
    File { dtype: DType, layout: Layout, slice: bool, shift: usize },
    /// By us, in f32.
    Single,
    /// By us, in f64.
    Double,
}

/// As `nn.Linear` is stored in f32.
pub const PLAIN: Held =
    Held::File { dtype: DType::F32, layout: Layout::OutIn, slice: false, shift: 0 };

/// Every type, order, part and alignment that a file may have, and matrices of our own.
pub fn all_held() -> Vec<Held> {
    let mut all = vec![Held::Single, Held::Double];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for layout in [Layout::OutIn, Layout::InOut] {
            for (slice, shift) in [(false, 0), (true, 0), (false, 1), (true, 3)] {
                all.push(Held::File { dtype, layout, slice, shift });
            }
        }
    }
    all
}

/// Bytes that start where they please.
struct Shifted(Vec<u8>, usize);

impl AsRef<[u8]> for Shifted {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

/// A random weight (out, in), and its values row by row.
pub fn weight(rng: &mut Rng, [out, inner]: [usize; 2], held: Held) -> (Weight, Vec<f64>) {
    let Held::File { dtype, layout, slice, shift } = held else {
        let values = normal(rng, out * inner);
        let weight = match held {
            Held::Single => Weight::dense_f32(cast(&values), out, inner),
            _ => Weight::dense_f64(values.clone(), out, inner),
        };
        return (weight, values);
    };
    let rows = if slice { 3..3 + out } else { 0..out };
    let all = if slice { out + 8 } else { out };
    let (mut bytes, mut values) = (Vec::new(), vec![0.0; all * inner]);
    dtype.narrow(&normal(rng, all * inner), &mut bytes);
    dtype.widen(&bytes, &mut values);
    if layout == Layout::InOut {
        // What was drawn row by row is stored column by column.
        let columns = (0..inner).flat_map(|j| (0..all).map(move |i| i * inner + j));
        let stored: Vec<f64> = columns.map(|at| values[at]).collect();
        bytes.clear();
        dtype.narrow(&stored, &mut bytes);
    }
    bytes.splice(0..0, vec![0; shift]);
    let whole = Weight::stored(Arc::new(Shifted(bytes, shift)), dtype, layout, [all, inner]);
    let values = values[rows.start * inner..rows.end * inner].to_vec();
    (if slice { whole.slice(rows) } else { whole }, values)
}
