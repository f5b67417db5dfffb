//! Whole stages, on random weights of a known shape: prefill, statistics, value search.

use std::time::Instant;

use super::limits::Limits;
use super::{Row, Sizes, Unit, time};
use crate::base::{Quiet, Result, Rng, rescue};
use crate::edit::value::{Search, Wanted, find_all};
use crate::model::decoder::{Hook, Past};
use crate::model::pushed::{Problem, Push};
use crate::model::{At, Batch, Model, Run, Site};
use crate::ops::gram::{Totals, packed_len};
use crate::text::{Row as Tokens, Rows};

/// Steps of a search that never ends early.
const STEPS: usize = 25;

/// All stages, `facts` facts in the last.
///
/// # Errors
///
/// A device without room.
pub fn measure(
    model: &Model,
    sizes: Sizes,
    limits: Limits,
    facts: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut ids = Ids(Rng::new(0, "tokens of a benchmark"), model.arch.vocabulary);
    rescue(|| {
        passes(model, sizes, limits, &mut ids, rows);
        search(model, limits, facts, &mut ids, rows)
    })?;
    let mut fast = model.clone();
    fast.fast = true;
    match model.compute.engine() {
        Some(_) => search(&fast, limits, facts, &mut ids, rows),
        None => Ok(()),
    }
}

/// Weights of a layer.
fn weights(model: &Model) -> f64 {
    let (a, gated) = (&model.arch, usize::from(model.layers[0].gate.is_some()));
    (a.width * (2 * a.queries + 2 * a.groups) * a.head + (2 + gated) * a.width * a.inner) as f64
}

/// A row whose limit is the rate of products over what an item of work multiplies.
fn row(
    model: &Model,
    limits: Limits,
    name: String,
    [seconds, spread]: [f64; 2],
    (work, unit, flop): (usize, Unit, f64),
) -> Row {
    let shape = format!("{} layers of {}", model.arch.layers, model.arch.width);
    let (work, limit) = (work as f64, Some(limits.product / flop));
    Row { part: "stages", name, shape, seconds, spread, work, unit, limit }
}

/// A pass over whole sequences, and one that adds up a layer's second moment.
fn passes(model: &Model, sizes: Sizes, limits: Limits, ids: &mut Ids, rows: &mut Vec<Row>) {
    let a = &model.arch;
    let (sequences, length) = if sizes.side < 1024 { (2, 5) } else { (64, 128) };
    let batch = Batch::whole((0..sequences).map(|_| ids.draw(length)));
    let mut run = Run::new(model);
    let mut pass = |hook: Hook| {
        let mut x = model.embed(&batch);
        model.forward(&batch, 0..a.layers, Past::None, &mut x, &mut run, hook);
    };
    let took = time(&model.compute, sizes.seconds, || pass(&mut |_, _| {}));
    let (tokens, flop) = (sequences * length, 2.0 * weights(model) * a.layers as f64);
    let name = format!("prefill of {sequences} × {length}");
    rows.push(row(model, limits, name, took, (tokens, Unit::Tokens, flop)));

    let layer = a.layers / 2;
    let mut totals = Totals::new(&model.compute, a.inner, vec![0.0; packed_len(a.inner)]);
    let took = time(&model.compute, sizes.seconds, || {
        pass(&mut |site, k| {
            if site == (Site { layer, at: At::Key }) {
                totals.add(k);
            }
        });
    });
    let name = format!("statistics of layer {layer}");
    let flop = flop + (a.inner * a.inner) as f64;
    rows.push(row(model, limits, name, took, (tokens, Unit::Tokens, flop)));
}

/// The value search of many facts, none of which ends early.
fn search(
    model: &Model,
    limits: Limits,
    facts: usize,
    ids: &mut Ids,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let a = &model.arch;
    let facts: Vec<Rows> = (0..facts).map(|_| ids.fact()).collect();
    let layer = (a.layers * 2 / 7).min(a.layers - 2);
    let site = Site { layer, at: At::Stream };
    let by = Search {
        push: Push { site, attention: false, loss_layer: a.layers - 1 },
        steps: STEPS,
        lr: 0.1,
        decay: 0.5,
        clamp: 0.75,
        kl_factor: 0.0625,
        nll_factor: 1.0,
        eases: false,
        enough: f64::NEG_INFINITY,
    };
    let wanted: Vec<Wanted> = facts.iter().map(|rows| Wanted { id: "", rows }).collect();
    let room = model.spare().unwrap_or(1 << 30);
    let began = Instant::now();
    find_all(model, &wanted, &by, room, &Quiet, &mut |_, _| Ok(()))?;
    let took = [began.elapsed().as_secs_f64(), 0.0];
    let suffix = facts.first().map_or(0, Problem::tokens);
    let flop = 4.0 * (a.layers - 1 - layer) as f64 * weights(model) * (suffix * STEPS) as f64;
    let how = if model.fast { ", fast" } else { "" };
    let name = format!("value search{how}, layer {layer}, {suffix} suffix tokens, {STEPS} steps");
    rows.push(row(model, limits, name, took, (facts.len(), Unit::Facts, flop)));
    Ok(())
}

/// Random tokens.
struct Ids(Rng, usize);

impl Ids {
    fn draw(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| (self.0.uniform() * self.1 as f64) as u32).collect()
    }

    /// CounterFact's mean lengths: a prompt of 8 tokens whose subject ends at the 4th last, bare
    /// and behind five contexts of 11 tokens; two tokens of target; the row that should stay.
    fn fact(&mut self) -> Rows {
        let (bare, target) = (self.draw(8), self.draw(2));
        let mut contexts = Rng::new(0, "contexts of a benchmark"); // the same for every fact
        let mut rewriting = Vec::new();
        for prefix in [0, 11, 11, 11, 11, 11] {
            let drawn = |_| (contexts.uniform() * self.1 as f64) as u32;
            let mut ids: Vec<u32> = (0..prefix).map(drawn).collect();
            ids.extend(&bare);
            ids.push(target[0]);
            rewriting.push(Tokens { lookup: prefix + 4, ids });
        }
        let kl = Tokens { lookup: 2, ids: [&bare[2..5], &self.draw(2)[..]].concat() };
        Rows { keys: rewriting.clone(), rewriting, kl, target, merged: 0 }
    }
}
