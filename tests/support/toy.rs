//! Random inputs without symmetry, and weights as checkpoints store them.

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

/// Random inputs, in full or exact in f32.
pub struct Draw {
    rng: Rng,
    single: bool,
}

impl Draw {
    /// The inputs of a case for a computation in f64, or (`single`) in f32.
    pub fn new(case: &str, single: bool) -> Draw {
        Draw { rng: Rng::new(u64::from(single), case), single }
    }

    /// `n` numbers.
    pub fn fill(&mut self, fill: Fill, n: usize) -> Vec<f64> {
        let once = self.rng.normal();
        let one = |_| match fill {
            Fill::Normal => self.rng.normal(),
            Fill::Offset(mean) => mean + self.rng.normal(),
            Fill::Wide(spread) => spread * self.rng.normal(),
            Fill::Constant => once,
        };
        let numbers = (0..n).map(one);
        if self.single { numbers.map(|x| (x as f32).into()).collect() } else { numbers.collect() }
    }

    /// `n` standard normal numbers.
    pub fn normal(&mut self, n: usize) -> Vec<f64> {
        self.fill(Fill::Normal, n)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.rng.uniform()
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.rng.uniform() * n as f64) as usize
    }

    /// One of two.
    pub fn coin(&mut self) -> bool {
        self.rng.uniform() < 0.5
    }
}

/// The values in the type of a computation.
pub fn cast<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::of(x)).collect()
}

/// eˣ, rounded once: not the code's own, which is under test.
pub fn exp<T: Float>(x: T) -> T {
    T::of(x.f64().exp())
}

/// ln x, rounded once.
pub fn ln<T: Float>(x: T) -> T {
    T::of(x.f64().ln())
}

/// tanh x, rounded once.
pub fn tanh<T: Float>(x: T) -> T {
    T::of(x.f64().tanh())
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
pub fn weight(draw: &mut Draw, [out, inner]: [usize; 2], held: Held) -> (Weight, Vec<f64>) {
    let Held::File { dtype, layout, slice, shift } = held else {
        let values = draw.normal(out * inner);
        let weight = match held {
            Held::Single => Weight::dense_f32(cast(&values), out, inner),
            _ => Weight::dense_f64(values.clone(), out, inner),
        };
        return (weight, values);
    };
    let rows = if slice { 3..3 + out } else { 0..out };
    let all = if slice { out + 8 } else { out };
    let (mut bytes, mut values) = (Vec::new(), vec![0.0; all * inner]);
    dtype.narrow(&draw.normal(all * inner), &mut bytes);
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
