//! Keys of many facts at a layer, and what a site holds at their bare prompts.
//!
//! ```text
//! k_l (F)   Σ_groups 1/G Σ_contexts 1/|g| · key of layer l at the subject's last token
//! h   (D)   the site's own output there, of the bare prompt alone
//! ```
//!
//! Rows run up to their subject's last token only. Edits begin at some layer, so the stream that
//! enters it never changes: it is run once and kept where there is room, and each look goes on
//! from there. Source: Meng et al. 2023, arXiv:2210.07229, and the public code's averages.

use faer::Mat;

use super::prompts::{FactRows, PromptRow};
use crate::base::{Error, Progress, Result};
use crate::data::Contexts;
use crate::data::contexts::Average;
use crate::model::Past;
use crate::model::prefix::{PrefixCache, common_prefixes};
use crate::model::site::Tap;
use crate::model::{At, Batch, Hook, Model, NoHook, Run, Site};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::tensor::Tensor;

/// Tokens run at a time.
const TOKENS: usize = 4096;

/// Facts that run together: their bare prompts, and their other rows.
struct Chunk {
    facts: std::ops::Range<usize>,
    bare: Part,
    others: Part,
}

/// Rows of some facts, each cut behind its lookup token.
struct Part {
    batch: Batch,
    read: Vec<(usize, usize, f64)>, // (batch row, fact of the chunk, weight)
    entry: Option<Tensor>,          // (N, D): the stream that enters the first edited layer
}

/// The rows of many facts, ready to be read again and again while a model changes.
pub struct Reader {
    first: usize, // the lowest layer that changes
    beginnings: Vec<Vec<u32>>,
    chunks: Vec<Chunk>,
    facts: usize,
}

/// The bare prompts of some facts.
pub struct BarePrompts<'r> {
    /// The batch row of each one's lookup token, and the fact.
    pub places: Vec<(usize, usize)>,
    reader: &'r Reader,
    part: &'r Part,
    shared: &'r PrefixCache,
}

impl Reader {
    /// Of facts whose rows belong to these contexts, for edits from layer `first` on. `room` is
    /// how many bytes the streams that enter that layer may take. A device without room unwinds to
    /// [`catch_device_error`](crate::base::catch_device_error), here and in [`look`](Reader::look).
    pub fn new(
        model: &Model,
        facts: &[&FactRows],
        contexts: &Contexts,
        first: usize,
        room: u64,
    ) -> Reader {
        let beginnings = common_prefixes(
            facts.iter().map(|rows| rows.keys.iter().map(PromptRow::before_lookup)),
        );
        let mut at = 0;
        let shared: Vec<_> = beginnings
            .iter()
            .map(|ids| {
                at += ids.len();
                at - ids.len()..at
            })
            .collect();
        let weights = contexts.weights(Average::Grouped);
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut tokens = 0;
        for (i, rows) in facts.iter().enumerate() {
            if tokens == 0 || tokens >= TOKENS {
                tokens = 0;
                let part = || Part { batch: Batch::default(), read: Vec::new(), entry: None };
                chunks.push(Chunk { facts: i..i, bare: part(), others: part() });
            }
            let chunk = chunks.last_mut().expect("just made");
            for (j, row) in rows.keys.iter().enumerate() {
                let part = if j == 0 { &mut chunk.bare } else { &mut chunk.others };
                tokens += part.add(row, shared[j].clone(), i - chunk.facts.start, weights[j]);
            }
            chunk.facts.end = i + 1;
        }
        let mut reader = Reader { first, beginnings, chunks, facts: facts.len() };
        reader.keep(model, room);
        reader
    }

    /// Runs the streams that enter the first layer, where they fit.
    fn keep(&mut self, model: &Model, room: u64) {
        let parts = || self.chunks.iter().flat_map(|c| [&c.bare, &c.others]);
        let rows: usize = parts().map(|p| p.batch.len().max(BATCH_INVARIANT_ROWS)).sum();
        let size = model.compute.precision().size();
        let bytes = (rows * model.arch.width * size) as u64;
        let kept = self.first > 0 && bytes <= room;
        let shared = PrefixCache::run(model, &self.beginnings, self.first, BATCH_INVARIANT_ROWS);
        for part in self.chunks.iter_mut().flat_map(|c| [&mut c.bare, &mut c.others]) {
            part.batch.fill(BATCH_INVARIANT_ROWS);
            if kept {
                let (mut x, mut run) = (model.embed(&part.batch), Run::new(model));
                let past = Past::Read(&shared.cache);
                model.forward(&part.batch, 0..self.first, past, &mut x, &mut run, &mut NoHook);
                part.entry = Some(x);
            }
        }
    }

    /// K (F, n) of a layer and, of the bare prompts, what each of some `sites` holds (D, n), in the
    /// model as it is now. The layer is not below the first, and no site below the layer.
    ///
    /// # Errors
    ///
    /// Keys that are not finite; cancellation.
    pub fn look<const S: usize>(
        &self,
        model: &Model,
        layer: usize,
        sites: [Site; S],
        progress: &dyn Progress,
    ) -> Result<(Mat<f64>, [Mat<f64>; S])> {
        let mut k = Mat::zeros(model.arch.inner, self.facts);
        let mut h = sites.map(|_| Mat::zeros(model.arch.width, self.facts));
        let last = sites.iter().map(|site| site.layer).fold(layer, usize::max);
        let shared = self.prefixes(model, last + 1);
        for chunk in &self.chunks {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            let first = chunk.facts.start;
            let key = Site { layer, at: At::KEY };
            let mut add = |part: &Part, tap: &Tap| {
                for (&(_, fact, weight), key) in part.read.iter().zip(tap.vectors(0)) {
                    let column = k.col_mut(first + fact);
                    column.iter_mut().zip(key).for_each(|(k, x)| *k += weight * x);
                }
            };
            if !chunk.others.read.is_empty() {
                let mut tap = chunk.others.tap(model, vec![key]);
                self.run(model, &chunk.others, layer, &shared, &mut tap);
                add(&chunk.others, &tap);
            }
            let all = [key].into_iter().chain(sites).collect();
            let mut tap = chunk.bare.tap(model, all);
            self.run(model, &chunk.bare, last, &shared, &mut tap);
            add(&chunk.bare, &tap);
            for (i, h) in h.iter_mut().enumerate() {
                for (&(_, fact, _), held) in chunk.bare.read.iter().zip(tap.vectors(1 + i)) {
                    let column = h.col_mut(first + fact);
                    column.iter_mut().zip(held).for_each(|(h, x)| *h = x);
                }
            }
        }
        let finite = |m: &Mat<f64>| m.col_iter().all(|c| c.iter().all(|x| x.is_finite()));
        if !finite(&k) || !h.iter().all(finite) {
            return Err(Error::numeric(
                format!("layer {layer}: some keys are not finite"),
                "check the checkpoint for NaN weights, or edit other layers",
            ));
        }
        Ok((k, h))
    }

    /// The prompts' common beginnings, run through the first so many layers.
    pub fn prefixes(&self, model: &Model, layers: usize) -> PrefixCache {
        PrefixCache::run(model, &self.beginnings, layers, BATCH_INVARIANT_ROWS)
    }

    /// The bare prompts, some at a time, behind their common [beginnings](Reader::prefixes).
    pub fn bare_prompts<'r>(
        &'r self,
        shared: &'r PrefixCache,
    ) -> impl Iterator<Item = BarePrompts<'r>> {
        self.chunks.iter().map(move |Chunk { facts, bare: part, .. }| {
            let place = |&(row, fact, _): &(usize, usize, f64)| (row, facts.start + fact);
            let places = part.read.iter().map(place).collect();
            BarePrompts { places, reader: self, part, shared }
        })
    }

    /// Runs a part through the layers up to `last`.
    fn run(
        &self,
        model: &Model,
        part: &Part,
        last: usize,
        shared: &PrefixCache,
        hook: &mut dyn Hook,
    ) {
        let (from, mut x) = match &part.entry {
            Some(entry) => (self.first, entry.clone()),
            None => (0, model.embed(&part.batch)),
        };
        let past = Past::Read(&shared.cache);
        model.forward(&part.batch, from..last + 1, past, &mut x, &mut Run::new(model), hook);
    }
}

impl BarePrompts<'_> {
    /// Runs them through the layers up to `last`.
    pub fn run(&self, model: &Model, last: usize, hook: &mut dyn Hook) {
        self.reader.run(model, self.part, last, self.shared, hook);
    }
}

impl Part {
    /// Of the rows that are read.
    fn tap(&self, model: &Model, sites: Vec<Site>) -> Tap {
        let rows: Vec<usize> = self.read.iter().map(|&(row, ..)| row).collect();
        Tap::new(&model.compute, sites, rows)
    }

    /// Adds a row; returns how many tokens that are.
    fn add(
        &mut self,
        row: &PromptRow,
        shared: std::ops::Range<usize>,
        fact: usize,
        weight: f64,
    ) -> usize {
        let own = &row.up_to_lookup()[shared.len()..];
        let rows = self.batch.push_after(own, [shared, 0..0]);
        self.read.push((rows.end - 1, fact, weight));
        rows.len()
    }
}
