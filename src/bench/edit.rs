//! An edit of many facts from nothing, as MEMIT does it on random weights of a known shape:
//! statistics of the layers, values, keys and changes, and the facts judged before and after.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::limits::Limits;
use super::stages::{Ids, search, weights};
use super::{Row, Sizes, Unit};
use crate::base::{Progress, Result, Stage, catch_device_error};
use crate::data::{Contexts, request};
use crate::edit::batch;
use crate::edit::fact_report::score;
use crate::edit::facts::TokenizedFact;
use crate::edit::family::GRAM;
use crate::edit::hparams::HparamSet;
use crate::edit::method::{Context, Moments};
use crate::edit::methods::memit::{MEMIT, Memit};
use crate::edit::params::Params;
use crate::edit::prompts::FactRows;
use crate::edit::search::Search;
use crate::edit::search::packing::suffix_tokens;
use crate::edit::state::State;
use crate::model::{Batch, Model, Past, Run};
use crate::ops::gram::{Totals, packed_len};
use crate::stats::collect::InputMoments;
use crate::stats::{Input, LayerInput, Moment, Origin};

/// Layers that are edited, as for GPT-J.
pub const LAYERS: usize = 6;

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
    clock.at(Stage::Statistics, 0, 0);
    let moments = catch_device_error(|| Ok(statistics(model, sizes, &layers)))?;

    let mut ids = Ids::new(model.arch.vocabulary);
    let facts = made_up(&mut ids, facts)?;
    let mut contexts = vec![vec!["{}".to_owned()]];
    contexts.push(vec!["context {}".to_owned(); facts[0].rows.keys.len() - 1]);
    let contexts = Contexts::new("contexts of a benchmark", contexts)?;
    let by = hyperparameters(model, &search, &layers)?;
    let mut context = Context {
        model,
        statistics: &|layer| Ok(moments[layer - layers[0]].clone()),
        contexts: &contexts,
        editor: None,
        cache: None,
        state: State::default(),
        carries: false,
        adds: false,
        sequential: 0,
        memory: model.spare().unwrap_or(1 << 30),
        seed: 0,
        end: None,
        tokenizer: None,
        progress: &clock,
    };
    let moments = context.statistics;
    let prompts: Vec<&FactRows> = facts.iter().map(|fact| &fact.rows).collect();
    score(model, &prompts, &clock)?;
    // The search never ends early, whatever its loss.
    let plan = batch::plan(&mut context, &facts, &search, &by, &mut |state| {
        Ok(Box::new(memit(moments, state)))
    })?;
    score(&plan.model, &prompts, &clock)?;
    clock.enter(None);

    let tokens = suffix_tokens(&facts[0].rows);
    let flop = 4.0 * (model.arch.layers - 1 - last) as f64 * weights(model);
    let limit = Some(limits.product / flop / (tokens * search.steps) as f64);
    let mut row = |name: String, seconds: f64, limit| {
        let what = [name, format!("layers {} to {last}", layers[0])];
        let work = (facts.len() as f64, Unit::Facts);
        rows.push(Row::new("edit", what, [seconds, 0.0], work, limit));
    };
    row(format!("edit of {} facts", facts.len()), began.elapsed().as_secs_f64(), limit);
    for (stage, seconds) in clock.stages() {
        row(format!("edit, {stage}"), seconds, None);
    }
    Ok(())
}

/// MEMIT's, of this search in these layers.
fn hyperparameters(model: &Model, search: &Search, layers: &[usize]) -> Result<Params> {
    let mut hparams = HparamSet::default();
    hparams.put("layers", layers.to_vec().into(), "benchmark");
    hparams.put("mom2_update_weight", 15_000.into(), "benchmark");
    hparams.put("v_num_grad_steps", search.steps.into(), "benchmark");
    let numbers = [
        ("v_lr", search.lr),
        ("v_weight_decay", search.weight_decay),
        ("clamp_norm_factor", search.clamp),
        ("kl_factor", search.kl_factor),
    ];
    numbers.into_iter().for_each(|(name, x)| hparams.put(name, x.into(), "benchmark"));
    hparams.resolve(&MEMIT, model)
}

/// C of the layers, from ten tokens a column of C in passes of 8,192; or from two small passes.
fn statistics(model: &Model, sizes: Sizes, layers: &[usize]) -> Vec<Arc<Moment>> {
    let (a, compute) = (&model.arch, &model.compute);
    let (sequences, length) = if sizes.side < 1024 { (2, 5) } else { (64, 128) };
    let passes = if sizes.side < 1024 { 2 } else { (10 * a.inner).div_ceil(sequences * length) };
    let totals = |_: &usize| Totals::new(compute, a.inner, vec![0.0; packed_len(a.inner)]);
    let mut totals: Vec<Totals> = layers.iter().map(totals).collect();
    let (mut ids, mut run) = (Ids::new(model.arch.vocabulary), Run::new(model));
    for _ in 0..passes {
        let batch = Batch::whole((0..sequences).map(|_| ids.draw(length)));
        let above = layers[layers.len() - 1] + 1;
        let mut x = model.embed(&batch);
        let mut hook = InputMoments::new(&LayerInput::all(layers, &[Input::Key]), &mut totals);
        model.forward(&batch, 0..above, Past::None, &mut x, &mut run, &mut hook);
    }
    let tokens = (passes * sequences * length) as u64;
    let origin = Origin {
        model: String::new(),
        corpus: String::new(),
        context_length: length,
        normed: false,
    };
    let moment = |(&layer, total): (&usize, &mut Totals)| {
        Arc::new(Moment::of(layer, a.inner, tokens, &total.packed(), &origin))
    };
    layers.iter().zip(&mut totals).map(moment).collect()
}

fn made_up(ids: &mut Ids, n: usize) -> Result<Vec<TokenizedFact>> {
    let text = r#"[{"prompt": "{} is", "subject": "it", "target_new": "so"}]"#;
    let request = request::parse("facts of a benchmark", text.as_bytes())?.remove(0);
    let fact = |_| TokenizedFact {
        request: request.clone(),
        rows: ids.fact(),
        token: Default::default(),
        target_token: String::new(),
    };
    Ok((0..n).map(fact).collect())
}

/// How long each stage of an edit takes, one that comes back going on.
#[derive(Default)]
struct Clock(Mutex<Stages>);

#[derive(Default)]
struct Stages {
    seconds: Vec<(Stage, f64)>,
    running: Option<(Stage, Instant)>,
}

impl Clock {
    /// Ends the stage that runs, if one does, and begins another.
    fn enter(&self, stage: Option<Stage>) {
        let mut stages = self.0.lock().expect("nothing fails while it is held");
        let now = Instant::now();
        if let Some((last, since)) = stages.running {
            let seconds = now.duration_since(since).as_secs_f64();
            match stages.seconds.iter_mut().find(|(known, _)| *known == last) {
                Some((_, sum)) => *sum += seconds,
                None => stages.seconds.push((last, seconds)),
            }
        }
        stages.running = stage.map(|stage| (stage, now));
    }

    fn stages(self) -> Vec<(Stage, f64)> {
        self.0.into_inner().expect("nothing fails while it is held").seconds
    }
}

impl Progress for Clock {
    fn at(&self, stage: Stage, _: u64, _: u64) {
        self.enter(Some(stage));
    }

    fn warn(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// MEMIT's closed form with λ 15,000.
fn memit<'a>(moments: &'a Moments<'a>, state: &mut State) -> Memit<'a> {
    let past = state.take(GRAM);
    Memit { moments, mom2_update_weight: 15_000.0, update_norm_lambda: 0.0, past }
}
