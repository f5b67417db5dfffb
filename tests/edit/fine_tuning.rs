//! FT-L, FT-M and LocFT-BF against `tools/reference_fine_tuning.py`, a PyTorch program that trains
//! by autograd and the framework's Adam; and what holds whatever the machine: memory, threads,
//! being cut off.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use incise::base::{Error, Progress, Quiet, Stage};
use incise::data::{Contexts, request};
use incise::edit::cache::Cache;
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::find;
use incise::edit::params::Params;
use incise::edit::training::run::Training;
use incise::edit::training::step::MoveRule;
use incise::edit::training::texts::TrainingText;
use incise::model::change::dense;
use incise::model::{MatrixId, Model};
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{Budget, alone, golden, off, tensor};
use crate::support::budget::{U32, on_one_and_two};
use crate::support::cancel::CancelAt;
use crate::support::golden::learned_positions;
use crate::support::twin;

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    method: String,
    requests: Value,
    orders: Option<Vec<Vec<usize>>>,
    hparams: Value,
}

/// A case, ready to run.
struct Ready {
    model: Model,
    facts: Vec<TokenizedFact>,
    method: &'static dyn Method,
    by: Params,
    end: u32,
}

impl Case {
    fn all() -> Vec<Case> {
        let file = golden().join("fine_tuning/cases.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }

    fn ready(&self, compute: impl Into<Compute>) -> Ready {
        let dir = golden().join(&self.model);
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
        let method = find(&self.method).unwrap();
        let values = HparamSet::parse(Path::new("case"), self.hparams.to_string().as_bytes());
        let by = values.unwrap().resolve(method, &model).unwrap();
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        // The public code puts a space before every target.
        let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
        let (facts, broken) = tokenize(&model, reading, &requests, &Contexts::bare());
        assert_eq!(broken, []);
        let config = fs::read(dir.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let end = config["eos_token_id"].as_u64().unwrap() as u32;
        Ready { model, facts, method, by, end }
    }

    fn record(&self) -> Vec<u8> {
        fs::read(golden().join(format!("fine_tuning/{}.safetensors", self.name))).unwrap()
    }
}

impl Ready {
    fn run(
        &self,
        room: u64,
        cache: Option<&mut Cache>,
        progress: &dyn Progress,
    ) -> incise::Result<Plan> {
        let contexts = Contexts::bare();
        let moments =
            |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
        let on = alone(&self.model, &moments, &contexts);
        let mut on = Context { memory: room, cache, end: Some(self.end), progress, ..on };
        self.method.plan(&mut on, &self.facts, &self.by)
    }

    /// Some of the facts, on a model, in batches one upon the other; 0 for all at once.
    fn sequential(&self, model: &Model, facts: &[TokenizedFact], sequential: usize) -> Plan {
        let contexts = Contexts::bare();
        let moments =
            |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
        let on = alone(model, &moments, &contexts);
        let mut on = Context { sequential, end: Some(self.end), ..on };
        self.method.plan(&mut on, facts, &self.by).unwrap()
    }

    fn plan(&self) -> Plan {
        self.run(u64::MAX, None, &Quiet).unwrap()
    }
}

/// All that a plan says.
fn bits(plan: &Plan) -> Vec<u64> {
    let changes = plan.changes.iter().flat_map(|change| {
        let sizes = plan.model.matrix(change.id).w.dims();
        dense(&change.delta, sizes)
    });
    let losses = plan.facts.iter().flat_map(|fact| fact.trace.iter().map(|step| step.nll));
    changes.chain(losses).map(f64::to_bits).collect()
}

/// In f32. A change is rounded once to f32 by the program and once by its record.
fn budget() -> Budget {
    let record = |c: Case| golden().join(format!("fine_tuning/{}.safetensors", c.name));
    Budget::f32(&Case::all().into_iter().map(record).collect::<Vec<_>>())
}

fn check(case: &Case, compute: impl Into<Compute>, budget: Budget) -> Ready {
    let compute = compute.into();
    let budget = budget.on(&compute);
    let ready = case.ready(&compute);
    let plan = ready.plan();
    let (file, name) = (case.record(), &case.name);
    let want = tensor(&file, "losses");
    let epochs = want.len() / ready.facts.len();
    let mut loss = 0.0f64;
    for (i, fact) in plan.facts.iter().enumerate() {
        assert_eq!(fact.trace.len(), epochs, "{name} {compute:?}: epochs");
        for (step, want) in fact.trace.iter().zip(want.iter().skip(i).step_by(ready.facts.len())) {
            // −ln p is off by what logits are off by, however small it is.
            loss = loss.max((step.nll - want).abs() / want.max(1.0));
        }
    }
    let mut worst = 0.0f64;
    for change in &plan.changes {
        let MatrixId { layer, matrix, .. } = change.id;
        let want = tensor(&file, &format!("{layer}.{}.change", matrix.name()));
        let sizes = ready.model.matrix(change.id).w.dims();
        worst = worst.max(off(&dense(&change.delta, sizes), &want));
    }
    println!("{name} {compute:?}: ΔW {worst:.1e}, loss {loss:.1e}, {epochs} epochs {budget:?}");
    assert!(worst <= budget.change, "{name} {compute:?}: ΔW is off by {worst:e} {budget:?}");
    assert!(loss <= budget.loss, "{name} {compute:?}: the loss is off by {loss:e} {budget:?}");
    ready
}

#[test]
fn changes_and_losses_are_the_references() {
    for case in Case::all() {
        if let Some(orders) = &case.orders {
            let rule = MoveRule { lr: 1.0, weight_decay: 0.0, bound: None };
            let (ids, shuffle) = (Vec::new(), Some(0));
            let training = Training { ids, epochs: 1, batch: 1, shuffle, rule };
            let n = case.requests.as_array().unwrap().len();
            let own: Vec<_> = (0..orders.len()).map(|epoch| training.order(epoch, n)).collect();
            assert_eq!(&own, orders, "{}: the reference's epochs have another order", case.name);
        }
        check(&case, Precision::F32, budget());
        // Where a norm_constraint acts, W₀ ± ε is rounded in the type of the matrix.
        let double = if learned_positions(&case.model) { budget().f64(2.0) } else { budget() };
        check(&case, Precision::F64, double);
    }
}

#[test]
fn changes_by_kernels_are_the_references() {
    let test = "edit::fine_tuning::changes_by_kernels_are_the_references";
    let Some(engine) = twin::engine(test) else { return };
    check(&Case::named("gpt2-ft-l-bound"), engine.clone(), budget());
    let name = "llama-tied-locft-bf-block";
    let ready = check(&Case::named(name), engine, budget());
    let less = ready.run(0, None, &Quiet).unwrap();
    assert!(bits(&less) == bits(&ready.plan()), "{name}: no room gives other bits");
}

/// Whatever there is room for, and on one thread as on two: the same bits.
#[test]
fn training_does_not_depend_on_memory_or_threads() {
    for name in ["gpt2-locft-bf", "llama-tied-ft-l-bound"] {
        let ready = Case::named(name).ready(Precision::F32);
        let all = on_one_and_two(name, || bits(&ready.plan()));
        for room in [0, 200_000, 1_000_000] {
            let less = ready.run(room, None, &Quiet).unwrap();
            assert!(bits(&less) == all, "{name}: {room} bytes give other bits");
        }
    }
}

/// Two batches one upon the other are two edits one upon the other, to the bits of their losses;
/// W = W₀ + f32(Δ), and Δ is rounded once here and twice there. One batch of all is no other edit.
#[test]
fn batches_upon_each_other_are_edits_upon_each_other() {
    for case in Case::all().iter().filter(|case| case.requests.as_array().unwrap().len() > 1) {
        let ready = case.ready(Precision::F64);
        let (facts, name) = (&ready.facts[..2], &case.name);
        let all = ready.sequential(&ready.model, &ready.facts, ready.facts.len());
        assert!(bits(&all) == bits(&ready.plan()), "{name}: one batch gives other bits");
        let both = ready.sequential(&ready.model, facts, 1);
        let first = ready.sequential(&ready.model, &facts[..1], 0);
        let second = ready.sequential(&first.model, &facts[1..], 0);
        for (got, want) in both.facts.iter().zip(first.facts.iter().chain(&second.facts)) {
            assert_eq!(got.trace, want.trace, "{name}: losses");
        }
        for change in &both.changes {
            let sizes = ready.model.matrix(change.id).w.dims();
            let of = |plan: &Plan| {
                let own = plan.changes.iter().find(|other| other.id == change.id).unwrap();
                dense(&own.delta, sizes)
            };
            let (sum, first, second) = (dense(&change.delta, sizes), of(&first), of(&second));
            for (sum, (a, b)) in sum.iter().zip(first.iter().zip(&second)) {
                let rounding = U32 * (sum.abs() + a.abs() + b.abs()) + f64::from(f32::MIN_POSITIVE);
                assert!((sum - a - b).abs() <= rounding, "{name}: {sum:e} for {a:e} + {b:e}");
            }
        }
    }
}

/// Every element stays within its bound, and many are at it.
#[test]
fn a_bound_holds_every_element() {
    let case = Case::named("gpt2-ft-l-bound");
    let bound = case.hparams["norm_constraint"].as_f64().unwrap();
    let ready = case.ready(Precision::F32);
    let plan = ready.plan();
    let change = &plan.changes[0];
    let w = ready.model.matrix(change.id).w.to_dense::<f64>();
    let delta = dense(&change.delta, ready.model.matrix(change.id).w.dims());
    let at = |(w, d): (&f64, &f64)| {
        // W₀ ± ε is one rounding, its difference to W₀ another.
        let rounding = U32 * (w.abs() + 2.0 * bound);
        assert!(d.abs() <= bound + rounding, "{d:e} of {w:e}");
        d.abs() >= bound - rounding
    };
    let held = w.iter().zip(&delta).map(at).filter(|held| *held).count();
    assert!(held > w.len() / 10, "{held} of {} are held", w.len());
}

/// Counts the epochs that begin, and the warnings.
#[derive(Default)]
struct Begun(Mutex<Vec<u64>>, Mutex<Vec<String>>);

impl Progress for Begun {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        assert!(done <= total);
        if stage == Stage::Epoch {
            self.0.lock().unwrap().push(done);
        }
    }

    fn warn(&self, sentence: &str) {
        self.1.lock().unwrap().push(sentence.to_owned());
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// Cut off at any batch, in any epoch, and started again: the same bits as in one run.
#[test]
fn cut_off_training_goes_on_to_the_same_bits() {
    let ready = Case::named("gpt2-locft-bf").ready(Precision::F32);
    let whole = bits(&ready.plan());
    let begun = Begun::default();
    ready.run(u64::MAX, None, &begun).unwrap();
    let steps = begun.0.lock().unwrap().len();
    // One that came to its end is kept for what comes after it: no batch is left, and its end is
    // told.
    let folder = tempfile::tempdir().unwrap();
    for left in [steps, 1] {
        let mut cache = Cache::open_for_training(folder.path(), "weights").unwrap();
        assert!(!cache.holds_work(), "nothing of this run yet");
        let begun = Begun::default();
        ready.run(u64::MAX, Some(&mut cache), &begun).unwrap();
        assert_eq!((begun.0.lock().unwrap().len(), cache.holds_work()), (left, true));
    }
    for question in [1, 2, 3, 5, 6, 11, 17] {
        let folder = tempfile::tempdir().unwrap();
        let open = || Cache::open_for_training(folder.path(), "weights").unwrap();
        let cut = ready.run(u64::MAX, Some(&mut open()), &CancelAt::question(question));
        assert!(matches!(cut, Err(Error::Interrupted { .. })), "question {question}");
        let again = Begun::default();
        let plan = ready.run(u64::MAX, Some(&mut open()), &again).unwrap();
        assert!(bits(&plan) == whole, "cut off at question {question}");
        // The first question is before what lies below is run, and each other before a batch.
        let left = again.0.lock().unwrap().len();
        assert_eq!(left, steps - (question as usize).saturating_sub(2), "question {question}");
        let other = Begun::default();
        let mut cache = Cache::open_for_training(folder.path(), "other weights").unwrap();
        ready.run(u64::MAX, Some(&mut cache), &other).unwrap();
        assert_eq!(other.0.lock().unwrap().len(), steps, "another model's training is its own");
    }
}

/// The files that are kept in a folder.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some()).collect()
}

/// A loss that is not finite keeps what was done before it, as an interruption does.
#[test]
fn a_training_that_fails_is_kept() {
    let mut case = Case::named("gpt2-locft-bf");
    case.method = "ft-m".to_owned();
    case.hparams["batch_size"] = json!(1);
    // The last fact alone is so long that it reaches a position that is no number.
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let from = golden().join(&case.model).join(file);
        fs::copy(from, copy.path().join(file)).unwrap();
    }
    let checkpoint = Checkpoint::open(copy.path()).unwrap();
    let name = checkpoint.names().find(|name| name.ends_with("wpe.weight")).unwrap();
    let (shard, entry) = checkpoint.entry(name).unwrap();
    let (row, position) = (4 * entry.shape[1], entry.shape[0] - 8);
    let mut bytes = fs::read(shard.path()).unwrap();
    let at = entry.range.start as usize + position * row;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(shard.path(), bytes).unwrap();
    case.model = copy.path().display().to_string();
    let mut ready = case.ready(Precision::F32);
    let ids = &mut ready.facts.last_mut().unwrap().rows.keys[0].ids;
    ids.resize(position + 1, ids[0]);
    let folder = tempfile::tempdir().unwrap();
    let open = || Cache::open_for_training(folder.path(), "weights").unwrap();
    let run = |begun: &Begun| {
        let failed = ready.run(u64::MAX, Some(&mut open()), begun).err().unwrap().to_string();
        assert!(failed.contains("is not finite after"), "{failed}");
        begun.0.lock().unwrap().len()
    };
    let steps = run(&Begun::default());
    assert_eq!((steps, kept(folder.path()).len()), (ready.facts.len(), 1));
    assert_eq!(run(&Begun::default()), 1, "it goes on where it failed");
}

/// What is kept is another's where anything is that decides what a training comes to.
#[test]
fn a_training_is_named_by_all_that_decides_it() {
    let rule = MoveRule { lr: 0.5, weight_decay: 0.25, bound: None };
    let ids = vec![MatrixId::down(1), MatrixId::down(2)];
    let base = Training { ids, epochs: 3, batch: 4, shuffle: None, rule };
    let text = TrainingText { ids: vec![1, 2], wanted: vec![(0, 2), (1, 3)] };
    let texts = vec![text.clone(), TrainingText { ids: vec![4], wanted: vec![(0, 5)] }];
    let trainings = [
        base.clone(),
        Training { ids: vec![MatrixId::down(1)], ..base.clone() },
        Training { ids: vec![MatrixId::down(2), MatrixId::down(1)], ..base.clone() },
        Training { epochs: 4, ..base.clone() },
        Training { batch: 3, ..base.clone() },
        Training { shuffle: Some(0), ..base.clone() },
        Training { shuffle: Some(1), ..base.clone() },
        Training { rule: MoveRule { lr: 0.25, ..rule }, ..base.clone() },
        Training { rule: MoveRule { weight_decay: 0.5, ..rule }, ..base.clone() },
        Training { rule: MoveRule { bound: Some(0.5), ..rule }, ..base.clone() },
    ];
    let others = [
        TrainingText { ids: vec![1, 3], ..text.clone() },
        TrainingText { wanted: vec![(1, 2), (1, 3)], ..text.clone() },
        TrainingText { wanted: vec![(0, 2), (1, 4)], ..text.clone() },
        TrainingText { wanted: vec![(0, 2)], ..text.clone() },
    ];
    let mut keys: Vec<String> =
        trainings.iter().map(|training| training.key("1", "weights", "cpu", &texts)).collect();
    keys.extend(others.map(|other| base.key("1", "weights", "cpu", &[other, texts[1].clone()])));
    keys.push(base.key("1", "weights", "cpu", &texts[..1]));
    keys.push(base.key("1", "weights", "cpu", &[texts[1].clone(), text]));
    for [version, weights, compute] in
        [["2", "weights", "cpu"], ["1", "others", "cpu"], ["1", "weights", "cuda"]]
    {
        keys.push(base.key(version, weights, compute, &texts));
    }
    let all: HashSet<&String> = keys.iter().collect();
    assert_eq!(all.len(), keys.len(), "{keys:#?}");
    assert_eq!(base.key("1", "weights", "cpu", &texts), keys[0]);
}

/// A file that is damaged is warned of by its name, and of no use.
#[test]
fn a_damaged_file_begins_anew() {
    let ready = Case::named("gpt2-locft-bf").ready(Precision::F32);
    let whole = bits(&ready.plan());
    let folder = tempfile::tempdir().unwrap();
    let open = || Cache::open_for_training(folder.path(), "weights").unwrap();
    ready.run(u64::MAX, Some(&mut open()), &CancelAt::question(9)).err().unwrap();
    let kept = kept(folder.path()).remove(0);
    let sound = fs::read(&kept).unwrap();
    for at in [20, sound.len() / 2, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&kept, bytes).unwrap();
        let again = Begun::default();
        assert!(bits(&ready.run(u64::MAX, Some(&mut open()), &again).unwrap()) == whole);
        assert_eq!(again.0.lock().unwrap()[0], 0, "byte {at}: begun anew");
        let want = format!("{}: is damaged, so the training begins anew", kept.display());
        assert_eq!(*again.1.lock().unwrap(), [want], "byte {at}");
    }
    fs::write(&kept, &sound[..sound.len() - 8]).unwrap();
    assert!(bits(&ready.run(u64::MAX, Some(&mut open()), &Quiet).unwrap()) == whole);
}
