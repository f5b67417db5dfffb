//! ROME and R-ROME against `tools/reference.py`, a plain serial PyTorch program written from the
//! method's description, whose f64 runs are recorded with pinned contexts and statistics. The
//! clamp and the early stop act in some of the cases.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use incise::base::Quiet;
use incise::data::{Contexts, request};
use incise::edit::facts::tokenize;
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Moments, Plan};
use incise::edit::methods::find;
use incise::edit::state::State;
use incise::edit::value::ENOUGH;
use incise::model::{Model, SearchPrecision};
use incise::stats::Moment;
use incise::stats::origin::Origin;
use incise::store::{Checkpoint, Delta};
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;

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

/// The recorded statistics of a layer, in either form.
pub fn moment(stats: &Path, layer: usize, f: usize) -> Moment {
    let (path, name) = match stats.is_dir() {
        true => (Moment::path(stats, layer), "second_moment".to_owned()),
        false => (stats.to_path_buf(), layer.to_string()),
    };
    let values = tensor(&fs::read(path).unwrap(), &name);
    let second_moment: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
    assert_eq!(second_moment.len(), f * f);
    let origin = Origin { model: String::new(), corpus: String::new(), context_length: 0 };
    Moment { layer, f, tokens: u64::MAX, second_moment, origin, part: None }
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
        cache: None,
        state: State::default(),
        carries: false,
        sequential: 0,
        memory: u64::MAX,
        seed: 0,
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
    let facts =
        tokenize(model, (&tokenizer, None), (Path::new("case"), &requests), &contexts).unwrap();
    let moments = |l| Ok(Arc::new(moment(&dir.join(&case.stats), l, f)));
    let mut context = alone(model, &moments, &contexts);
    method.plan(&mut context, &facts, &by).unwrap()
}

fn run(case: &Case, dir: &Path, compute: impl Into<Compute>, bar: f64) {
    let compute = compute.into();
    let model = Model::load(&Checkpoint::open(dir).unwrap(), &compute).unwrap();
    let planned = planned(case, dir, &model);

    let file = fs::read(golden().join(format!("reference/{}.safetensors", case.name))).unwrap();
    let Delta::LowRank { left, right, r } = planned.layers[0].delta.clone() else {
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
        assert!(change <= bar, "{} {i}: ΔW is off by {change:e}", case.name);
        assert!(worst <= bar, "{} {i}: the loss is off by {worst:e}", case.name);
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(golden().join("reference/cases.json")).unwrap()).unwrap()
}

#[test]
fn changes_and_losses_are_the_references() {
    for case in cases().iter().filter(|c| !c.shared) {
        let dir = golden().join(&case.model);
        run(case, &dir, Precision::F32, 1e-4);
        // In f64 what is left is the rounding of the patch to f32, and of f32 rotary tables.
        run(case, &dir, Precision::F64, 1e-6);
    }
}

#[test]
fn a_change_by_kernels_is_the_references() {
    let test = "edit::reference::a_change_by_kernels_is_the_references";
    let Some(engine) = twin::engine(test) else { return };
    for case in cases().iter().filter(|c| c.name == "llama-tied-r-rome-stop") {
        run(case, &golden().join(&case.model), engine.clone(), 1e-4);
    }
}

/// Fast products take other steps, and end where exact ones do: below the loss that is enough.
#[test]
fn fast_products_find_a_value_too() {
    let test = "edit::reference::fast_products_find_a_value_too";
    let Some(engine) = twin::engine(test) else { return };
    for case in cases().iter().filter(|c| c.name == "llama-tied-r-rome-stop") {
        let dir = golden().join(&case.model);
        let mut model = Model::load(&Checkpoint::open(&dir).unwrap(), engine.clone()).unwrap();
        let exact = planned(case, &dir, &model);
        model.search_precision = SearchPrecision::Fast;
        let fast = planned(case, &dir, &model);
        for (fast, exact) in fast.facts.iter().zip(&exact.facts) {
            let [last, want] = [fast, exact].map(|o| o.trace.last().unwrap().total());
            assert!(want < ENOUGH && last < ENOUGH, "{last} and {want}");
            assert_ne!(last, want, "the steps were fast");
        }
    }
}

#[test]
fn changes_of_a_trained_model_are_the_references() {
    let test = "changes_of_a_trained_model_are_the_references";
    for case in cases().iter().filter(|c| c.shared) {
        if let Some(dir) = shared(test, &case.model) {
            run(case, &dir, Precision::F32, 1e-4);
        }
    }
}

#[test]
fn the_cases_cover_clamp_early_stop_and_several_facts() {
    let cases = cases();
    let has = |part: &str| cases.iter().filter(|c| c.name.contains(part)).count();
    assert!(has("clamp") >= 4 && has("stop") >= 4 && has("two") >= 2);
}
