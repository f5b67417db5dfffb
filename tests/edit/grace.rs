//! GRACE: values that say their targets, and a codebook that grows by its rules.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::{Error, Quiet};
use incise::data::{Contexts, request};
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::grace::GRACE;
use incise::edit::training::value::ValueTraining;
use incise::memory::{Codebook, EditMemory, Memory, Replacement};
use incise::model::score::score;
use incise::model::{Matrix, MatrixId, Model};
use incise::ops::adam;
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{alone, golden, integers, made, off, tensor};
use crate::support::budget::{U32, U64};
use crate::support::cancel::CancelAt;
use crate::support::golden::{digits, learned_positions};
use crate::support::toy::Draw;
use crate::support::twin;

/// A recorded run.
#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    requests: Value,
    hparams: Value,
    rules: Vec<String>,
}

impl Case {
    fn all() -> Vec<Case> {
        let file = golden().join("grace/cases.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    fn record(&self) -> Vec<u8> {
        fs::read(golden().join(format!("grace/{}.safetensors", self.name))).unwrap()
    }
}

fn open(name: &str, requests: &Value, compute: impl Into<Compute>) -> (Model, Vec<TokenizedFact>) {
    let dir = golden().join(name);
    let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let requests = request::parse("case", requests.to_string().as_bytes()).unwrap();
    let (facts, broken) = tokenize(&model, reading, &requests, &Contexts::bare());
    assert_eq!(broken, []);
    (model, facts)
}

/// A tiny model, and facts with targets of one token: one row of a random model does not decide
/// more.
fn short(name: &str, compute: impl Into<Compute>) -> (Model, Vec<TokenizedFact>) {
    let case = Case::all().into_iter().find(|case| case.model == name).unwrap();
    let (model, mut facts) = open(name, &case.requests, compute);
    facts.iter_mut().enumerate().for_each(|(i, fact)| fact.rows.target = vec![40 + i as u32]);
    facts.truncate(4); // the last is another again
    (model, facts)
}

fn plan(model: &Model, facts: &[TokenizedFact], hparams: &Value) -> Plan {
    let values = HparamSet::parse(Path::new("case"), hparams.to_string().as_bytes());
    let by = values.unwrap().resolve(&GRACE, model).unwrap();
    let contexts = Contexts::bare();
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    GRACE.plan(&mut alone(model, &moments, &contexts), facts, &by).unwrap()
}

/// What GRACE made.
fn codebook(memory: Option<EditMemory>) -> Arc<Codebook> {
    match memory {
        Some(EditMemory::Codebook(book)) => book,
        other => panic!("no codebook: {other:?}"),
    }
}

/// How far the program may be from the record, relative to a key and a value, and in a loss: by
/// the error budget twice as far as the reference's own f32 run of the case, and where a key or a
/// value is kept, a rounding to f32 of each. In f64 a pass loses 2⁻²⁹ of that, as in
/// `reference::Budget::f64`.
struct Bounds {
    key: f64,
    value: f64,
    loss: f64,
}

impl Bounds {
    fn of(case: &Case, compute: &Compute, double: bool) -> Bounds {
        let record = made(&case.record());
        let digits = if double { 0.75 * U64 / U32 } else { digits(compute) };
        let of =
            |name: &str, rounding: f64| digits * 2.0 * record[name].as_f64().unwrap() + rounding;
        let rounded = 2.0 * U32;
        let (key, value) = (of("f32_key", rounded), of("f32_value", rounded));
        Bounds { key, value, loss: of("f32_loss", rounded) }
    }
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The codebook after all facts of a case, and the losses on the way, are PyTorch's.
fn check(case: &Case, compute: impl Into<Compute>) {
    let compute = compute.into();
    let double = compute.precision() == Precision::F64 && learned_positions(&case.model);
    let (bounds, name, file) = (Bounds::of(case, &compute, double), &case.name, case.record());
    let (model, facts) = open(&case.model, &case.requests, &compute);
    let Plan { changes, memory, facts, .. } = plan(&model, &facts, &case.hparams);
    let entries = &codebook(memory).entries;
    assert!(changes.is_empty());
    let [radii, grown] = ["radii", "grown"].map(|what| tensor(&file, what));
    assert_eq!(entries.len(), radii.len(), "{name}: entries");
    let mut worst = [0.0f64; 3];
    for (i, (fact, rule)) in facts.iter().zip(&case.rules).enumerate() {
        let want = if rule == "skip" { vec![] } else { tensor(&file, &format!("{i}.losses")) };
        assert_eq!(fact.trace.len(), want.len(), "{name}: steps of fact {i}");
        for (step, want) in fact.trace.iter().zip(&want) {
            worst[2] = worst[2].max((step.nll - want).abs() / want.max(1.0));
        }
    }
    let [keys, values] = ["keys", "values"].map(|what| tensor(&file, what));
    let longest = keys.chunks(keys.len() / radii.len()).map(length).fold(0.0, f64::max);
    for (j, entry) in entries.iter().enumerate() {
        let row = |all: &[f64], own: &[f32]| {
            let own: Vec<f64> = own.iter().map(|&x| x.into()).collect();
            off(&own, &all[j * own.len()..][..own.len()])
        };
        worst[0] = worst[0].max(row(&keys, &entry.key));
        worst[1] = worst[1].max(row(&values, &entry.value));
        let label: Vec<u64> = entry.label.iter().map(|&id| id.into()).collect();
        assert_eq!(label, integers(&file, &format!("{j}.label")), "{name}: label {j}");
        // A distance is off by what both its ends are, and a radius that grew reaches farther.
        let want = radii[j] * (1.0 + grown[j] / 16_384.0);
        let gap = (f64::from(entry.radius) - want).abs();
        let bound = 2.0 * bounds.key * longest + 2.0 * U32 * want;
        assert!(gap <= bound, "{name}: radius {j} is {}, not {want}: {gap:e}", entry.radius);
    }
    println!("{name} {compute:?}: keys, values, losses {worst:?}");
    let bounds = [bounds.key, bounds.value, bounds.loss];
    assert!(worst.iter().zip(bounds).all(|(off, by)| *off <= by), "{name}: {worst:?} {bounds:?}");
}

#[test]
fn codebooks_are_the_references() {
    let cases = Case::all();
    for rule in ["add", "split", "grow", "known", "skip"] {
        assert!(cases.iter().any(|case| case.rules.iter().any(|own| own == rule)), "{rule}");
    }
    for case in cases {
        check(&case, Precision::F32);
        check(&case, Precision::F64);
    }
}

#[test]
fn a_codebook_by_kernels_is_the_references() {
    let test = "edit::grace::a_codebook_by_kernels_is_the_references";
    let Some(engine) = twin::fastest(test) else { return };
    let case = Case::all().into_iter().find(|case| case.name == "llama-tied-collide").unwrap();
    check(&case, engine);
}

/// The weights are not touched, each fact has an entry, and the model with the codebook says its
/// target where the model alone did not.
#[test]
fn every_fact_is_said_and_no_weight_moves() {
    for model in ["gpt2", "llama-tied"] {
        for replacement in ["replace_last", "replace_all"] {
            let (base, facts) = short(model, Precision::F32);
            let by = json!({"layers": [0], "eps": 1e-3, "replacement": replacement});
            let plan = plan(&base, &facts, &by);
            assert!(plan.changes.is_empty());
            let book = codebook(plan.memory);
            let texts: Vec<_> = facts.iter().map(|fact| fact.rows.completion(0)).collect();
            let before = score(&base, &texts).unwrap();
            let missed = before.iter().filter(|score| score.missed().is_some()).count();
            assert!(missed > 0 && book.entries.len() == missed, "one for each that was not said");
            let with = book.on(Arc::new(base)).unwrap();
            let after = score(&*with, &texts).unwrap();
            let taken = after.iter().filter(|score| score.missed().is_none()).count();
            assert_eq!(taken, facts.len(), "{model}, {replacement}: {after:?}");
            for (fact, before) in plan.facts.iter().zip(&before) {
                assert_eq!(fact.trace.is_empty(), before.missed().is_none());
            }
        }
    }
}

/// The first step of Adam goes against the loss's slope, which differences of the loss give: it is
/// lr g/(|g| + ε), rounded to f32 with the value. Differences are off by h²/6 of the third
/// derivative, so a slope below that tells no sign.
#[test]
fn a_value_moves_against_the_slope_of_its_loss() {
    for (name, replacement) in [
        ("gpt2", Replacement::Last),
        ("llama-tied", Replacement::Before),
        ("gpt2", Replacement::All),
    ] {
        let (model, facts) = short(name, Precision::F64);
        let text = facts[0].rows.completion(0);
        let matrix = if replacement == Replacement::Last { Matrix::Up } else { Matrix::Down };
        let id = MatrixId::new(0, matrix);
        let [width, _] = model.matrix(id).w.dims();
        let start: Vec<f32> =
            Draw::new("value", true).normal(width).iter().map(|&x| x as f32).collect();
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
            if slope.abs() > f64::from(h * h) / 6.0 {
                let step = f64::from(moved[i] - start[i]);
                let gap = (step + 0.25 * slope.signum()).abs();
                let rounded = 2.0 * U32 * (f64::from(start[i]).abs() + 0.25);
                // The slope itself may be half of what the differences say.
                let bound = 0.25 * 2.0 * adam::EPS / slope.abs() + rounded;
                assert!(gap <= bound, "{name} {i}: {step}, {slope}");
                seen += 1;
            }
        }
        assert!(seen > 6, "{name}, {replacement:?}: {seen} slopes");
    }
}

/// One fact again is no new entry, another target for its prompt takes the entry.
#[test]
fn facts_come_again() {
    let (model, facts) = short("gpt2", Precision::F32);
    let first = facts[0].clone();
    let other = facts.iter().find(|fact| fact.rows.target != first.rows.target).unwrap();
    let mut changed = first.clone();
    changed.rows.target = other.rows.target.clone();
    let by = json!({"layers": [0], "eps": 1e-3});
    let twice = plan(&model, &[first.clone(), first.clone()], &by);
    assert_eq!(codebook(twice.memory).entries.len(), 1);
    assert!(twice.facts[1].trace.is_empty(), "it was said already");
    let book = codebook(plan(&model, &[first, changed.clone()], &by).memory);
    assert_eq!(book.entries.len(), 1);
    assert_eq!(book.entries[0].label, changed.rows.target);
    let with = book.on(Arc::new(model)).unwrap();
    assert_eq!(score(&*with, &[changed.rows.completion(0)]).unwrap()[0].missed(), None);
}

/// Cut off, it says so, and nothing is left that a next run could go on from.
#[test]
fn it_can_be_cut_off() {
    let (model, facts) = short("gpt2", Precision::F32);
    let by = HparamSet::parse(Path::new("case"), br#"{"layers": [0], "eps": 1e-3}"#);
    let by = by.unwrap().resolve(&GRACE, &model).unwrap();
    let contexts = Contexts::bare();
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    for question in [1, 2, 50, 150] {
        let progress = CancelAt::question(question);
        let mut on = Context { progress: &progress, ..alone(&model, &moments, &contexts) };
        let cut = GRACE.plan(&mut on, &facts, &by);
        assert!(matches!(cut, Err(Error::Interrupted { .. })), "question {question}");
    }
}

/// A prompt of one token has none before it: that is said before any fact is trained.
#[test]
fn a_prompt_of_one_token_has_a_last_and_none_before() {
    let (model, mut facts) = short("gpt2", Precision::F32);
    facts[1].rows.keys[0].ids = vec![9];
    let planned = |replacement: &str, cancel: u64| {
        let set = json!({"layers": [0], "eps": 1e-3, "n_iter": 3, "replacement": replacement});
        let by = HparamSet::parse(Path::new("case"), set.to_string().as_bytes()).unwrap();
        let by = by.resolve(&GRACE, &model).unwrap();
        let contexts = Contexts::bare();
        let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics") };
        let progress = CancelAt::question(cancel);
        let mut on = Context { progress: &progress, ..alone(&model, &moments, &contexts) };
        GRACE.plan(&mut on, &facts, &by)
    };
    let error = planned("replace_prompt", 1).err().unwrap();
    let said = error.to_string();
    let id = &facts[1].request.id;
    assert!(said.contains(&format!("record `{id}`")) && said.contains("one token"), "{said}");
    assert!(format!("{:?}", error.remedy()).contains("replace_last"));
    let plan = planned("replace_last", u64::MAX).unwrap();
    let losses: Vec<f64> = plan.facts[1].trace.iter().map(|step| step.nll).collect();
    assert!(losses[2] < losses[0], "{losses:?}");
}

/// A radius is compared by its square, in f32: far below what that holds.
#[test]
fn a_radius_without_a_square_is_refused() {
    let (model, _) = short("gpt2", Precision::F32);
    let set = |eps: f64| {
        let set = json!({"layers": [0], "eps": eps}).to_string();
        HparamSet::parse(Path::new("case"), set.as_bytes()).unwrap().resolve(&GRACE, &model)
    };
    set(1e12).unwrap();
    let error = set(1e13).unwrap_err().to_string();
    assert!(error.contains("eps") && error.contains("above 1e12"), "{error}");
}
