//! An edit of many facts from nothing, as MEMIT does it on random weights of a known shape:
//! statistics of the layers, values, keys and changes, and the facts judged before and after.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::limits::Limits;
use super::stages::{Ids, search, weights};
use super::{Row, Sizes, Unit};
use crate::base::{Progress, Result, catch_device_error};
use crate::data::{Contexts, request};
use crate::edit::batch::Batches;
use crate::edit::facts::Fact;
use crate::edit::search::packing::suffix_tokens;
use crate::edit::settings::{Form, Settings};
use crate::edit::state::State;
use crate::model::{At, Batch, Model, Run, Site, decoder::Past};
use crate::ops::gram::{Totals, packed_len};
use crate::stats::{Moment, Origin};

/// Layers that are edited, as for GPT-J.
const LAYERS: usize = 6;

/// A row a stage, and one for all.
///
/// # Errors
///
/// A device without room, a system that cannot be solved.
pub fn measure(
    model: &Model,
    sizes: Sizes,
    limits: Limits,
    facts: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let search = search(model);
    let last = search.push.site.layer;
    let layers: Vec<usize> = ((last + 1).saturating_sub(LAYERS)..=last).collect();
    let clock = Clock::default();
    let began = Instant::now();
    clock.at("statistics", 0, 0);
    let moments = catch_device_error(|| Ok(statistics(model, sizes, &layers)))?;

    let mut ids = Ids::new(model);
    let facts = made_up(&mut ids, facts)?;
    let mut contexts = vec![vec!["{}".to_owned()]];
    contexts.push(vec!["context {}".to_owned(); facts[0].rows.keys.len() - 1]);
    let form = Form::Memit { mom2_update_weight: 15_000.0 };
    let by = Settings { layers, search, form, anchor: None };
    let batches = Batches {
        model,
        name: String::new(),
        moments: &|layer| Ok(moments[layer - by.layers[0]].clone()),
        contexts: &Contexts::new("contexts of a benchmark", contexts)?,
        by: &by,
        sequential: 0,
        carries: false,
        room: model.spare().unwrap_or(1 << 30),
        seed: 0,
    };
    batches.run(&facts, State::default(), None, &clock)?;
    clock.at("", 0, 0);

    let tokens = suffix_tokens(&facts[0].rows);
    let flop = 4.0 * (model.arch.layers - 1 - last) as f64 * weights(model);
    let limit = Some(limits.product / flop / (tokens * by.search.steps) as f64);
    let mut row = |name: String, seconds: f64, limit| {
        let what = [name, format!("layers {} to {last}", by.layers[0])];
        let work = (facts.len() as f64, Unit::Facts);
        rows.push(Row::new("edit", what, [seconds, 0.0], work, limit));
    };
    row(format!("edit of {} facts", facts.len()), began.elapsed().as_secs_f64(), limit);
    for (stage, seconds) in clock.stages() {
        row(format!("edit, {stage}"), seconds, None);
    }
    Ok(())
}

/// C of the layers, from ten tokens a column of C in passes of 8,192; or from two small passes.
fn statistics(model: &Model, sizes: Sizes, layers: &[usize]) -> Vec<Arc<Moment>> {
    let (a, compute) = (&model.arch, &model.compute);
    let (sequences, length) = if sizes.side < 1024 { (2, 5) } else { (64, 128) };
    let passes = if sizes.side < 1024 { 2 } else { (10 * a.inner).div_ceil(sequences * length) };
    let totals = |_: &usize| Totals::new(compute, a.inner, vec![0.0; packed_len(a.inner)]);
    let mut totals: Vec<Totals> = layers.iter().map(totals).collect();
    let (mut ids, mut run) = (Ids::new(model), Run::new(model));
    for _ in 0..passes {
        let batch = Batch::whole((0..sequences).map(|_| ids.draw(length)));
        let above = layers[layers.len() - 1] + 1;
        let mut x = model.embed(&batch);
        model.forward(&batch, 0..above, Past::None, &mut x, &mut run, &mut |site, k| {
            if let Some(i) = layers.iter().position(|&l| site == Site { layer: l, at: At::Key }) {
                totals[i].add(k);
            }
        });
    }
    let tokens = (passes * sequences * length) as u64;
    let origin = Origin { model: String::new(), corpus: String::new(), context_length: length };
    let moment = |(&layer, total): (&usize, &mut Totals)| {
        Arc::new(Moment::of(layer, a.inner, tokens, &total.packed(), &origin))
    };
    layers.iter().zip(&mut totals).map(moment).collect()
}

fn made_up(ids: &mut Ids, n: usize) -> Result<Vec<Fact>> {
    let text = r#"[{"prompt": "{} is", "subject": "it", "target_new": "so"}]"#;
    let request = request::parse("facts of a benchmark", text.as_bytes())?.remove(0);
    let fact = |_| Fact { request: request.clone(), rows: ids.fact(), token: Default::default() };
    Ok((0..n).map(fact).collect())
}

/// How long each stage of an edit takes, one that comes back going on.
#[derive(Default)]
struct Clock(Mutex<Stages>);

#[derive(Default)]
struct Stages {
    seconds: Vec<(String, f64)>, // the one that runs is the last
    since: Option<Instant>,
}

impl Clock {
    fn stages(self) -> Vec<(String, f64)> {
        let mut all = self.0.into_inner().expect("nothing fails while it is held").seconds;
        all.retain(|(name, _)| !name.is_empty());
        all
    }
}

impl Progress for Clock {
    fn at(&self, what: &str, _: u64, _: u64) {
        let mut stages = self.0.lock().expect("nothing fails while it is held");
        let Stages { seconds, since } = &mut *stages;
        let now = Instant::now();
        if let (Some(since), Some(last)) = (since.replace(now), seconds.last_mut()) {
            last.1 += now.duration_since(since).as_secs_f64();
        }
        let same = seconds.iter().position(|(name, _)| name == what);
        let stage = same.map_or((what.to_owned(), 0.0), |i| seconds.remove(i));
        seconds.push(stage);
    }

    fn warn(&self, _: &str) {}

    fn stop(&self) -> bool {
        false
    }
}
