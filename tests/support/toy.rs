//! Random inputs without symmetry, and weights as checkpoints store them.

use std::any::TypeId;
use std::sync::Arc;

use incise::base::{DType, Float, Rng};
use incise::tensor::{Layout, Weight};

use super::fused::Fused;

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

/// eˣ, rounded once: not the code's own, which is under test. A kernel's is less precise.
pub fn exp<T: Float>(x: T) -> T {
    if compiled::<T>() { x.exp() } else { T::of(x.f64().exp()) }
}

/// ln x, the same.
pub fn ln<T: Float>(x: T) -> T {
    if compiled::<T>() { x.ln() } else { T::of(x.f64().ln()) }
}

/// Whether a number is computed with as in a kernel.
fn compiled<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<Fused>()
}

/// tanh x, rounded once.
pub fn tanh<T: Float>(x: T) -> T {
    T::of(x.f64().tanh())
}

/// Which rows of a stored matrix a weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// Some in a row.
    Slice,
    /// As many of every few: three blocks, or single rows.
    Every,
}

/// How a weight is held.
#[derive(Clone, Copy, Debug)]
pub enum Held {
    /// In a file, its bytes `shift` off alignment.
    File { dtype: DType, layout: Layout, part: Part, shift: usize },
    /// By us, in f32.
    Single,
    /// By us, in f64.
    Double,
}

/// As `nn.Linear` is stored in f32.
pub const PLAIN: Held =
    Held::File { dtype: DType::F32, layout: Layout::OutIn, part: Part::Whole, shift: 0 };

/// Every type, order, part and alignment that a file may have, and matrices of our own.
pub fn all_held() -> Vec<Held> {
    let mut all = vec![Held::Single, Held::Double];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for layout in [Layout::OutIn, Layout::InOut] {
            for (part, shift) in
                [(Part::Whole, 0), (Part::Slice, 0), (Part::Whole, 1), (Part::Slice, 3)]
            {
                all.push(Held::File { dtype, layout, part, shift });
            }
        }
        for shift in [0, 1] {
            all.push(Held::File { dtype, layout: Layout::OutIn, part: Part::Every, shift });
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
    let Held::File { dtype, layout, part, shift } = held else {
        let mut values = draw.normal(out * inner);
        if let Held::Double = held {
            return (Weight::dense_f64(values.clone(), out, inner), values);
        }
        values.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        return (Weight::dense_f32(cast(&values), out, inner), values);
    };
    // `block` rows are ours of every `period`, from row `first` on.
    let (first, block, period) = match part {
        Part::Whole => (0, out, out),
        Part::Slice => (3, out, out + 8),
        Part::Every if out.is_multiple_of(3) => (2, out / 3, out / 3 + 5),
        Part::Every => (2, 1, 4),
    };
    let all = out / block * period;
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
    let ours = (0..out).map(|i| i / block * period + first + i % block);
    let values = ours.flat_map(|i| values[i * inner..][..inner].iter().copied()).collect();
    let weight = match part {
        Part::Whole => whole,
        Part::Slice => whole.slice(first..first + out),
        Part::Every => whole.every(first..first + block, period),
    };
    (weight, values)
}
