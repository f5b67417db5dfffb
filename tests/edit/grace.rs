//! GRACE: values that say their targets, and a codebook that grows by its rules.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::Quiet;
use incise::data::{Contexts, Fact, request};
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::grace::GRACE;
use incise::edit::training::value::ValueTraining;
use incise::memory::{Memory, Replacement};
use incise::model::score::score;
use incise::model::{MatrixId, Model};
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde_json::{Value, json};

use super::reference::{alone, golden};
use crate::support::toy::Draw;
use crate::support::twin;

/// Requests of the cases of fine-tuning that have the most for a model.
fn requests(model: &str) -> Vec<Fact> {
    let cases = fs::read(golden().join("fine_tuning/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    let own = cases.iter().filter(|case| case["model"] == model);
    let most = own.max_by_key(|case| case["requests"].as_array().unwrap().len()).unwrap();
    request::parse("case", most["requests"].to_string().as_bytes()).unwrap()
}

fn open(name: &str, compute: impl Into<Compute>) -> (Model, Vec<TokenizedFact>) {
    let dir = golden().join(name);
    let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let (facts, broken) = tokenize(&model, reading, &requests(name), &Contexts::bare());
    assert_eq!(broken, []);
    (model, facts)
}

fn plan(model: &Model, facts: &[TokenizedFact], hparams: &Value) -> Plan {
    let values = HparamSet::parse(Path::new("case"), hparams.to_string().as_bytes());
    let by = values.unwrap().resolve(&GRACE, model).unwrap();
    let contexts = Contexts::bare();
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    let mut on = Context { progress: &Quiet, ..alone(model, &moments, &contexts) };
    GRACE.plan(&mut on, facts, &by).unwrap()
}

/// The weights are not touched, each fact has an entry, and the model with the codebook says its
/// target where the model alone did not.
#[test]
fn every_fact_is_said_and_no_weight_moves() {
    for model in ["gpt2", "llama-tied"] {
        for replacement in ["replace_last", "replace_all"] {
            let (base, facts) = open(model, Precision::F32);
            let by = json!({"layers": [0], "eps": 1e-3, "replacement": replacement});
            let plan = plan(&base, &facts, &by);
            assert!(plan.changes.is_empty());
            let book = plan.memory.unwrap();
            let texts: Vec<_> = facts.iter().map(|fact| fact.rows.completion(0)).collect();
            let before = score(&base, &texts).unwrap();
            let missed = before.iter().filter(|score| score.missed().is_some()).count();
            assert_eq!(book.entries.len(), missed, "an entry for each that was not said");
            let with = Arc::new(book).on(Arc::new(base)).unwrap();
            let after = score(&*with, &texts).unwrap();
            let taken = after.iter().filter(|score| score.missed().is_none()).count();
            assert_eq!(taken, facts.len(), "{model}, {replacement}: {after:?}");
            assert!(
                plan.facts
                    .iter()
                    .zip(&before)
                    .all(|(fact, before)| { fact.trace.is_empty() == before.missed().is_none() })
            );
        }
    }
}

/// The first step of Adam goes against the loss's slope, which differences of the loss give.
#[test]
fn a_value_moves_against_the_slope_of_its_loss() {
    for (name, replacement) in [
        ("gpt2", Replacement::Last),
        ("llama-tied", Replacement::Before),
        ("gpt2", Replacement::All),
    ] {
        let (model, facts) = open(name, Precision::F64);
        let text = facts[0].rows.completion(0);
        let id = MatrixId::down(0);
        let start: Vec<f32> =
            Draw::new("value", true).normal(model.arch.width).iter().map(|&x| x as f32).collect();
        let training = ValueTraining { id, replacement, lr: 0.25 };
        let loss =
            |value: &[f32]| training.run(&model, &text, &mut value.to_vec(), 1, &Quiet).unwrap()[0];
        let mut moved = start.clone();
        training.run(&model, &text, &mut moved, 1, &Quiet).unwrap();
        let mut seen = 0;
        for i in 0..start.len().min(12) {
            let h = 1.0f32 / 128.0;
            let at = |by: f32| {
                let mut value = start.clone();
                value[i] += by;
                loss(&value)
            };
            let slope = (at(h) - at(-h)) / f64::from(2.0 * h);
            if slope.abs() > 1e-5 {
                let step = f64::from(moved[i] - start[i]);
                assert!((step + 0.25 * slope.signum()).abs() < 1e-3, "{name} {i}: {step}, {slope}");
                seen += 1;
            }
        }
        assert!(seen > 6, "{name}, {replacement:?}: {seen} slopes");
    }
}

/// One fact again is no new entry, another target for its prompt takes the entry.
#[test]
fn facts_come_again() {
    let (model, facts) = open("gpt2", Precision::F32);
    let first = facts[0].clone();
    let other = facts.iter().find(|fact| fact.rows.target != first.rows.target).unwrap();
    let mut changed = first.clone();
    changed.rows.target = other.rows.target.clone();
    let by = json!({"layers": [0], "eps": 1e-3});
    let twice = plan(&model, &[first.clone(), first.clone()], &by);
    assert_eq!(twice.memory.unwrap().entries.len(), 1);
    assert!(twice.facts[1].trace.is_empty(), "it was said already");
    let book = plan(&model, &[first, changed.clone()], &by).memory.unwrap();
    assert_eq!(book.entries.len(), 1);
    assert_eq!(book.entries[0].label, changed.rows.target);
    let with = Arc::new(book).on(Arc::new(model)).unwrap();
    assert_eq!(score(&*with, &[changed.rows.completion(0)]).unwrap()[0].missed(), None);
}

#[test]
fn devices_train_values_too() {
    let Some(engine) = twin::fastest("edit::grace::devices_train_values_too") else { return };
    let (model, facts) = open("llama-tied", engine);
    let by = json!({"layers": [0], "eps": 1e-1, "n_iter": 40});
    let book = plan(&model, &facts[..1], &by).memory.unwrap();
    let with = Arc::new(book).on(Arc::new(model)).unwrap();
    assert_eq!(score(&*with, &[facts[0].rows.completion(0)]).unwrap()[0].missed(), None);
}
