//! What is asked, and what it comes to: counts that the code itself gives.

use crate::base::{DType, Result};
use crate::bench::edit::LAYERS;
use crate::bench::stages::{Ids, STEPS, layer_of_search};
use crate::edit::prompts::PromptRow;
use crate::edit::search::memory::DEVICE_TOKENS;
use crate::edit::search::packing::{PackedFact, StepLayout, shared_prefixes};
use crate::gpu::kernels::attention_short;
use crate::model::SearchPrecision;
use crate::model::arch::Arch;
use crate::model::random;
use crate::ops::attention::Seq;

/// An edit of many facts by MEMIT, from nothing, on one card.
pub struct AskedEdit {
    /// `gpt-j-6b`, or another that [`random::config`] knows.
    pub shape: String,
    /// How many facts.
    pub facts: usize,
    /// Of the value search.
    pub precision: SearchPrecision,
    /// How the weights are stored.
    pub stored: DType,
    /// Whether NVIDIA's libraries are found.
    pub libraries: bool,
}

/// Counts of the work.
pub struct Work {
    /// As it was asked.
    pub asked: AskedEdit,
    /// Of the model.
    pub arch: Arch,
    /// Weights of a layer.
    pub layer: f64,
    /// Layers that are edited: so many, up to `last`.
    pub layers: usize,
    /// The layer whose output is searched.
    pub last: usize,
    /// Facts in a full batch.
    pub batch: usize,
    /// Steps of a fact's search.
    pub steps: usize,
    /// What a fact adds.
    pub fact: FactWork,
}

/// Counts of a fact of CounterFact's mean lengths.
pub struct FactWork {
    /// Tokens that a step runs.
    pub suffix: usize,
    /// Its own tokens before them, which are run once.
    pub prefix: usize,
    /// Sequences of them, and rows that δ is added to.
    pub sequences: usize,
    /// Rows of logits.
    pub logits: usize,
    /// Passes of short attention over a head, at `attention_short::ROWS` queries each.
    pub attention: usize,
    /// Tokens whose keys are read, of the bare prompt and of the others.
    pub keys: [usize; 2],
    /// Tokens of the bare prompt and its target, and how many of them are scored.
    pub scored: [usize; 2],
}

impl Work {
    /// What a question comes to.
    ///
    /// # Errors
    ///
    /// A shape that is not known.
    pub fn of(asked: AskedEdit) -> Result<Work> {
        let (arch, gated) = random::arch(&asked.shape)?;
        let fact = FactWork::of(arch.vocabulary);
        let last = layer_of_search(arch.layers);
        Ok(Work {
            layer: random::layer_weights(&arch, gated),
            layers: LAYERS.min(last + 1),
            last,
            batch: (DEVICE_TOKENS / fact.suffix).min(asked.facts),
            steps: STEPS,
            fact,
            arch,
            asked,
        })
    }

    /// Steps of the whole search where none ends early: batches of different sizes are counted as
    /// parts of full ones.
    pub fn steps_in_all(&self) -> f64 {
        (self.asked.facts * self.steps) as f64 / self.batch as f64
    }

    /// Layers that a step runs.
    pub fn above(&self) -> usize {
        self.arch.layers - 1 - self.last
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.batch * self.fact.suffix
    }

    /// Whether the search's activations are f32.
    pub fn wide(&self) -> bool {
        self.asked.precision == SearchPrecision::Exact
    }
}

impl FactWork {
    /// Of a benchmark's facts.
    fn of(vocabulary: usize) -> FactWork {
        let mut ids = Ids::new(vocabulary);
        let facts = [(); 2].map(|()| ids.fact());
        let mut at = 0;
        let place = |ids: Vec<u32>| {
            at += ids.len();
            at - ids.len()..at
        };
        let shared: Vec<_> = shared_prefixes(&facts).into_iter().map(place).collect();
        let packed = PackedFact::new(&facts[0], &shared);
        let layout = StepLayout::new(std::slice::from_ref(&packed), &shared, 1.0, 0);
        let own = |row: &PromptRow, shared: usize| row.up_to_lookup().len() - shared;
        let keys = facts[0].keys.iter().zip(&shared[1..]);
        let keys: Vec<usize> = keys.map(|(row, shared)| own(row, shared.len())).collect();
        let passes = |seq: &Seq| seq.rows.len().div_ceil(attention_short::ROWS);
        FactWork {
            suffix: packed.tokens(),
            prefix: packed.own_prefix(),
            sequences: layout.pushed.len(),
            logits: layout.losses.len(),
            attention: layout.batch.seqs.iter().map(passes).sum(),
            keys: [keys[0], keys[1..].iter().sum()],
            scored: [facts[0].completion(0).read.len(), facts[0].target.len()],
        }
    }
}
