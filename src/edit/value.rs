//! v*, the vector that, held by one site, makes the model say the new object.
//!
//! ```text
//! v* = t₀ + δ,   ‖δ‖ ≤ clamp·‖t₀‖
//! δ  = argmin  mean_j −(1/T) Σ_t ln P[y_t | row j, push δ]      say the new object
//!            + κ KL(P[· | row′, push δ] ‖ P[· | row′])          stay what it is
//!            + decay ‖δ‖/‖t₀‖²                                  stay small
//! ```
//!
//! t₀ (D) is what the site holds at the bare prompt's subject. Adam from δ = 0; the search ends
//! when the loss is below 0.05 or the steps are used up (the last one does not move δ). Model,
//! loss and gradient run in the model's precision; δ and Adam in f64, on a device in f32, where a
//! step needs nothing from the host. Source: Meng et al. 2022, arXiv:2202.05262, eq. 4, and the
//! public code's stopping rule.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::catch_device_error;
use crate::base::{Error, Progress, Result, Stage};
use crate::gpu::graph::Repeated;
use crate::model::Model;
use crate::model::pushed::{Parts, Problem, Push, Pushed};
use crate::model::shared::{Shared, common};
use crate::ops::adam::{self, Rule, Slots, State};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::store::Fingerprint;
use crate::tensor::{Compute, Precision, Tensor};
use crate::text::Rows;

/// The loss below which a search ends.
pub const ENOUGH: f64 = 0.05;

/// The settings of a search; the field's names in brackets.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// Where δ goes in and the loss is read (`layers`, `v_loss_layer`).
    pub push: Push,
    /// At most this many looks at the loss (`v_num_grad_steps`).
    pub steps: usize,
    /// Adam's rate (`v_lr`).
    pub lr: f64,
    /// Weight of ‖δ‖/‖t₀‖² (`v_weight_decay`).
    pub decay: f64,
    /// ‖δ‖ ≤ clamp·‖t₀‖ (`clamp_norm_factor`).
    pub clamp: f64,
    /// κ (`kl_factor`).
    pub kl_factor: f64,
    /// Weight of the negative log-likelihood, 1 but for PMET (`nll_loss_factor`).
    pub nll_factor: f64,
    /// PMET's rule: once every target token is the likeliest, NLL weighs a tenth in the next step,
    /// and the search ends if the KL term is at most 0.01.
    pub eases: bool,
    /// The loss that ends the search, 0.05 everywhere in the field.
    pub enough: f64,
}

impl Search {
    /// Adds every setting to a name for what was found with them.
    pub fn digest(&self, into: &mut Fingerprint) {
        let Search { push, steps, lr, decay, clamp, kl_factor, nll_factor, eases, enough } = self;
        into.field(format!("{:?}", push.site.at).as_bytes());
        let counts = [push.site.layer, push.loss_layer, *steps];
        counts.iter().for_each(|&n| into.add(&(n as u64).to_le_bytes()));
        [push.attention, *eases].iter().for_each(|&b| into.add(&[u8::from(b)]));
        let numbers = [lr, decay, clamp, kl_factor, nll_factor, enough];
        numbers.into_iter().for_each(|x| into.add(&x.to_le_bytes()));
    }
}

/// One look at the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Say (times its weight) and stay.
    pub parts: Parts,
    /// decay ‖δ‖/‖t₀‖².
    pub decay: f64,
}

impl Step {
    /// The whole loss.
    pub fn total(&self) -> f64 {
        self.parts.nll + self.parts.kl + self.decay
    }

    /// From a look's part of [`Slots::trace`].
    fn seen(look: &[f64]) -> Step {
        let parts = Parts { nll: look[0], kl: look[1], missed: look[3] as usize };
        Step { parts, decay: look[2] }
    }
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetValue {
    /// t₀ (D).
    pub t0: Vec<f64>,
    /// δ (D).
    pub delta: Vec<f64>,
    /// What PMET pushes into the attention's output and then forgets (D), else nothing.
    pub aside: Vec<f64>,
    /// The loss at each step; its length is the number of steps taken.
    pub trace: Vec<Step>,
}

impl TargetValue {
    /// v* = t₀ + δ.
    pub fn v_star(&self) -> Vec<f64> {
        self.t0.iter().zip(&self.delta).map(|(t, d)| t + d).collect()
    }
}

/// Searches v* for one fact.
///
/// # Errors
///
/// As [`find_all`].
pub fn find(
    model: &Model,
    rows: &Rows,
    by: &Search,
    progress: &dyn Progress,
) -> Result<TargetValue> {
    let mut found = None;
    let facts = [Wanted { id: "", rows }];
    let mut each = |_, value| {
        found = Some(value);
        Ok(())
    };
    catch_device_error(|| {
        let shared = shared(model, &facts, by, 0);
        let mut searches = Searches::new(model, &facts, by, &shared, true);
        searches.run(u64::MAX, progress, &mut (0, 0), &mut each)
    })?;
    Ok(found.expect("the one search is done"))
}

/// Searches v* for many facts, as many at a time as fit in `room` bytes of each device, or in what
/// one of several has to spare where that is less; `each` gets the number of a fact and its value
/// as soon as it is found. What is found does not depend on `room`, nor on which other facts there
/// are.
///
/// # Errors
///
/// Numbers that are not finite, naming the fact; cancellation; what `each` says.
pub fn find_all(
    model: &Model,
    facts: &[Wanted],
    by: &Search,
    room: u64,
    progress: &dyn Progress,
    each: Each,
) -> Result<()> {
    let models = model.everywhere()?;
    let n = models.len();
    if n == 1 {
        return find_on(model, facts, by, room, progress, each);
    }
    // Every n-th fact on each device. What a fact gets does not depend on the others.
    let (each, done) = (Mutex::new(each), AtomicU64::new(0));
    let one = |i: usize, model: &Model| {
        let own: Vec<usize> = (i..facts.len()).step_by(n).collect();
        let wanted: Vec<Wanted> = own.iter().map(|&fact| facts[fact]).collect();
        let room = model.spare().map_or(room, |spare| room.min(spare));
        find_on(model, &wanted, by, room, &Aside(progress), &mut |j, value| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress.at(Stage::Fact, done, facts.len() as u64);
            each.lock().unwrap_or_else(PoisonError::into_inner)(own[j], value)
        })
    };
    std::thread::scope(|scope| {
        let one = &one;
        let started = |(i, model)| scope.spawn(move || one(i, model));
        let threads: Vec<_> = models.iter().enumerate().map(started).collect();
        let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| resume_unwind(p)));
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Gets the number of a fact and its value, as soon as it is found.
pub type Each<'a> = &'a mut (dyn FnMut(usize, TargetValue) -> Result<()> + Send);

/// One of several searches side by side: how far all are, others say.
struct Aside<'a>(&'a dyn Progress);

impl Progress for Aside<'_> {
    fn at(&self, _: Stage, _: u64, _: u64) {}

    fn warn(&self, sentence: &str) {
        self.0.warn(sentence);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// On the model's own device.
fn find_on(
    model: &Model,
    facts: &[Wanted],
    by: &Search,
    room: u64,
    progress: &dyn Progress,
    each: Each,
) -> Result<()> {
    let (mut room, mut left): (u64, Vec<usize>) = (room, (0..facts.len()).collect());
    warn_of_loading(model, facts, by, room, progress);
    loop {
        let wanted: Vec<Wanted> = left.iter().map(|&i| facts[i]).collect();
        let mut found = vec![false; left.len()];
        let mut most = (0, 0); // facts at a time, and the room that half of them need
        progress.at(Stage::Fact, (facts.len() - left.len()) as u64, facts.len() as u64);
        let searched = catch_device_error(|| {
            let shared = shared(model, &wanted, by, BATCH_INVARIANT_ROWS);
            let mut searches = Searches::new(model, &wanted, by, &shared, false);
            searches.run(room, progress, &mut most, &mut |i, value| {
                found[i] = true;
                each(left[i], value)
            })
        });
        match searched {
            // What was estimated was too little: the rest is begun anew, fewer at a time.
            Err(Error::DeviceMemory { .. }) if most.0 > 1 => {
                left = left.into_iter().zip(found).filter(|(_, f)| !f).map(|(i, _)| i).collect();
                room = most.1;
                progress.warn("the device ran out of memory: half as many facts at a time");
            }
            other => return other,
        }
    }
}

/// Tokens at a time from which a step computes for longer than the bus takes for its weights: both
/// grow with the weights, at some 50 GB/s and 350 TFLOP/s.
const HIDES: u64 = 7000;

/// Says so where each step loads the weights, and whether that takes time.
fn warn_of_loading(
    model: &Model,
    facts: &[Wanted],
    by: &Search,
    room: u64,
    progress: &dyn Progress,
) {
    if !model.offloads_weights() {
        return;
    }
    let all: usize = facts.iter().map(|f| Problem::tokens(f.rows)).sum();
    let bytes: u64 = facts.iter().map(|f| by.push.bytes(model, f.rows, 0)).sum();
    let at_a_time = (all.min(tokens(model)) as u64).min(room / (bytes / all.max(1) as u64).max(1));
    let hidden =
        if at_a_time < HIDES { "takes longer than computing" } else { "hides behind computing" };
    progress.warn(&format!(
        "the weights leave too little of the device, so each step loads them, which {hidden}, at \
         {at_a_time} tokens at a time"
    ));
}

fn shared(model: &Model, facts: &[Wanted], by: &Search, least: usize) -> Shared {
    let beginnings = common(facts.iter().map(|f| Problem::kinds(f.rows)));
    Shared::run(model, &beginnings, by.push.layers(), least)
}

/// Tokens searched at a time, at most: more make no product faster, and facts would come in fits.
pub fn tokens(model: &Model) -> usize {
    if model.compute.engine().is_some() { 8192 } else { 4096 }
}

/// A fact whose value is wanted.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Names it in errors.
    pub id: &'a str,
    /// Its rows.
    pub rows: &'a Rows,
}

/// The searches of many facts in one batch.
struct Searches<'m> {
    model: &'m Model,
    facts: &'m [Wanted<'m>],
    by: &'m Search,
    rule: Rule,
    bytes: Vec<u64>,     // by fact
    besides: u64,        // bytes
    next: usize,         // the first fact not taken in yet
    running: Vec<usize>, // the fact in each slot
    step: Repeated,      // before what it is recorded of, so that it goes first
    slots: Slots,
    pushed: Pushed<'m>,
}

impl<'m> Searches<'m> {
    fn new(
        model: &'m Model,
        facts: &'m [Wanted<'m>],
        by: &'m Search,
        shared: &'m Shared,
        alone: bool,
    ) -> Self {
        let bytes = |f: &Wanted| by.push.bytes(model, f.rows, shared.tokens());
        let compute = match &model.compute {
            Compute::Host(_) => Precision::F64.into(),
            device => device.clone(),
        };
        let &Search { lr, decay, clamp, nll_factor, enough, eases, steps, .. } = by;
        Searches {
            model,
            facts,
            by,
            rule: Rule { lr, decay, clamp, nll_factor, enough, eases, steps },
            bytes: facts.iter().map(bytes).collect(),
            besides: by.push.bytes_besides(model, facts.iter().map(|f| f.rows), shared.tokens()),
            next: 0,
            running: Vec::new(),
            slots: Slots::new(&compute, by.push.vectors() * model.arch.width, steps),
            pushed: Pushed::new(model, by.push, shared, alone),
            step: Repeated::default(),
        }
    }

    fn run(
        &mut self,
        room: u64,
        progress: &dyn Progress,
        most: &mut (usize, u64),
        each: Each,
    ) -> Result<()> {
        let total = self.facts.len() as u64;
        let room = room.saturating_sub(self.besides).max(1);
        let mut done = 0;
        while self.next < self.facts.len() || !self.running.is_empty() {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            self.refill(room, most);
            let ended = self.look()?;
            self.tell(total, done, room, progress);
            if ended.contains(&true) {
                for slot in (0..ended.len()).filter(|&slot| ended[slot]) {
                    done += 1;
                    each(self.running[slot], self.found(slot))?;
                }
                self.retain(&ended);
                progress.at(Stage::Fact, done, total);
            }
        }
        Ok(())
    }

    fn tokens(&self, fact: usize) -> usize {
        Problem::tokens(self.facts[fact].rows)
    }

    /// Takes facts in while they fit, once a quarter of the room is free.
    fn refill(&mut self, room: u64, most: &mut (usize, u64)) {
        let mut used = self.used();
        let running = self.running_tokens();
        let most_tokens = tokens(self.model);
        if used > room / 4 * 3 || running > most_tokens / 4 * 3 {
            return;
        }
        let mut rows = Vec::new();
        let from = self.next;
        let mut tokens = running;
        while self.next < self.facts.len() {
            let bytes = self.bytes[self.next];
            tokens += self.tokens(self.next);
            if (used + bytes > room || tokens > most_tokens) && used > 0 {
                break;
            }
            used += bytes;
            rows.push(self.facts[self.next].rows);
            self.next += 1;
        }
        if rows.is_empty() {
            return;
        }
        let half = self.besides + used / 2;
        *most = (*most).max((self.running.len() + rows.len(), half));
        let kl_factor = self.by.kl_factor;
        let problems: Vec<_> = rows.iter().map(|rows| Problem { rows, kl_factor }).collect();
        self.step.changed();
        let t0 = self.pushed.admit(&problems);
        self.slots.begin(&self.rule, &t0);
        self.running.extend(from..self.next);
    }

    /// Lets the facts go whose searches have ended.
    fn retain(&mut self, ended: &[bool]) {
        self.step.changed();
        self.pushed.retain(&ended.iter().map(|e| !e).collect::<Vec<_>>());
        let on: Vec<usize> = (0..ended.len()).filter(|&slot| !ended[slot]).collect();
        self.slots.keep(&on);
        self.running = on.iter().map(|&slot| self.running[slot]).collect();
    }

    /// One look at every loss, and one step of every δ. Returns which searches have ended.
    fn look(&mut self) -> Result<Vec<bool>> {
        let Searches { model, by, rule, slots, pushed, step, .. } = self;
        // Weights that come and go are not there when a step is recorded.
        let engine = model.compute.engine().filter(|_| !model.offloads_weights());
        step.run(engine, || {
            let gradient = pushed.step(&slots.delta, &slots.factor);
            adam::step(rule, model.arch.width, pushed.aims(), &gradient, slots);
        });
        let states = slots.read();
        if let Some(slot) = states.iter().position(|s| s.0 == State::Broken) {
            let (layer, step) = (by.push.site.layer, states[slot].1);
            let id = self.facts[self.running[slot]].id;
            let of = if id.is_empty() { String::new() } else { format!(" of record `{id}`") };
            return Err(Error::numeric(
                format!("layer {layer}: the loss is not finite at step {step}{of}"),
                "check the checkpoint for NaN weights, or edit another layer",
            ));
        }
        Ok(states.iter().map(|s| s.0 == State::Ended).collect())
    }

    fn found(&self, slot: usize) -> TargetValue {
        let row = |x: &Tensor| x.row_f64(slot);
        let (mut t0, mut delta) = (row(&self.slots.t0), row(&self.slots.delta));
        let aside = delta.split_off(self.model.arch.width);
        t0.truncate(self.model.arch.width);
        let looks = self.slots.state[slot].1;
        let trace = row(&self.slots.trace).chunks_exact(4).take(looks).map(Step::seen).collect();
        TargetValue { t0, delta, aside, trace }
    }

    fn used(&self) -> u64 {
        self.running.iter().map(|&fact| self.bytes[fact]).sum()
    }

    fn running_tokens(&self) -> usize {
        self.running.iter().map(|&fact| self.tokens(fact)).sum()
    }

    fn tell(&self, total: u64, done: u64, room: u64, progress: &dyn Progress) {
        let looks = |slot: usize| self.slots.state[slot].1;
        if (self.running.len(), total) == (1, 1) {
            return progress.at(Stage::Step, looks(0) as u64, self.by.steps as u64);
        }
        let (trace, wide) = (self.slots.trace.to_f64(), 4 * self.by.steps);
        let now = |slot: usize| Step::seen(&trace[slot * wide..][4 * (looks(slot) - 1)..][..4]);
        let slots = self.running.len();
        let mean = (0..slots).map(|slot| now(slot).total()).sum::<f64>() / slots as f64;
        let (used, tokens) = (self.used(), self.running_tokens());
        let filled = 100 * tokens / self::tokens(self.model);
        let full = (100 * used / room).max(filled as u64).min(100);
        progress.at(Stage::Fact, done, total);
        progress.detail(&format!("mean loss {mean:.2}, {slots} at a time, slots {full} % full"));
    }
}
