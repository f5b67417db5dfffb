//! UltraEdit against `tools/reference_ultraedit.py`, which takes micro-batches by autograd and
//! solves the large system; and what holds whatever the machine, the batch and the run.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use incise::base::{Error, Progress, Rng, Stage};
use incise::data::{Contexts, request};
use incise::edit::cache::Cache;
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::ultraedit::ULTRAEDIT;
use incise::edit::params::Params;
use incise::edit::state::State;
use incise::edit::training::capture::Capture;
use incise::edit::training::normaliser::{Normaliser, SpreadRule};
use incise::edit::training::texts::{TrainingObjective, TrainingText};
use incise::model::change::dense;
use incise::model::{MatrixId, Model};
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{Budget, alone, golden, off, tensor};
use crate::support::budget::on_one_and_two;
use crate::support::cancel::CancelAt;
use crate::support::golden::learned_positions;
use crate::support::twin;

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    requests: Value,
    hparams: Value,
}

/// A case, ready to run.
struct Ready {
    model: Model,
    facts: Vec<TokenizedFact>,
    by: Params,
}

impl Case {
    fn all() -> Vec<Case> {
        let file = golden().join("ultraedit/cases.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }

    fn ready(&self, compute: impl Into<Compute>) -> Ready {
        let dir = golden().join(&self.model);
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
        let values = HparamSet::parse(Path::new("case"), self.hparams.to_string().as_bytes());
        let by = values.unwrap().resolve(&ULTRAEDIT, &model).unwrap();
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
        let (facts, broken) = tokenize(&model, reading, &requests, &Contexts::bare());
        assert_eq!(broken, []);
        Ready { model, facts, by }
    }

    fn record(&self) -> std::path::PathBuf {
        golden().join(format!("ultraedit/{}.safetensors", self.name))
    }
}

impl Ready {
    fn run(
        &self,
        model: &Model,
        facts: &[TokenizedFact],
        change: impl FnOnce(&mut Context),
    ) -> incise::Result<Plan> {
        let contexts = Contexts::bare();
        let moments =
            |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
        let mut on = alone(model, &moments, &contexts);
        change(&mut on);
        ULTRAEDIT.plan(&mut on, facts, &self.by)
    }

    fn plan(&self) -> Plan {
        self.run(&self.model, &self.facts, |_| ()).unwrap()
    }
}

/// All that a plan says.
fn bits(plan: &Plan) -> Vec<u64> {
    let changes = plan.changes.iter().flat_map(|change| {
        let sizes = plan.model.matrix(change.id).w.dims();
        dense(&change.delta, sizes)
    });
    let losses = plan.facts.iter().map(|fact| fact.trace[0].nll);
    changes.chain(losses).map(f64::to_bits).collect()
}

/// In f32; each turn's change is rounded to f32 by its factors, and the record once.
fn budget() -> Budget {
    Budget::f32(&Case::all().iter().map(Case::record).collect::<Vec<_>>())
}

fn check(case: &Case, compute: impl Into<Compute>, budget: Budget) {
    let compute = compute.into();
    let budget = budget.on(&compute);
    let ready = case.ready(&compute);
    let plan = ready.plan();
    let (file, name) = (fs::read(case.record()).unwrap(), &case.name);
    let want = tensor(&file, "losses");
    assert_eq!(plan.facts.len(), want.len());
    let gap = plan.facts.iter().zip(&want).map(|(fact, want)| {
        // −ln p is off by what logits are off by, however small it is.
        (fact.trace[0].nll - want).abs() / want.max(1.0)
    });
    let loss = gap.fold(0.0, f64::max);
    let mut worst = 0.0f64;
    for change in &plan.changes {
        let MatrixId { layer, matrix, .. } = change.id;
        let want = tensor(&file, &format!("{layer}.{}.change", matrix.name()));
        let sizes = ready.model.matrix(change.id).w.dims();
        worst = worst.max(off(&dense(&change.delta, sizes), &want));
    }
    println!("{name} {compute:?}: ΔW {worst:.1e}, loss {loss:.1e}");
    assert!(worst <= budget.change, "{name} {compute:?}: ΔW is off by {worst:e} {budget:?}");
    assert!(loss <= budget.loss, "{name} {compute:?}: the loss is off by {loss:e} {budget:?}");
}

#[test]
fn changes_and_losses_are_the_references() {
    for case in Case::all() {
        check(&case, Precision::F32, budget());
        // A turn's factors are rounded to f32, and the turns behind it are of a model so changed.
        let turns = case.requests.as_array().unwrap().len() as u64;
        let one = case.hparams["n_edits"].as_u64().unwrap() >= turns;
        let exact = one && learned_positions(&case.model);
        check(&case, Precision::F64, if exact { budget().f64(2.0) } else { budget() });
    }
}

#[test]
fn a_change_by_kernels_is_the_references() {
    let test = "edit::ultraedit::a_change_by_kernels_is_the_references";
    let Some(engine) = twin::engine(test) else { return };
    check(&Case::named("llama-tied-ultraedit-gate-up"), engine, budget());
}

/// Batches one upon the other are turns.
#[test]
fn a_batch_of_a_sequence_is_a_turn() {
    let mut case = Case::named("gpt2-ultraedit-turns-up-down");
    let turns = bits(&case.ready(Precision::F32).plan());
    case.hparams["n_edits"] = json!(100);
    let ready = case.ready(Precision::F32);
    let batches = ready.run(&ready.model, &ready.facts, |on| on.sequential = 2).unwrap();
    assert!(bits(&batches) == turns);
    assert!(bits(&ready.plan()) != turns);
}

/// Whatever there is room for, and on one thread as on two: the same bits.
#[test]
fn turns_do_not_depend_on_memory_or_threads() {
    let ready = Case::named("gpt2-ultraedit-turns-up-down").ready(Precision::F32);
    let all = on_one_and_two("ultraedit", || bits(&ready.plan()));
    for memory in [0, 300_000] {
        let less = ready.run(&ready.model, &ready.facts, |on| on.memory = memory).unwrap();
        assert!(bits(&less) == all, "{memory} bytes give other bits");
    }
}

/// Batches of rows give the mean and spread of all rows at once; the public code's a little more.
#[test]
fn running_moments_are_those_of_all_rows() {
    let [inner, out, n] = [3, 2, 11];
    let mut rng = Rng::new(3, "normaliser");
    let mut draw = |rows| Mat::from_fn(rows, n, |i, _| 5.0 + (i + 1) as f64 * rng.normal());
    let (x, g) = (draw(inner), draw(out));
    let [mut exact, mut public] = [Normaliser::new(inner + out), Normaliser::new(inner + out)];
    for (from, b) in [(0, 4), (4, 1), (5, 6)] {
        let rows = [x.subcols(from, b), g.subcols(from, b)];
        exact.add(rows, SpreadRule::Exact);
        public.add(rows, SpreadRule::Public);
    }
    for i in 0..inner + out {
        let y: Vec<f64> =
            (0..n).map(|j| if i < inner { x[(i, j)] } else { g[(i - inner, j)] }).collect();
        let mean = y.iter().sum::<f64>() / n as f64;
        let spread: f64 = y.iter().map(|y| (y - mean) * (y - mean)).sum();
        let size: f64 = y.iter().map(|y| y * y).sum();
        let bound = 4.0 * n as f64 * f64::EPSILON * size;
        assert!((exact.moments[(i, 0)] - mean).abs() <= bound);
        assert!((exact.moments[(i, 1)] - spread).abs() <= bound, "row {i}");
        assert!(public.moments[(i, 1)] > spread + bound, "row {i}: the public merge counts more");
    }
    assert_eq!((exact.rows, public.rows), (n, n));
    // Rows that all alike have no spread are normalised to 0.
    let mut flat = Normaliser::new(2);
    let same = Mat::from_fn(1, 3, |_, _| 0.5);
    flat.add([same.as_ref(), same.as_ref()], SpreadRule::Exact);
    assert!(flat.normalised(&same, 0).col_iter().all(|c| c[0] == 0.0));
}

/// With a weight of its own, a fact's rows are the same to the bit alone and beside others.
#[test]
fn a_facts_rows_do_not_depend_on_others() {
    let ready = Case::named("llama-tied-ultraedit-gate-up").ready(Precision::F32);
    let text = |fact| TrainingText::new(fact, TrainingObjective::Target, None);
    let texts: Vec<TrainingText> = ready.facts.iter().map(text).collect();
    let ids = ready.by.edited();
    let mut capture = Capture::new(&ready.model, &ids, 1000);
    let all = capture.run(&ready.model, &texts, &vec![1.0; texts.len()]).unwrap();
    let mut from = 0;
    for text in &texts {
        let alone = capture.run(&ready.model, std::slice::from_ref(text), &[1.0]).unwrap();
        let n = text.wanted.len();
        for (m, id) in ids.iter().enumerate() {
            assert!(alone.x[m] == all.x[m].subcols(from, n), "x of {id}");
            assert!(alone.g[m] == all.g[m].subcols(from, n), "g of {id}");
        }
        from += n;
    }
    assert_eq!(from, all.x[0].ncols());
}

/// Turns in two runs, the second with the state and the model of the first, are turns in one.
#[test]
fn a_state_goes_on() {
    let ready = Case::named("gpt2-ultraedit-turns-up-down").ready(Precision::F64);
    let whole = ready.plan();
    let first = ready.run(&ready.model, &ready.facts[..2], |_| ()).unwrap();
    let state = first.state.clone();
    let second = ready.run(&first.model, &ready.facts[2..], |on| on.state = state).unwrap();
    let fresh = ready.run(&first.model, &ready.facts[2..], |_| ()).unwrap();
    // Each change is rounded to f32 once a turn and once as a whole, and later turns see it; they
    // amplify it no more than the reference's f32 run was off.
    let bound = budget().change;
    let [mut apart, mut without] = [0.0f64; 2];
    for ((whole, first), (second, fresh)) in
        whole.changes.iter().zip(&first.changes).zip(second.changes.iter().zip(&fresh.changes))
    {
        let sizes = ready.model.matrix(whole.id).w.dims();
        let [whole, first, second, fresh] =
            [whole, first, second, fresh].map(|change| dense(&change.delta, sizes));
        let add =
            |rest: &[f64]| -> Vec<f64> { first.iter().zip(rest).map(|(a, b)| a + b).collect() };
        apart = apart.max(off(&add(&second), &whole));
        without = without.max(off(&add(&fresh), &whole));
    }
    assert!(apart <= bound, "{apart:e} is above {bound:e}");
    assert!(without > bound, "the state counts: {without:e}");
    let shapes = |state: &State| state.notes["shapes"].clone();
    assert_eq!(shapes(&second.state), shapes(&whole.state));
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("state");
    second.state.write(&path, "ultraedit", "model").unwrap();
    let read = State::read(&path, "ultraedit", "model").unwrap();
    let arch = &ready.model.arch;
    ULTRAEDIT.check_state(&path, &read, &ready.by, arch).unwrap();
    let mut bad = read.clone();
    bad.notes.insert("shapes".into(), json!([[1, 2, 3]]));
    let refused = ULTRAEDIT.check_state(&path, &bad, &ready.by, arch).err().unwrap();
    assert!(refused.to_string().contains("normaliser.0"), "{refused}");
}

/// Keeps the warnings.
struct Warned(std::sync::Mutex<Vec<String>>);

impl Progress for Warned {
    fn at(&self, _: Stage, done: u64, total: u64) {
        assert!(done <= total);
    }

    fn warn(&self, sentence: &str) {
        self.0.lock().unwrap().push(sentence.to_owned());
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// Cut off before any turn and started again: the same bits as in one run. A damaged file is warned
/// of, and of no use.
#[test]
fn turns_that_are_cut_off_go_on_to_the_same_bits() {
    let ready = Case::named("gpt2-ultraedit-turns-up-down").ready(Precision::F32);
    let whole = bits(&ready.plan());
    for question in [1, 2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let open = || Cache::open_for_training(folder.path(), "weights").unwrap();
        let again = |progress: &dyn Progress| {
            let mut cache = open();
            let contexts = Contexts::bare();
            let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("none is read") };
            let on = alone(&ready.model, &moments, &contexts);
            let mut on = Context { cache: Some(&mut cache), progress, ..on };
            ULTRAEDIT.plan(&mut on, &ready.facts, &ready.by)
        };
        let cut = again(&CancelAt::question(question));
        assert!(matches!(cut, Err(Error::Interrupted { .. })), "question {question}");
        let kept: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some())
            .collect();
        assert_eq!(kept.len(), usize::from(question > 1), "question {question}");
        assert!(bits(&again(&CancelAt::question(5 - question)).unwrap()) == whole, "{question}");
        if let Some(file) = kept.first() {
            let mut bytes = fs::read(file).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(file, bytes).unwrap();
            let warned = Warned(Vec::new().into());
            assert!(bits(&again(&warned).unwrap()) == whole);
            assert!(warned.0.lock().unwrap()[0].contains("is damaged"));
        }
    }
}
