//! The next token: `kernels/sample.cu`, the tokens that the host gives.
//!
//! Weights are rounded, so a token is only asked for where it does not depend on that: its share of
//! all that are kept is at least [`SHARE`], the uniform number points into its middle, and top_p
//! ends in the middle of the last one kept.

use super::numbers::{U, hash};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::kernels::sample::MAX_K;
use crate::gpu::launch::Elem;
use crate::ops::cpu::sample::{self as definition, Sampling};
use crate::ops::cuda::sample;

const R: usize = 2;
const V: usize = 1031; // more than a block has threads
/// Far more than V weights, each off by some roundings, lose.
const SHARE: f64 = 1e-3;

/// All of the file.
pub fn all(engine: &Engine, _: [Elem; 2]) -> Verdict {
    top(engine)?;
    choose(engine)
}

/// Logits, many of them equal, with zeros of both signs; a few are far above the others.
fn logits() -> Vec<f64> {
    let number = |i: usize| match hash(1, i) % 64 {
        0 => 5.0 + (hash(2, i) % 8) as f64 / 4.0,
        1 => -0.0,
        n => (n % 9) as f64 - 6.0,
    };
    (0..R * V).map(number).collect()
}

fn top(engine: &Engine) -> Verdict {
    let k = MAX_K;
    let mut trial = Trial::new(engine, format!("V {V}, k {k}"));
    let z = logits();
    let (mut values, mut ids) = (vec![0.0; R * k], vec![0; R * k]);
    definition::top(&z, V, k, &mut values, &mut ids);
    let ids: Vec<f64> = ids.into_iter().map(f64::from).collect();
    let z = trial.input("z", Elem::F32, &z);
    let mut got_values = trial.output("values", Elem::F32, R * k);
    let mut got_ids = trial.output("ids", Elem::I32, R * k);
    trial.run("sample_top", || sample::top(engine, &z, k, &mut got_values, &mut got_ids))?;
    trial.equal("sample_top", &got_ids, &[R, k], &ids)?;
    trial.equal("sample_top", &got_values, &[R, k], &values)
}

/// Temperature, top_k, how many are kept and the place of the one that is chosen among them.
const CHOICES: [(f64, usize, usize, usize); 3] = [(1.0, 0, V, 7), (0.5, 5, 5, 4), (2.0, 0, 9, 8)];

fn choose(engine: &Engine) -> Verdict {
    let all = logits();
    for ((temperature, top_k, kept, place), z) in CHOICES.into_iter().zip(all.chunks(V).cycle()) {
        let row = Row::new(z, temperature, top_k);
        let cut = kept < row.weights.len();
        let top_p = if cut { row.middle(kept - 1) / row.sum(row.weights.len()) } else { 1.0 };
        let uniform = row.middle(place) / row.sum(kept);
        let by = Sampling { temperature, top_k, top_p };
        let mut trial = Trial::new(engine, format!("V {V}, {by:?}, uniform {uniform}"));
        let z = trial.input("z", Elem::F32, z);
        let at = trial.input("uniform", Elem::F32, &[uniform]);
        let mut id = trial.output("id", Elem::I32, 1);
        trial.run("sample", || sample::choose(engine, &z, by, &at, &mut id))?;
        trial.equal("sample", &id, &[1], &[f64::from(row.order[place])])?;
    }
    Ok(())
}

/// The tokens of a row that may be chosen, in order, and their weights.
struct Row {
    order: Vec<u32>,
    weights: Vec<f64>,
}

impl Row {
    fn new(z: &[f64], temperature: f64, top_k: usize) -> Row {
        let k = if top_k > 0 { top_k } else { z.len() };
        let (mut values, mut order) = (vec![0.0; k], vec![0; k]);
        definition::top(z, z.len(), k, &mut values, &mut order);
        let weights = values.iter().map(|z| ((z - values[0]) / temperature).exp()).collect();
        Row { order, weights }
    }

    /// Of the first n.
    fn sum(&self, n: usize) -> f64 {
        self.weights[..n].iter().sum()
    }

    /// The middle of a token's weight, among the sums.
    fn middle(&self, place: usize) -> f64 {
        let all = self.sum(self.weights.len());
        assert!(self.weights[place] >= SHARE * all && SHARE > 1e3 * U, "too small a share");
        self.sum(place) + self.weights[place] / 2.0
    }
}
