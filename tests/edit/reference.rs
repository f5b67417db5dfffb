//! ROME and R-ROME against `tools/reference.py`, a plain serial PyTorch program written from the
//! method's description, whose f64 runs are recorded with pinned contexts and statistics, and with
//! how far its own f32 runs are from them. The clamp and the early stop act in some of the cases.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use incise::base::Quiet;
use incise::data::{Contexts, request};
use incise::edit::fact_report::FactPlan;
use incise::edit::facts::{Reading, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Moments, Plan};
use incise::edit::methods::find;
use incise::edit::search::LOSS_TOLERANCE;
use incise::edit::state::State;
use incise::model::{Model, SearchPrecision};
use incise::stats::origin::Origin;
use incise::stats::{Input, Moment};
use incise::store::{Checkpoint, Delta};
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;

use crate::support::budget::{U32, U64};
use crate::support::golden::{digits, learned_positions};
use crate::support::root;
use crate::support::shared::shared;
use crate::support::twin;

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    shared: bool,
    stats: String,
    method: String,
    requests: Value,
    contexts: Vec<Vec<String>>,
    hparams: Value,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("reference/cases.json")).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }
}

pub fn golden() -> PathBuf {
    root().join("tests/golden")
}

pub fn tensor(file: &[u8], name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(file).unwrap();
    let t = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    match t.dtype() {
        safetensors::Dtype::F32 => {
            t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
        }
        _ => t.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
    }
}

/// A recorded tensor of integers.
pub fn integers(file: &[u8], name: &str) -> Vec<u64> {
    let file = SafeTensors::deserialize(file).unwrap();
    let bytes = file.tensor(name).unwrap().data().as_chunks::<8>().0;
    bytes.iter().map(|b| u64::from_le_bytes(*b)).collect()
}

/// The recorded statistics of a layer, in either form.
pub fn moment(stats: &Path, layer: usize, f: usize) -> Moment {
    let (path, name) = match stats.is_dir() {
        true => (Moment::path(stats, layer), "second_moment".to_owned()),
        false => (stats.to_path_buf(), layer.to_string()),
    };
    let values = tensor(&fs::read(path).unwrap(), &name);
    let second_moment: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
    assert_eq!(second_moment.len(), f * f);
    let origin =
        Origin { model: String::new(), corpus: String::new(), context_length: 0, normed: false };
    Moment { layer, input: Input::Key, f, tokens: u64::MAX, second_moment, origin, part: None }
}

/// How far results may be from the reference's: ‖a − b‖ / ‖b‖ of a change, |a − b| / b of a loss.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub change: f64,
    pub loss: f64,
}

impl Budget {
    /// By the error budget: at most twice as wrong as the reference's own f32 runs, and a rounding
    /// of each of the two factors of a change to f32. How far a single run is off is luck, so the
    /// worst of the cases counts that search in models of like size; `files` are their records.
    pub fn f32(files: &[PathBuf]) -> Budget {
        let worst = |name: &str| {
            let off = |path: &PathBuf| made(&fs::read(path).unwrap())[name].as_f64().unwrap();
            files.iter().map(off).fold(0.0, f64::max)
        };
        let rounding = 2.0 * U32;
        Budget { change: 2.0 * worst("f32_change") + rounding, loss: 2.0 * worst("f32_loss") }
    }

    /// In f64 a search loses 2⁻²⁹ of what one in f32 does, and so did the reference's own: three
    /// times instead of twice, and a rounding of each (`support::budget` has it too). What a change
    /// loses in its `roundings` to f32 is more.
    pub fn f64(self, roundings: f64) -> Budget {
        let loss = 1.5 * U64 / U32 * self.loss + 2.0 * U64;
        Budget { change: 1.5 * U64 / U32 * self.change + roundings * U32, loss }
    }

    /// On kernels, whose products take each number as two bf16.
    pub fn on(self, compute: &Compute) -> Budget {
        let digits = digits(compute);
        Budget { change: digits * self.change, loss: digits * self.loss }
    }
}

/// How a record was made.
pub fn made(file: &[u8]) -> Value {
    let (_, header) = SafeTensors::read_metadata(file).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["made"]).unwrap()
}

/// ‖a − b‖ / ‖b‖.
pub fn off(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let gap: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    (gap / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn outer(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().flat_map(|l| right.iter().map(move |r| l * r)).collect()
}

/// What a method plans with in a test: no cache, no state, all facts at once.
pub fn alone<'a>(
    model: &'a Model,
    statistics: &'a Moments<'a>,
    contexts: &'a Contexts,
) -> Context<'a> {
    Context {
        model,
        statistics,
        contexts,
        editor: None,
        cache: None,
        state: State::default(),
        carries: false,
        adds: false,
        sequential: 0,
        memory: u64::MAX,
        seed: 0,
        end: None,
        tokenizer: None,
        progress: &Quiet,
    }
}

/// What the case's method plans for its requests.
fn planned(case: &Case, dir: &Path, model: &Model) -> Plan {
    let tokenizer = Tokenizer::open(dir).unwrap();
    let method = find(&case.method).unwrap();
    let values = HparamSet::parse(Path::new("case"), case.hparams.to_string().as_bytes()).unwrap();
    let by = values.resolve(method, model).unwrap();
    let requests = request::parse("case", case.requests.to_string().as_bytes()).unwrap();
    let contexts = Contexts::new("case", case.contexts.clone()).unwrap();
    let f = model.arch.inner;
    // The public code puts a space before every target.
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let (facts, broken) = tokenize(model, reading, &requests, &contexts);
    assert_eq!(broken, []);
    let moments = |l| Ok(Arc::new(moment(&dir.join(&case.stats), l, f)));
    let mut context = alone(model, &moments, &contexts);
    method.plan(&mut context, &facts, &by).unwrap()
}

/// Holds what a case gives to the record, and returns it.
fn run(case: &Case, dir: &Path, compute: impl Into<Compute>, budget: Budget) -> Plan {
    let compute = compute.into();
    let budget = budget.on(&compute);
    let model = Model::load(&Checkpoint::open(dir).unwrap(), &compute).unwrap();
    let planned = planned(case, dir, &model);

    let file = fs::read(golden().join(format!("reference/{}.safetensors", case.name))).unwrap();
    let Delta::LowRank { left, right, r } = planned.changes[0].delta.clone() else {
        panic!("{}: a few facts are of low rank", case.name)
    };
    assert_eq!(r, case.requests.as_array().unwrap().len());
    let column = |rows: &[f32], i: usize| -> Vec<f64> {
        rows.iter().skip(i).step_by(r).map(|&x| x.into()).collect()
    };
    for (i, outcome) in planned.facts.iter().enumerate() {
        let want = |what: &str| tensor(&file, &format!("{i}.{what}"));
        let delta = outer(&column(&left, i), &column(&right, i));
        let change = off(&delta, &outer(&want("left"), &want("right")));
        let loss = want("loss");
        assert_eq!(outcome.trace.len(), loss.len(), "{}: steps of fact {i}", case.name);
        let worst = outcome
            .trace
            .iter()
            .zip(&loss)
            .fold(0.0f64, |a, (step, want)| a.max((step.total() - want).abs() / want));
        let steps = loss.len();
        println!("{} {compute:?} {i}: ΔW {change:.1e}, loss {worst:.1e}, {steps} steps", case.name);
        assert!(change <= budget.change, "{} {i}: ΔW is off by {change:e} {budget:?}", case.name);
        assert!(worst <= budget.loss, "{} {i}: the loss is off by {worst:e} {budget:?}", case.name);
    }
    planned
}

/// The budget of a case in f32: that of all of random models, or of all of trained ones.
fn budget(case: &Case) -> Budget {
    if case.shared { trained() } else { random() }
}

/// Of random tiny models.
pub fn random() -> Budget {
    of_cases(false)
}

/// Of the trained model of the shared data.
pub fn trained() -> Budget {
    of_cases(true)
}

fn of_cases(shared: bool) -> Budget {
    let alike = Case::all().into_iter().filter(|case| case.shared == shared);
    let record = |c: Case| golden().join(format!("reference/{}.safetensors", c.name));
    Budget::f32(&alike.map(record).collect::<Vec<_>>())
}

#[test]
fn changes_and_losses_are_the_references() {
    let (mut clamped, mut stopped, mut several) = (0, 0, 0);
    for case in Case::all().iter().filter(|c| !c.shared) {
        let dir = golden().join(&case.model);
        run(case, &dir, Precision::F32, budget(case));
        let single = budget(case);
        let double = if learned_positions(&case.model) { single.f64(2.0) } else { single };
        let planned = run(case, &dir, Precision::F64, double);

        let number = |name: &str| case.hparams[name].as_f64().unwrap();
        let at_clamp = |o: &FactPlan| {
            let [moved, t0] = o.value.unwrap();
            let longest = number("clamp_norm_factor") * t0;
            // Two norms and a scaling, of D numbers each.
            let rounding = 3.0 * planned.model.arch.width as f64 * f64::EPSILON;
            (moved / longest - 1.0).abs() <= rounding
        };
        let ended = |o: &FactPlan| (o.trace.len() as f64) < number("v_num_grad_steps");
        clamped += usize::from(planned.facts.iter().any(at_clamp));
        stopped += usize::from(planned.facts.iter().any(ended));
        several += usize::from(planned.facts.len() > 1);
    }
    let acts = [clamped, stopped, several];
    println!("{clamped} cases are clamped, {stopped} end early, {several} have several facts");
    assert!(acts.iter().zip([4, 4, 2]).all(|(n, least)| *n >= least), "{acts:?}");
}

#[test]
fn a_change_by_kernels_is_the_references() {
    let test = "edit::reference::a_change_by_kernels_is_the_references";
    let Some(engine) = twin::engine(test) else { return };
    let case = Case::named("llama-tied-r-rome-stop");
    run(&case, &golden().join(&case.model), engine.clone(), budget(&case));
}

/// Fast products take other steps, and end where exact ones do: below the loss that is enough.
#[test]
fn fast_products_find_a_value_too() {
    let test = "edit::reference::fast_products_find_a_value_too";
    let Some(engine) = twin::engine(test) else { return };
    let case = Case::named("llama-tied-r-rome-stop");
    let dir = golden().join(&case.model);
    let mut model = Model::load(&Checkpoint::open(&dir).unwrap(), engine.clone()).unwrap();
    let exact = planned(&case, &dir, &model);
    model.search_precision = SearchPrecision::Fast;
    let fast = planned(&case, &dir, &model);
    assert!(!exact.facts.is_empty());
    for (fast, exact) in fast.facts.iter().zip(&exact.facts) {
        let [last, want] = [fast, exact].map(|o| o.trace.last().unwrap().total());
        assert!(want < LOSS_TOLERANCE && last < LOSS_TOLERANCE, "{last} and {want}");
        assert_ne!(last, want, "the steps were fast");
    }
}

#[test]
fn changes_of_a_trained_model_are_the_references() {
    let test = "changes_of_a_trained_model_are_the_references";
    let cases: Vec<Case> = Case::all().into_iter().filter(|c| c.shared).collect();
    assert!(!cases.is_empty());
    for case in cases {
        if let Some(dir) = shared(test, &case.model) {
            run(&case, &dir, Precision::F32, budget(&case));
        }
    }
}
