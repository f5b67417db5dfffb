//! The searches of many facts in one batch: facts are admitted while there is room, step together,
//! and leave when their search ends.

use super::memory::{SearchMemory, fact_bytes, max_tokens};
use super::objective::Objective;
use super::packing::{shared_prefixes, suffix_tokens};
use super::settings::Search;
use super::value::{LossStep, TargetValue};
use crate::base::catch_device_error;
use crate::base::{Error, Progress, Result, Stage};
use crate::edit::prompts::FactRows;
use crate::gpu::graph::Repeated;
use crate::model::Model;
use crate::model::prefix::PrefixCache;
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::search_step::{self, SearchRule, SearchSlots, SearchStatus};
use crate::tensor::{Compute, Precision, Tensor};

/// A fact whose value is searched.
#[derive(Clone, Copy)]
pub struct SearchFact<'a> {
    /// Names it in errors.
    pub id: &'a str,
    /// Its rows.
    pub rows: &'a FactRows,
}

/// Gets the number of a fact and its value, as soon as it is found.
pub type Each<'a> = &'a mut (dyn FnMut(usize, TargetValue) -> Result<()> + Send);

/// Searches v* for one fact.
///
/// # Errors
///
/// As [`find_all`](super::find_all).
pub fn find(
    model: &Model,
    rows: &FactRows,
    search: &Search,
    progress: &dyn Progress,
) -> Result<TargetValue> {
    let mut found = None;
    let mut each = |_, value| {
        found = Some(value);
        Ok(())
    };
    // Alone it may take a shorter way through its products, which rounds otherwise.
    run(model, &[SearchFact { id: "", rows }], search, 0, u64::MAX, progress, &mut each)?;
    Ok(found.expect("the one search is done"))
}

/// Searches v* for many facts on the model's own device, fewer at a time where it runs out of
/// memory.
///
/// # Errors
///
/// As [`find_all`](super::find_all).
pub fn find_on_device(
    model: &Model,
    facts: &[SearchFact],
    search: &Search,
    mut room: u64,
    progress: &dyn Progress,
    each: Each,
) -> Result<()> {
    let mut left: Vec<usize> = (0..facts.len()).collect();
    warn_of_loading(model, facts, search, room, progress);
    loop {
        let own: Vec<SearchFact> = left.iter().map(|&i| facts[i]).collect();
        progress.at(Stage::Fact, (facts.len() - left.len()) as u64, facts.len() as u64);
        let mut found = |i: usize, value| each(left[i], value);
        let outcome = run(model, &own, search, BATCH_INVARIANT_ROWS, room, progress, &mut found)?;
        if let Some(engine) = model.compute.engine() {
            engine.warn(progress);
        }
        let Some(smaller) = outcome.shrink_to else { return Ok(()) };
        let mut done = outcome.done.iter();
        left.retain(|_| !done.next().expect("one for every fact"));
        room = smaller;
        progress.warn("the device ran out of memory: half as many facts at a time");
    }
}

/// What became of the searches of a batch.
struct RunOutcome {
    /// Of each fact, whether its value was found.
    done: Vec<bool>,
    /// Where the device ran out of memory and fewer facts at a time may fit: the room that half of
    /// them take. Else all are done.
    shrink_to: Option<u64>,
}

/// Searches facts in `room` bytes, as many at a time as fit; `least` as in [`Objective::new`].
fn run(
    model: &Model,
    facts: &[SearchFact],
    search: &Search,
    least: usize,
    room: u64,
    progress: &dyn Progress,
    each: Each,
) -> Result<RunOutcome> {
    let mut batch = None;
    let searched = catch_device_error(|| {
        let turn = model.compute.hold();
        let prefixes = shared_prefixes(facts.iter().map(|fact| fact.rows));
        let prefixes = PrefixCache::run(model, &prefixes, search.push.layers(), least);
        let batch = batch.insert(SearchBatch::new(model, facts, search, prefixes, least));
        drop(turn);
        batch.run(room, progress, each)
    });
    match (searched, batch) {
        (Ok(()), Some(batch)) => Ok(RunOutcome { done: batch.done, shrink_to: None }),
        // What was estimated was too little.
        (Err(Error::DeviceMemory { .. }), Some(batch)) if batch.largest.facts > 1 => {
            let shrink_to = Some(batch.largest.half_bytes);
            Ok(RunOutcome { done: batch.done, shrink_to })
        }
        (searched, _) => searched.map(|()| unreachable!("a batch that ran is there")),
    }
}

/// Tokens at a time from which a step computes for longer than the bus takes for its weights: both
/// grow with the weights, at some 50 GB/s and 350 TFLOP/s.
const TOKENS_THAT_HIDE_LOADING: u64 = 7000;

/// Warns where each step loads the weights, and tells whether that takes time.
fn warn_of_loading(
    model: &Model,
    facts: &[SearchFact],
    search: &Search,
    room: u64,
    progress: &dyn Progress,
) {
    if !model.offloads_weights() {
        return;
    }
    let all: usize = facts.iter().map(|f| suffix_tokens(f.rows)).sum();
    let bytes: u64 = facts.iter().map(|f| fact_bytes(model, &search.push, f.rows, 0)).sum();
    let by_room = room / (bytes / all.max(1) as u64).max(1);
    let at_a_time = (all.min(max_tokens(model)) as u64).min(by_room);
    let hidden = if at_a_time < TOKENS_THAT_HIDE_LOADING {
        "takes longer than computing"
    } else {
        "hides behind computing"
    };
    progress.warn(&format!(
        "the weights leave too little of the device, so each step loads them, which {hidden}, at \
         {at_a_time} tokens at a time"
    ));
}

/// The most facts there were at a time.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Largest {
    facts: usize,
    half_bytes: u64, // what half of them take
}

/// The searches of many facts in one batch.
struct SearchBatch<'m> {
    model: &'m Model,
    facts: &'m [SearchFact<'m>],
    search: &'m Search,
    rule: SearchRule,
    memory: SearchMemory,
    next: usize,        // the first fact that was not admitted yet
    active: Vec<usize>, // the fact in each slot
    done: Vec<bool>,
    largest: Largest,
    step: Repeated, // before what it is recorded of, so that it goes first
    slots: SearchSlots,
    before: Option<Tensor>, // δ before the last step, of searches that may end early
    objective: Objective<'m>,
}

impl<'m> SearchBatch<'m> {
    fn new(
        model: &'m Model,
        facts: &'m [SearchFact<'m>],
        search: &'m Search,
        prefixes: PrefixCache,
        least: usize,
    ) -> Self {
        let compute = match &model.compute {
            Compute::Host(_) => Precision::F64.into(),
            device => device.clone(),
        };
        let width = search.push.vectors() * model.arch.width;
        SearchBatch {
            model,
            facts,
            search,
            rule: search.rule(),
            memory: SearchMemory::new(model, &search.push, facts.iter().map(|fact| fact.rows)),
            next: 0,
            active: Vec::new(),
            done: vec![false; facts.len()],
            largest: Largest::default(),
            step: Repeated::default(),
            slots: SearchSlots::new(&compute, width, search.steps),
            before: None,
            objective: Objective::new(model, search.push, search.kl_factor, prefixes, least),
        }
    }

    fn run(&mut self, room: u64, progress: &dyn Progress, each: Each) -> Result<()> {
        let total = self.facts.len() as u64;
        let room = room.saturating_sub(self.memory.fixed_bytes).max(1);
        let mut done = 0;
        while self.next < self.facts.len() || !self.active.is_empty() {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            let turn = self.model.compute.hold();
            self.admit(room);
            let ended = self.step()?;
            let slots = (0..ended.len()).filter(|&slot| ended[slot]);
            let found: Vec<_> = slots.map(|slot| (self.active[slot], self.found(slot))).collect();
            drop(turn);
            self.report(total, done, room, progress);
            if !found.is_empty() {
                for (fact, value) in found {
                    done += 1;
                    self.done[fact] = true;
                    each(fact, value)?;
                }
                self.retain(&ended);
                progress.at(Stage::Fact, done, total);
            }
        }
        Ok(())
    }

    fn tokens(&self, fact: usize) -> usize {
        suffix_tokens(self.facts[fact].rows)
    }

    /// Takes facts in while they fit, once a quarter of the room is free.
    fn admit(&mut self, room: u64) {
        let mut bytes = self.active_bytes();
        let mut tokens = self.active_tokens();
        let most_tokens = max_tokens(self.model);
        if bytes > room / 4 * 3 || tokens > most_tokens / 4 * 3 {
            return;
        }
        let from = self.next;
        while self.next < self.facts.len() {
            let own = self.memory.facts[self.next];
            tokens += self.tokens(self.next);
            if (bytes + own > room || tokens > most_tokens) && bytes > 0 {
                break;
            }
            bytes += own;
            self.next += 1;
        }
        if self.next == from {
            return;
        }
        let now = Largest {
            facts: self.active.len() + self.next - from,
            half_bytes: self.memory.fixed_bytes + bytes / 2,
        };
        self.largest = self.largest.max(now);
        let admitted: Vec<_> = self.facts[from..self.next].iter().map(|fact| fact.rows).collect();
        self.step.changed();
        let t0 = self.objective.admit(&admitted);
        self.slots.begin(&self.rule, &t0);
        self.active.extend(from..self.next);
    }

    /// Lets the facts go whose searches have ended.
    fn retain(&mut self, ended: &[bool]) {
        let _turn = self.model.compute.hold();
        self.step.changed();
        self.objective.retain(&ended.iter().map(|e| !e).collect::<Vec<_>>());
        let on: Vec<usize> = (0..ended.len()).filter(|&slot| !ended[slot]).collect();
        self.slots.keep(&on);
        self.active = on.iter().map(|&slot| self.active[slot]).collect();
    }

    /// The loss of every fact, and one step of every δ. Returns which searches have ended.
    fn step(&mut self) -> Result<Vec<bool>> {
        let SearchBatch { model, search, rule, slots, objective, step, before, .. } = self;
        // What ends early is known on the host, after δ was moved once more.
        *before = (search.early_stop > 0).then(|| slots.delta.clone());
        // Weights that come and go are not there when a step is recorded.
        let engine = model.compute.engine().filter(|_| !model.offloads_weights());
        step.run(engine, || {
            let gradient = objective.gradient(&slots.delta, &slots.factor);
            search_step::step(rule, model.arch.width, objective.losses(), &gradient, slots);
        });
        let status = slots.read();
        if let Some(slot) = status.iter().position(|s| s.0 == SearchStatus::Diverged) {
            let layer = search.push.site.layer;
            let step = status[slot].1;
            let id = self.facts[self.active[slot]].id;
            let of = if id.is_empty() { String::new() } else { format!(" of record `{id}`") };
            return Err(Error::numeric(
                format!("layer {layer}: the loss is not finite at step {step}{of}"),
                "check the checkpoint for NaN weights, or edit another layer",
            ));
        }
        let mut ended: Vec<bool> = status.iter().map(|s| s.0 == SearchStatus::Converged).collect();
        if search.early_stop > 0 {
            for (slot, ended) in ended.iter_mut().enumerate() {
                *ended |= self.ends_early(slot);
            }
        }
        Ok(ended)
    }

    fn ends_early(&self, slot: usize) -> bool {
        self.search.ends_early(self.trace(slot).iter().map(|loss| loss.missed))
    }

    /// The losses of a slot's steps.
    fn trace(&self, slot: usize) -> Vec<LossStep> {
        let trace = self.slots.trace.row_f64(slot);
        trace.chunks_exact(4).take(self.steps_of(slot)).map(losses).collect()
    }

    fn found(&self, slot: usize) -> TargetValue {
        let delta = match &self.before {
            Some(before) if self.ends_early(slot) => before,
            _ => &self.slots.delta,
        };
        let [t0, delta] = [&self.slots.t0, delta].map(|x| x.row_f64(slot));
        TargetValue::new(self.model, &self.search.push, t0, delta, self.trace(slot))
    }

    /// Steps that the fact in a slot took.
    fn steps_of(&self, slot: usize) -> usize {
        self.slots.status[slot].1
    }

    fn active_bytes(&self) -> u64 {
        self.active.iter().map(|&fact| self.memory.facts[fact]).sum()
    }

    fn active_tokens(&self) -> usize {
        self.active.iter().map(|&fact| self.tokens(fact)).sum()
    }

    fn report(&self, total: u64, done: u64, room: u64, progress: &dyn Progress) {
        if (self.active.len(), total) == (1, 1) {
            return progress.at(Stage::Step, self.steps_of(0) as u64, self.search.steps as u64);
        }
        let trace = self.slots.trace.to_f64();
        let width = 4 * self.search.steps;
        let last =
            |slot: usize| losses(&trace[slot * width..][4 * (self.steps_of(slot) - 1)..][..4]);
        let slots = self.active.len();
        let mean = (0..slots).map(|slot| last(slot).total()).sum::<f64>() / slots as f64;
        let filled = 100 * self.active_tokens() / max_tokens(self.model);
        let full = (100 * self.active_bytes() / room).max(filled as u64).min(100);
        progress.at(Stage::Fact, done, total);
        progress.detail(&format!("mean loss {mean:.2}, {slots} at a time, slots {full} % full"));
    }
}

/// A step's part of [`SearchSlots::trace`].
fn losses(step: &[f64]) -> LossStep {
    LossStep { nll: step[0], kl: step[1], weight_decay: step[2], missed: step[3] as usize }
}
