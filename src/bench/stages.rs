//! Whole stages, on random weights of a known shape: prefill, statistics, value search.

use std::time::Instant;

use super::limits::Limits;
use super::{Row, Sizes, Unit, time};
use crate::base::{Quiet, Result, Rng, catch_device_error};
use crate::edit::prompts::{FactRows, PromptRow};
use crate::edit::search::memory::{SearchMemory, max_tokens};
use crate::edit::search::packing::suffix_tokens;
use crate::edit::search::{Push, Search, SearchFact, find_all};
use crate::gpu::Engine;
use crate::model::{At, Batch, Hook, Linear, Model, NoHook, Past, Run, SearchPrecision, Site};
use crate::ops::gram::{Totals, packed_len};
use crate::stats::LayerInput;
use crate::stats::collect::InputMoments;

/// Steps of a search that never ends early.
pub const STEPS: usize = 25;

/// The ways a model runs: on a device exact and fast.
fn ways(model: &Model) -> Vec<Model> {
    let mut ways = vec![model.clone()];
    if model.compute.engine().is_some() {
        ways.push(model.clone());
        ways[1].search_precision = SearchPrecision::Fast;
    }
    ways
}

/// A pass over whole sequences, and one that adds up a layer's second moment.
///
/// # Errors
///
/// A device without room.
pub fn passes(model: &Model, sizes: Sizes, limits: Limits, rows: &mut Vec<Row>) -> Result<()> {
    let mut ids = Ids::new(model.arch.vocabulary);
    ways(model).iter().try_for_each(|model| {
        catch_device_error(|| {
            pass(model, sizes, limits, &mut ids, rows);
            Ok(())
        })
    })
}

/// The value search of n facts.
///
/// # Errors
///
/// A device without room.
pub fn searches(model: &Model, limits: Limits, n: usize, rows: &mut Vec<Row>) -> Result<()> {
    let mut ids = Ids::new(model.arch.vocabulary);
    ways(model).iter().try_for_each(|model| find(model, limits, n, &mut ids, rows))
}

/// Weights of a layer's matrices, of which all have the same.
pub fn weights(model: &Model) -> f64 {
    let of = |linear: &Linear| linear.w.dims().iter().product::<usize>();
    model.layers[0].matrices().map(|(_, linear)| of(linear)).sum::<usize>() as f64
}

fn how(model: &Model) -> &'static str {
    if model.search_precision == SearchPrecision::Fast { ", fast" } else { "" }
}

fn pass(model: &Model, sizes: Sizes, limits: Limits, ids: &mut Ids, rows: &mut Vec<Row>) {
    let steps = model.for_search();
    let (a, compute) = (&steps.arch, &steps.compute);
    let (sequences, length) = if sizes.side < 1024 { (2, 5) } else { (64, 128) };
    let batch = Batch::whole((0..sequences).map(|_| ids.draw(length)));
    let mut run = Run::new(&steps);
    let mut pass = |hook: &mut dyn Hook| {
        let mut x = steps.embed(&batch);
        steps.forward(&batch, 0..a.layers, Past::None, &mut x, &mut run, hook);
    };
    let mut row = |name: String, took: [f64; 2], flop: f64| {
        let what = [name, format!("{} layers of {}", a.layers, a.width)];
        let work = ((sequences * length) as f64, Unit::Tokens);
        rows.push(Row::new("stages", what, took, work, Some(limits.product / flop)));
    };
    let took = time(compute, sizes.seconds, || pass(&mut NoHook));
    let flop = 2.0 * weights(model) * a.layers as f64;
    row(format!("prefill of {sequences} × {length}{}", how(model)), took, flop);

    let layer = a.layers / 2;
    let mut totals = [Totals::new(compute, a.inner, vec![0.0; packed_len(a.inner)])];
    let keys = [LayerInput::from(layer)];
    let took = time(compute, sizes.seconds, || pass(&mut InputMoments::new(&keys, &mut totals)));
    let flop = flop + (a.inner * a.inner) as f64;
    row(format!("statistics of layer {layer}{}", how(model)), took, flop);
}

/// The layer whose output is searched, of so many: where GPT-J's is.
pub fn layer_of_search(layers: usize) -> usize {
    (layers * 2 / 7).min(layers - 2)
}

/// A search that never ends early.
pub fn search(model: &Model) -> Search {
    let top = model.arch.layers - 1;
    let site = Site { layer: layer_of_search(model.arch.layers), at: At::Stream };
    Search {
        push: Push { site, attention: false, above: 0, loss_layer: top },
        steps: STEPS,
        lr: 0.1,
        weight_decay: 0.5,
        clamp: 0.75,
        kl_factor: 0.0625,
        nll_factor: 1.0,
        anneal_nll: false,
        early_stop: 0,
        loss_tolerance: f64::NEG_INFINITY,
    }
}

fn find(model: &Model, limits: Limits, n: usize, ids: &mut Ids, rows: &mut Vec<Row>) -> Result<()> {
    let (by, facts): (_, Vec<FactRows>) = (search(model), (0..n).map(|_| ids.fact()).collect());
    let wanted: Vec<SearchFact> = facts.iter().map(|rows| SearchFact { id: "", rows }).collect();
    let room = model.spare().unwrap_or(1 << 30);
    let engine = model.compute.engine();
    let before = engine.map(Engine::forget_peak);
    let replayed = || engine.map_or(0, Engine::replays);
    let replays = replayed();
    let began = Instant::now();
    find_all(model, &wanted, &by, room, &Quiet, &mut |_, _| Ok(()))?;
    let seconds = began.elapsed().as_secs_f64();
    let (layer, suffix) = (by.push.site.layer, facts.first().map_or(0, suffix_tokens));
    let taken = engine.zip(before).map(|(engine, before)| engine.memory().peak - before);
    let all_at_once = n * suffix <= max_tokens(model) && !model.offloads_weights();
    let held = taken.map(|taken| [counted(model, &by.push, &facts), taken]);
    let held = held.filter(|[counted, _]| all_at_once && *counted <= room);
    let above = (model.arch.layers - 1 - layer) as f64;
    let flop = 4.0 * above * weights(model) * (suffix * STEPS) as f64;
    let name = format!("value search{}, layer {layer}", how(model));
    let what = [name, format!("{n} × {suffix} suffix tokens, {STEPS} steps")];
    let (work, limit) = ((n as f64, Unit::Facts), Some(limits.product / flop));
    let replays = engine.map(|_| replayed() - replays);
    rows.push(Row { held, replays, ..Row::new("stages", what, [seconds, 0.0], work, limit) });
    Ok(())
}

/// Bytes that a search of all facts at once is estimated to take, as in a dry run.
fn counted(model: &Model, push: &Push, facts: &[FactRows]) -> u64 {
    SearchMemory::new(model, push, facts).total()
}

/// Random tokens, of a vocabulary.
pub struct Ids(Rng, usize);

impl Ids {
    /// Always the same ones.
    pub fn new(vocabulary: usize) -> Ids {
        Ids(Rng::new(0, "tokens of a benchmark"), vocabulary)
    }

    /// Some of them.
    pub fn draw(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| (self.0.uniform() * self.1 as f64) as u32).collect()
    }

    /// CounterFact's mean lengths: a prompt of 8 tokens whose subject ends at the 4th last, bare
    /// and behind five contexts of 11 tokens; two tokens of target; the row that should stay.
    pub fn fact(&mut self) -> FactRows {
        let (bare, target) = (self.draw(8), self.draw(2));
        let mut contexts = Rng::new(0, "contexts of a benchmark"); // the same for every fact
        let mut rewriting = Vec::new();
        for prefix in [0, 11, 11, 11, 11, 11] {
            let drawn = |_| (contexts.uniform() * self.1 as f64) as u32;
            let mut ids: Vec<u32> = (0..prefix).map(drawn).collect();
            ids.extend(&bare);
            ids.push(target[0]);
            rewriting.push(PromptRow { lookup: prefix + 4, ids });
        }
        let kl = PromptRow { lookup: 2, ids: [&bare[2..5], &self.draw(2)[..]].concat() };
        FactRows { keys: rewriting.clone(), rewriting, kl, target, merged: 0 }
    }
}
