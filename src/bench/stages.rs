//! Whole stages, on random weights of a known shape: prefill, statistics, value search.

use std::time::Instant;

use super::limits::Limits;
use super::{Row, Sizes, Unit, time};
use crate::base::{Quiet, Result, Rng};
use crate::edit::value::{Search, Wanted, find_all};
use crate::model::decoder::Past;
use crate::model::pushed::{Problem, Push};
use crate::model::{At, Batch, Model, Run, Site};
use crate::ops::gram::{Totals, packed_len};
use crate::text::{Row as Tokens, Rows};

/// Steps of a search that never ends early.
const STEPS: usize = 25;

/// All stages; searches run `at_once` suffix tokens at a time, one after the other.
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
    let shape = format!("{} layers of {}", model.arch.layers, model.arch.width);
    let mut ids = Ids(Rng::new(0, "tokens of a benchmark"), model.arch.vocabulary);
    let (sequences, length) = if sizes.side < 1024 { (2, 5) } else { (64, 128) };
    let batch = Batch::whole((0..sequences).map(|_| ids.draw(length)));
    let tokens = sequences * length;
    let a = &model.arch;
    let weights = a.width * (2 * a.queries + 2 * a.groups) * a.head
        + (2 + usize::from(model.layers[0].gate.is_some())) * a.width * a.inner;
    let mut run = Run::new(model);
    let mut pass = |hook: crate::model::decoder::Hook| {
        let mut x = model.embed(&batch);
        model.forward(&batch, 0..a.layers, Past::None, &mut x, &mut run, hook);
    };
    let [seconds, spread] = time(&model.compute, sizes.seconds, || pass(&mut |_, _| {}));
    let flop_limit = |per_item: f64| Some(limits.product / per_item);
    let row = |name: &str, [seconds, spread]: [f64; 2], work: usize, unit, limit| Row {
        part: "stages",
        name: name.to_owned(),
        shape: shape.clone(),
        seconds,
        spread,
        work: work as f64,
        unit,
        limit,
    };
    let a_token = 2.0 * (weights * a.layers) as f64;
    rows.push(row(
        &format!("prefill of {sequences} × {length}"),
        [seconds, spread],
        tokens,
        Unit::Tokens,
        flop_limit(a_token),
    ));

    let layer = a.layers / 2;
    let mut totals = Totals::new(&model.compute, a.inner, vec![0.0; packed_len(a.inner)]);
    let took = time(&model.compute, sizes.seconds, || {
        pass(&mut |site, k| {
            if site == (Site { layer, at: At::Key }) {
                totals.add(k);
            }
        });
    });
    let gram = (a.inner * a.inner) as f64;
    let name = format!("statistics of layer {layer}");
    rows.push(row(&name, took, tokens, Unit::Tokens, flop_limit(a_token + gram)));

    let facts: Vec<Rows> = (0..facts).map(|_| ids.fact()).collect();
    let layer = (a.layers * 2 / 7).min(a.layers - 2);
    let push =
        Push { site: Site { layer, at: At::Stream }, attention: false, loss_layer: a.layers - 1 };
    let by = Search {
        push,
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
    let seconds = began.elapsed().as_secs_f64();
    let suffix = Problem::tokens(&facts[0]);
    let above = (a.layers - 1 - layer) as f64 * weights as f64;
    let a_fact = 4.0 * above * (suffix * (STEPS - 1)) as f64;
    let name = format!("value search, layer {layer}, {suffix} suffix tokens, {STEPS} steps");
    rows.push(row(&name, [seconds, 0.0], facts.len(), Unit::Facts, flop_limit(a_fact)));
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
