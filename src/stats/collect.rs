//! Collecting C = (1/n) Σ k kᵀ for several inputs, of keys or of others, in one pass over text.
//!
//! Every document is its own sequence, with the special tokens its tokenizer adds; a longer one is
//! cut into consecutive windows, later ones without added tokens. Every token counts. Whole
//! windows are packed into batches whose bounds depend on the text alone, products are f32 and
//! totals f64, so the result is the same on every run, also on one that was interrupted.
//! A shard i of n cuts all of the text into the same windows, stops where the whole would, and runs
//! every n-th window from the i-th: what n shards counted adds up to what one run counts.
//! Several devices take batches in turn, and their totals are added at the end.
//! Cost: a forward pass to the last layer asked for, and N·F² FLOP an input of width F.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::file::Moment;
use super::input::LayerInput;
use super::normed::NormedMoments;
use super::origin::{Collect, Part};
use super::partial::{self, PartialSums};
use crate::base::{Error, Progress, Result, Stage, catch_device_error};
use crate::model::Past;
use crate::model::{Batch, Hook, Model, Run, Site};
use crate::ops::gram::{self, Totals};
use crate::tensor::Tensor;
use crate::text::Tokenizer;

/// Tokens a batch has at least, unless the text ends.
const BATCH: usize = 1024;
/// Batches after which a device's sums join its totals: they depend on the text alone.
const SETTLE: usize = 8;
/// How often the work so far is written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(120);

/// The windows of a text, in order.
struct Windows<'a, D> {
    documents: D,
    tokenizer: &'a Tokenizer,
    length: usize,
    ready: VecDeque<Vec<u32>>,
}

impl<D: Iterator<Item = Result<String>>> Iterator for Windows<'_, D> {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(window) = self.ready.pop_front() {
                return Some(Ok(window));
            }
            match self.documents.next()?.and_then(|text| self.tokenizer.encode(&text)) {
                Ok(ids) => self.ready.extend(ids.chunks(self.length).map(<[u32]>::to_vec)),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// Runs the text and returns the second moment of each input. Work in progress is kept in `dir`
/// and continued by the same call.
///
/// # Errors
///
/// Text that cannot be read or has no token, statistics in progress of something else, cancellation
/// (the work so far is kept), keys that are not finite, a device out of memory.
pub fn collect(
    model: &Model,
    tokenizer: &Tokenizer,
    documents: impl Iterator<Item = Result<String>>,
    what: &Collect,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Moment>> {
    catch_device_error(|| collected(model, tokenizer, documents, what, dir, progress))
}

fn collected(
    model: &Model,
    tokenizer: &Tokenizer,
    documents: impl Iterator<Item = Result<String>>,
    what: &Collect,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Moment>> {
    let widths: Vec<usize> = what.inputs.iter().map(|of| of.width(model)).collect();
    let summed = summed_widths(model, what);
    let mut sums = partial::open(dir, what, &summed)?;
    if let Some(engine) = model.compute.engine() {
        engine.warn(progress);
    }
    let length = what.origin.context_length;
    let mut windows = Windows { documents, tokenizer, length, ready: VecDeque::new() };
    for _ in 0..sums.windows {
        windows.next().transpose()?;
    }
    let mut workers = workers(model, what, std::mem::take(&mut sums.totals))?;
    let mut saved = Instant::now();
    let mut rounds = 0usize;
    loop {
        let mut batches = Vec::new();
        while batches.len() < workers.len()
            && let Some(batch) = next_batch(model, &mut windows, what, &mut sums)?
        {
            batches.push(batch);
        }
        if batches.is_empty() {
            break;
        }
        run_all(&mut workers, what, &batches);
        progress.at(Stage::Token, sums.tokens_read, what.max_tokens);
        rounds += 1;
        if rounds.is_multiple_of(SETTLE) {
            workers.iter_mut().flat_map(|w| &mut w.totals).for_each(Totals::settle);
        }
        // On one device, sums that are continued from here are those of an uninterrupted run.
        if !workers.iter().flat_map(|w| &w.totals).all(Totals::settled) {
            continue;
        }
        if progress.cancelled() {
            partial::save(dir, what, &sums, &added(&mut workers))?;
            let kept = format!("{} tokens are kept; the same call goes on from them", sums.tokens);
            return Err(Error::Interrupted { kept });
        }
        if saved.elapsed() > SAVE_EVERY {
            partial::save(dir, what, &sums, &added(&mut workers))?;
            saved = Instant::now();
        }
    }
    if sums.tokens == 0 {
        return Err(no_tokens(what, &sums));
    }
    let part = what.share.map(|share| Part { share, total_tokens: sums.tokens_read });
    let moment = |((&of, &f), total): ((&LayerInput, &usize), Cow<[f64]>)| {
        if !total.iter().all(|t| t.is_finite()) {
            return Err(Error::numeric(
                format!("{}: some keys are not finite", of.title()),
                "check the checkpoint for NaN weights",
            ));
        }
        Ok(Moment { part, ..Moment::of(of, f, sums.tokens, &total, &what.origin) })
    };
    what.inputs.iter().zip(&widths).zip(added(&mut workers)).map(moment).collect()
}

/// The widths of what is summed: of normed keys one more.
fn summed_widths(model: &Model, what: &Collect) -> Vec<usize> {
    let more = usize::from(what.origin.normed);
    what.inputs.iter().map(|of| of.width(model) + more).collect()
}

/// One device: its model, and what it has added up.
struct Worker {
    model: Model,
    run: Run,
    totals: Vec<Totals>, // one an input
}

/// Each worker's batch, on a thread of its own: one of rayon's pool that waits would be given
/// another device's pass, while it holds its own.
fn run_all(workers: &mut [Worker], what: &Collect, batches: &[Batch]) {
    thread::scope(|scope| {
        let passes = workers.iter_mut().zip(batches);
        let start = passes.map(|(worker, batch)| scope.spawn(move || worker.run(what, batch)));
        let threads: Vec<_> = start.collect();
        threads.into_iter().for_each(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
    });
}

/// A worker a device; the first continues from the totals `from`.
fn workers(model: &Model, what: &Collect, mut from: Vec<Vec<f64>>) -> Result<Vec<Worker>> {
    let widths = || summed_widths(model, what).into_iter();
    let worker = |model: Model| {
        let zeros = || widths().map(|f| vec![0.0; gram::packed_len(f)]).collect();
        let from = if from.is_empty() { zeros() } else { std::mem::take(&mut from) };
        let totals = from.into_iter().zip(widths());
        let totals = totals.map(|(total, f)| Totals::new(&model.compute, f, total));
        Worker { run: Run::new(&model), totals: totals.collect(), model }
    };
    Ok(model.everywhere()?.into_iter().map(worker).collect())
}

impl Worker {
    /// Adds a batch's keys.
    fn run(&mut self, what: &Collect, batch: &Batch) {
        let inputs = &what.inputs;
        let Worker { model, run, totals } = self;
        let _hold = model.compute.hold();
        let mut x = model.embed(batch);
        let end = inputs.iter().map(|of| of.layer + 1).max().unwrap_or(0);
        let mut hook: Box<dyn Hook> = match what.origin.normed {
            true => Box::new(NormedMoments::new(model, inputs, totals)),
            false => Box::new(InputMoments::new(inputs, totals)),
        };
        model.forward(batch, 0..end, Past::None, &mut x, run, &mut *hook);
    }
}

/// Adds the rows of some inputs to their totals, as a pass comes by.
pub struct InputMoments<'a> {
    sites: Vec<Site>,
    totals: &'a mut [Totals],
}

impl InputMoments<'_> {
    /// Of these inputs, a total each.
    pub fn new<'a>(inputs: &[LayerInput], totals: &'a mut [Totals]) -> InputMoments<'a> {
        InputMoments { sites: inputs.iter().map(|of| of.site()).collect(), totals }
    }
}

impl Hook for InputMoments<'_> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, keys: &mut Tensor) {
        let i = self.sites.iter().position(|&own| own == site).expect("one of its sites");
        self.totals[i].add(keys);
    }
}

/// The totals of all workers added up, packed, one an input.
fn added(workers: &mut [Worker]) -> Vec<Cow<'_, [f64]>> {
    let mut each = workers.iter_mut().map(|worker| worker.totals.iter_mut().map(Totals::packed));
    let mut all: Vec<_> = each.next().expect("a device").collect();
    for totals in each {
        for (all, total) in all.iter_mut().zip(totals) {
            all.to_mut().iter_mut().zip(total.iter()).for_each(|(a, t)| *a += t);
        }
    }
    all
}

/// Why no token was counted.
fn no_tokens(what: &Collect, sums: &PartialSums) -> Error {
    match what.share {
        Some(share) if sums.windows > 0 => Error::refused(
            format!("shard {share} gets none of the text's {} sequences", sums.windows),
            format!("spread over {} shards or fewer", sums.windows),
        ),
        _ => Error::refused(
            "the corpus has no token",
            "give a text with at least one non-empty line",
        ),
    }
}

/// Whole windows of the share up to [`BATCH`] tokens or the limit, which cuts the last one.
fn next_batch(
    model: &Model,
    windows: &mut impl Iterator<Item = Result<Vec<u32>>>,
    what: &Collect,
    sums: &mut PartialSums,
) -> Result<Option<Batch>> {
    let mut batch = Batch::default();
    while batch.len() < BATCH && sums.tokens_read < what.max_tokens {
        let Some(mut ids) = windows.next().transpose()? else { break };
        model.arch.check(&ids)?;
        ids.truncate((what.max_tokens - sums.tokens_read).min(ids.len() as u64) as usize);
        sums.tokens_read += ids.len() as u64;
        if what.share.is_none_or(|share| share.has(sums.windows)) {
            sums.tokens += ids.len() as u64;
            batch.push(&ids, 0..0);
        }
        sums.windows += 1;
    }
    Ok((!batch.is_empty()).then_some(batch))
}
