//! The running mean and spread of what matrices of one shape read and are given gradients for.
//!
//! ```text
//! y = [x; g] (in + out)                       a row a wanted token
//! b rows more, n before:   δ = mean − μ       μ ← μ + δ b/(n + b)
//!                          S ← S + Σ(y − mean)² + δ² n b/(n + b)         n ← n + b
//! σ = √(S/(n − 1 + ε))     ŷ = (y − μ)/(σ + ε)                           ε = 2⁻²³
//! ```
//!
//! Merged so, n, μ and S are those of all rows at once (Chan, Golub, LeVeque 1979). The public code
//! of UltraEdit adds b/(b − 1)·Σ(y − mean)² in the place of Σ(y − mean)², and NaN for b = 1;
//! [`SpreadRule::Public`] does the first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::{Mat, MatRef};
use serde_json::{Value, json};

use crate::base::Result;
use crate::edit::state::{State, misfit};

/// ε, what f32 resolves of 1.
const EPSILON: f64 = f32::EPSILON as f64;
/// In a state: μ and S (in + out, 2) of each shape, by its number; and `[in, out, n]` of each.
const TENSORS: &str = "normaliser";
const SHAPES: &str = "shapes";

/// How the spread of a batch joins that of the rows before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpreadRule {
    /// As if all rows had been one batch.
    Exact,
    /// As the public code.
    Public,
}

/// n, μ and S.
#[derive(Clone, Debug, PartialEq)]
pub struct Normaliser {
    /// n.
    pub rows: usize,
    /// μ, then S: (in + out, 2).
    pub moments: Mat<f64>,
}

impl Normaliser {
    /// Of no row yet.
    pub fn new(width: usize) -> Normaliser {
        Normaliser { rows: 0, moments: Mat::zeros(width, 2) }
    }

    /// Takes in x (in, b) and g (out, b).
    pub fn add(&mut self, [x, g]: [MatRef<f64>; 2], merge: SpreadRule) {
        let b = x.ncols();
        if b == 0 {
            return;
        }
        let [n, b_] = [self.rows, b].map(|n| n as f64);
        let widen = match merge {
            SpreadRule::Public if b > 1 => b_ / (b_ - 1.0),
            _ => 1.0,
        };
        let inner = x.nrows();
        for i in 0..inner + g.nrows() {
            let row = if i < inner { x.row(i) } else { g.row(i - inner) };
            let mean = row.iter().sum::<f64>() / b_;
            let spread: f64 = row.iter().map(|y| (y - mean) * (y - mean)).sum();
            let delta = mean - self.moments[(i, 0)];
            self.moments[(i, 0)] += delta * b_ / (n + b_);
            self.moments[(i, 1)] += widen * spread + delta * delta * n * b_ / (n + b_);
        }
        self.rows += b;
    }

    /// ŷ of rows y (·, n) that begin at `from` in [x; g].
    pub fn normalised(&self, y: &Mat<f64>, from: usize) -> Mat<f64> {
        let over = (self.rows as f64 - 1.0 + EPSILON).max(EPSILON);
        let scale = |i: usize| 1.0 / ((self.moments[(i, 1)] / over).sqrt() + EPSILON);
        let scales: Vec<f64> = (from..from + y.nrows()).map(scale).collect();
        let hat = |i: usize, j: usize| (y[(i, j)] - self.moments[(from + i, 0)]) * scales[i];
        Mat::from_fn(y.nrows(), y.ncols(), hat)
    }
}

/// One of each shape (out, in).
pub type Normalisers = BTreeMap<[usize; 2], Normaliser>;

/// Those of a state, which is left without them.
pub fn take(state: &mut State) -> Normalisers {
    let tensors = state.take(TENSORS);
    let shapes = state.notes.remove(SHAPES).unwrap_or_default();
    let read = |(s, shape): (usize, &Value)| {
        let [inner, out, rows] = sizes(shape)?;
        let moments = Mat::clone(tensors.get(&s)?);
        Some(([out, inner], Normaliser { rows, moments }))
    };
    shapes.as_array().into_iter().flatten().enumerate().filter_map(read).collect()
}

/// Puts them into a state.
pub fn put(all: &Normalisers, state: &mut State) {
    let tensors = all.values().enumerate();
    state.put(TENSORS, tensors.map(|(s, own)| (s, Arc::new(own.moments.clone()))).collect());
    let shape = |(&[out, inner], own): (&[usize; 2], &Normaliser)| json!([inner, out, own.rows]);
    state.notes.insert(SHAPES.to_owned(), all.iter().map(shape).collect());
}

/// Checks those of a state that was read from a file.
///
/// # Errors
///
/// One that is missing, has another width, or a spread below 0.
pub fn check(path: &Path, state: &State) -> Result<()> {
    let tensors = state.layers(TENSORS);
    let shapes = state.notes.get(SHAPES).and_then(Value::as_array);
    let Some(shapes) = shapes.filter(|shapes| !shapes.is_empty()) else {
        return Err(misfit(path, SHAPES, "is no list of shapes".into()));
    };
    for (s, shape) in shapes.iter().enumerate() {
        let fits = |[inner, out, rows]: [usize; 3]| {
            let moments = tensors.get(&s)?;
            let whole = moments.nrows() == inner + out && moments.ncols() == 2 && rows > 0;
            (whole && moments.col(1).iter().all(|&s| s >= 0.0)).then_some(())
        };
        if sizes(shape).and_then(fits).is_none() {
            return Err(misfit(path, &format!("{TENSORS}.{s}"), format!("does not fit {shape}")));
        }
    }
    Ok(())
}

fn sizes(shape: &Value) -> Option<[usize; 3]> {
    let sizes = shape.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize));
    sizes.collect::<Option<Vec<usize>>>()?.try_into().ok()
}
