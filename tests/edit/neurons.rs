//! T-Patcher and CaliNET: neurons beside the last MLP, and the wider checkpoint that is the same.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use incise::Editor;
use incise::base::{Error, Quiet};
use incise::data::{Contexts, Fact, request};
use incise::edit::cache::Cache;
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::calinet::CALINET;
use incise::edit::methods::t_patcher::{T_PATCHER, empty};
use incise::edit::training::calibration::NeuronTraining;
use incise::edit::training::neurons::{
    LabelRows, NeuronWeights, check, last_mlp, loss, read_states,
};
use incise::edit::training::patches::{PatchTraining, StateMemory};
use incise::memory::{AddedNeurons, EditMemory, Memory, NeuronKind, is_memory};
use incise::model::lineage::WeightsName;
use incise::model::score::score;
use incise::model::{LanguageModel, MatrixId, Model};
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{alone, golden, integers, made, off, tensor};
use crate::support::budget::{U32, U64};
use crate::support::cancel::CancelAt;
use crate::support::golden::{Golden, digits, learned_positions};

/// A recorded run.
#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    method: String,
    requests: Value,
    #[serde(default)]
    memory_text: Vec<String>,
    hparams: Value,
}

struct Opened {
    model: Model,
    tokenizer: Tokenizer,
    facts: Vec<TokenizedFact>,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("neurons/cases.json")).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }

    fn number(&self, name: &str) -> f64 {
        self.hparams[name].as_f64().unwrap()
    }

    fn count(&self, name: &str) -> usize {
        self.hparams[name].as_u64().unwrap() as usize
    }

    fn open(&self, compute: impl Into<Compute>) -> Opened {
        let dir = golden().join(&self.model);
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        let (facts, broken) = tokenize(&model, reading, &requests, &Contexts::bare());
        assert_eq!(broken, []);
        Opened { model, tokenizer, facts }
    }
}

impl Opened {
    fn with<T>(&self, run: impl FnOnce(&mut Context) -> T) -> T {
        let contexts = Contexts::bare();
        let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics") };
        let on = alone(&self.model, &moments, &contexts);
        run(&mut Context { tokenizer: Some(&self.tokenizer), ..on })
    }

    /// Neurons that a method makes of the facts.
    fn made(&self, method: &dyn Method, hparams: &Value) -> Arc<AddedNeurons> {
        let values = HparamSet::parse(Path::new("case"), hparams.to_string().as_bytes());
        let by = values.unwrap().resolve(method, &self.model).unwrap();
        let plan = self.with(|on| method.plan(on, &self.facts, &by)).unwrap();
        assert!(plan.changes.is_empty());
        match plan.memory {
            Some(EditMemory::Neurons(neurons)) => neurons,
            other => panic!("no neurons: {other:?}"),
        }
    }
}

/// Recorded neurons: `init` or `end`.
fn recorded(file: &[u8], when: &str, model: &Model, biased: bool) -> NeuronWeights {
    let d = model.arch.width;
    let rows = |name: &str| {
        let all = tensor(file, &format!("{when}.{name}"));
        Mat::from_fn(all.len() / d, d, |i, j| all[i * d + j])
    };
    let bias = biased.then(|| tensor(file, &format!("{when}.bias")));
    NeuronWeights {
        gate: last_mlp(model).gate.as_ref().map(|_| rows("gate")),
        up: rows("up"),
        bias: bias.map(|bias| Mat::from_fn(1, bias.len(), |_, j| bias[j])),
        down: rows("down").transpose().to_owned(),
    }
}

fn numbers(neurons: &NeuronWeights) -> Vec<Vec<f64>> {
    let all = |m: &Mat<f64>| m.col_iter().flat_map(|c| c.iter().copied()).collect();
    neurons.each().map(all).collect()
}

/// How far the reference's own f32 runs are off, at most: of a single run it is luck.
fn worst(kind: &str) -> f64 {
    let off = |case: &Case| {
        let file = fs::read(golden().join(format!("neurons/{}.safetensors", case.name))).unwrap();
        made(&file)[kind].as_f64().unwrap()
    };
    Case::all().iter().map(off).fold(0.0, f64::max)
}

/// From the same start, the losses on the way and the neurons at the end are PyTorch's: by the
/// error budget twice as far as its own f32 runs, in f64 as `reference::Budget` has it.
#[test]
fn neurons_are_the_references() {
    for case in Case::all() {
        let file = fs::read(golden().join(format!("neurons/{}.safetensors", case.name))).unwrap();
        for precision in [Precision::F32, Precision::F64] {
            let of = case.open(precision);
            let model = &of.model;
            let patches = case.method == "t-patcher";
            let biased = patches && empty(model).bias.is_some();
            let texts: Vec<_> = of.facts.iter().map(|fact| fact.rows.completion(0)).collect();
            let rows = LabelRows::read(model, &texts).unwrap();
            let mut own = recorded(&file, "init", model, biased);
            let losses = match patches {
                true => {
                    let ids = |line: &String| of.tokenizer.encode(line).unwrap();
                    let text: Vec<Vec<u32>> = case.memory_text.iter().map(ids).collect();
                    let text: Vec<&[u32]> = text.iter().map(Vec::as_slice).collect();
                    let states = read_states(model, &text).unwrap();
                    let every_other = |from: usize| {
                        let n = (states.nrows() + 1 - from) / 2;
                        Mat::from_fn(n, states.ncols(), |i, j| states[(2 * i + from, j)])
                    };
                    let memory = StateMemory { trained: every_other(0), held_out: every_other(1) };
                    let wrong: Vec<usize> =
                        integers(&file, "wrong").iter().map(|&t| t as usize).collect();
                    let training = PatchTraining {
                        lr: case.number("edit_lr"),
                        weight_decay: case.number("weight_decay"),
                        epochs: case.count("max_epochs"),
                        looks: [case.count("check_from"), case.count("check_every")],
                        patience: case.count("early_patience"),
                        amplify: case.number("amplify_con"),
                        weights: [case.number("alc"), case.number("mlc")],
                    };
                    training.run(model, &rows, &wrong, &mut own, &memory, &Quiet).unwrap()
                }
                false => {
                    let how = (case.count("steps"), case.number("lr"));
                    let mut training = NeuronTraining::new(own);
                    training.run(model, &rows, how, None, &Quiet).unwrap();
                    own = training.neurons;
                    training.losses
                }
            };
            let double = precision == Precision::F64 && learned_positions(&case.model);
            let lost = if double { 1.5 * U64 / U32 } else { digits(&precision.into()) };
            let budget = |kind: &str| lost * 2.0 * worst(kind);
            let gap = off(&losses, &tensor(&file, "losses"));
            let bound = budget("f32_loss") + 2.0 * U64;
            println!("{} {precision:?}: losses {gap:e} of {bound:e}", case.name);
            assert!(gap <= bound, "{}: losses {gap:e}, {bound:e}", case.name);
            let want = recorded(&file, "end", model, biased);
            for (own, want) in numbers(&own).iter().zip(numbers(&want)) {
                let gap = off(own, &want);
                let bound = budget("f32_neurons") + 8.0 * f64::EPSILON;
                println!("{} {precision:?}: neurons {gap:e} of {bound:e}", case.name);
                assert!(gap <= bound, "{}: neurons {gap:e}, {bound:e}", case.name);
            }
        }
    }
}

/// The gradient is what differences of the loss say: with h = 2⁻¹⁷ they are off by h² of the third
/// derivative and by a rounding of the loss over h.
#[test]
fn the_loss_falls_along_its_gradient() {
    for name in ["gpt2-calinet", "llama-tied-calinet"] {
        let (case, file) = (Case::named(name), name);
        let file = fs::read(golden().join(format!("neurons/{file}.safetensors"))).unwrap();
        let of = case.open(Precision::F64);
        let act = last_mlp(&of.model).act;
        let texts: Vec<_> = of.facts.iter().map(|fact| fact.rows.completion(0)).collect();
        let rows = LabelRows::read(&of.model, &texts).unwrap();
        let start = recorded(&file, "init", &of.model, false);
        let at = |neurons: &NeuronWeights| {
            loss(&of.model, &rows, neurons, (act, 0.5), &|_| None).unwrap()
        };
        let (value, gradient) = at(&start);
        let h = 2.0f64.powi(-17);
        for part in 0..start.each().count() {
            let slope = gradient.each().nth(part).unwrap()[(1, 2)];
            let moved = |by: f64| {
                let mut neurons = start.clone();
                neurons.each_mut().nth(part).unwrap()[(1, 2)] += by;
                at(&neurons).0
            };
            let differences = (moved(h) - moved(-h)) / (2.0 * h);
            let rounding = 1024.0 * f64::EPSILON * value / h;
            let gap = (differences - slope).abs();
            assert!(gap <= rounding + h * h * 64.0, "{name} {part}: {differences}, {slope}");
            assert!(slope.abs() > 8.0 * rounding, "{name} {part}: a slope that says something");
        }
    }
}

/// Each wrong token has a neuron, the model with them says the targets, and no weight moved.
#[test]
fn facts_are_patched_and_calibrated() {
    for model in ["gpt2", "llama-tied"] {
        let of = Case::named(&format!("{model}-calinet")).open(Precision::F32);
        let texts: Vec<_> = of.facts.iter().map(|fact| fact.rows.completion(0)).collect();
        let wrong = score(&of.model, &texts).unwrap();
        let wrong = wrong.iter().flat_map(|s| &s.tokens).filter(|t| !t.is_hit()).count();
        let hparams = json!({"max_epochs": 400, "edit_lr": 0.05, "mlc": 0.1});
        let patched = of.made(&T_PATCHER, &hparams);
        assert_eq!((patched.kind(), patched.len()), ("t-patcher", wrong), "{model}");
        let calibrated = of.made(&CALINET, &json!({"neurons": 8, "steps": 300}));
        assert_eq!((calibrated.kind(), calibrated.len()), ("calinet", 8));
        for neurons in [patched, calibrated] {
            let name = neurons.kind();
            let with = neurons.on(Arc::new(of.model.clone())).unwrap();
            let said = score(&*with, &texts).unwrap();
            assert!(said.iter().all(|s| s.missed().is_none()), "{model} {name}: {said:?}");
        }
    }
}

/// Neurons rounded to the type that a checkpoint stores its last MLP in.
fn stored(dir: &Path, model: &Model, neurons: &AddedNeurons) -> AddedNeurons {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let down = model.matrix(MatrixId::down(neurons.layer));
    let dtype = checkpoint.tensor(&down.stored.tensor).unwrap().unwrap().dtype;
    let rounded = |values: &Vec<f32>| {
        let (mut bytes, mut all) = (Vec::new(), vec![0.0f32; values.len()]);
        let wide: Vec<f64> = values.iter().map(|&x| x.into()).collect();
        dtype.narrow(&wide, &mut bytes);
        dtype.widen(&bytes, &mut all);
        all
    };
    AddedNeurons {
        gate: neurons.gate.as_ref().map(rounded),
        up: rounded(&neurons.up),
        down: rounded(&neurons.down),
        ..neurons.clone()
    }
}

/// Beside the MLP or in a wider checkpoint, the same logits: in f64 an order of sums apart.
#[test]
fn a_wider_checkpoint_is_the_same_model() {
    for name in ["gpt2", "llama-tied", "gptj", "neox", "qwen2", "mistral-inner"] {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("a.memory"), folder.path().join("wide"));
        let dir = golden().join(name);
        let editor = Editor::open(&dir).unwrap().method("calinet").unwrap();
        let editor = editor.set("neurons", 5).unwrap().set("steps", 20).unwrap();
        let mut fact = Fact::new("The mother tongue of {} is", "Danielle Darrieux", "German");
        fact.id = "a".into();
        let edit = editor.plan(&[fact]).unwrap();
        edit.write(&file).unwrap();
        assert!(is_memory(&file));
        assert_eq!(editor.export_widened(&file, &out).unwrap(), 5);
        let ids = [5, 6, 7, 8];
        let of = |model: &dyn LanguageModel| {
            let batch = incise::model::Batch::whole([ids]);
            let past = incise::model::Past::None;
            incise::model::language_model::logits(model, &batch, past, &[0, 1, 2, 3])
                .unwrap()
                .to_f64()
        };
        let exact =
            |dir: &Path| Model::load(&Checkpoint::open(dir).unwrap(), Precision::F64).unwrap();
        let (base, wide) = (exact(&dir), exact(&out));
        assert_eq!(wide.arch.inner, base.arch.inner + 5, "{name}");
        let plain = of(&base);
        let made = match edit.artifact() {
            incise::Artifact::Memory(EditMemory::Neurons(neurons)) => neurons,
            _ => panic!("no neurons"),
        };
        let beside = of(&*Arc::new(stored(&dir, &base, made)).on(Arc::new(base)).unwrap());
        let wide = of(&wide);
        let largest = wide.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        let gap =
            |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let bound = 2.0 * 3.0 * 10.0 * 128.0 * U64 * largest; // as two orders of a pass's sums
        assert!(gap(&beside, &wide) <= bound, "{name}: {:e}, {bound:e}", gap(&beside, &wide));
        assert!(gap(&plain, &wide) > 1e3 * bound, "{name}: the neurons say something");
        let again = editor.export_widened(&file, &out).unwrap_err().to_string();
        assert!(again.contains("not empty"), "{again}");
    }
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let model = Golden::open("gpt2").model(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let made_for = WeightsName { model: "m".into(), weights: "w".into() };
    let d = model.arch.width;
    let neurons = AddedNeurons {
        made_for: made_for.clone(),
        kind: NeuronKind::Patches,
        layer: 1,
        width: d,
        act: last_mlp(&model).act,
        gate: None,
        up: vec![0.5; 2 * d],
        bias: Some(vec![1.0, -1.0]),
        down: vec![0.25; 2 * d],
    };
    neurons.write(&path).unwrap();
    let read = |kind| AddedNeurons::read(&path, &model, kind, &made_for);
    assert_eq!(read(NeuronKind::Patches).unwrap(), neurons);
    assert_eq!(read(NeuronKind::Calibration).unwrap_err().field(), Some("kind"));
    for (field, broken) in [
        ("layer", AddedNeurons { layer: 99, ..neurons.clone() }),
        ("down", AddedNeurons { down: vec![f32::NAN; 2 * d], ..neurons.clone() }),
        ("gate", AddedNeurons { gate: Some(vec![0.5; 2 * d]), ..neurons.clone() }),
        ("weights", AddedNeurons { made_for: WeightsName::default(), ..neurons.clone() }),
    ] {
        broken.write(&path).unwrap();
        let wrong = read(NeuronKind::Patches).unwrap_err();
        let found = if field == "weights" { "model" } else { field };
        assert_eq!(wrong.field(), Some(found), "{wrong}");
    }
}

#[test]
fn what_they_cannot_do_is_refused_by_name() {
    let gemma = Golden::open("gemma2").model(Precision::F32);
    let said = check(&gemma.arch, "t-patcher").unwrap_err().to_string();
    assert!(said.contains("t-patcher") && said.contains("gemma2"), "{said}");
    let of = Case::named("gpt2-calinet").open(Precision::F32);
    for method in [&T_PATCHER as &dyn Method, &CALINET] {
        let by = HparamSet::default().resolve(method, &of.model).unwrap();
        let cut = of.with(|on| {
            let progress = CancelAt::question(2);
            let own = alone(on.model, on.statistics, on.contexts);
            let mut on = Context { progress: &progress, tokenizer: on.tokenizer, ..own };
            method.plan(&mut on, &of.facts, &by)
        });
        assert!(matches!(cut, Err(Error::Interrupted { .. })));
    }
}

/// Cut off wherever it asks and started again: the same neurons and losses as in one run, and what
/// was done is not done again.
#[test]
fn what_is_cut_off_goes_on_to_the_same_neurons() {
    let of = Case::named("gpt2-calinet").open(Precision::F32);
    let settings = [
        (&T_PATCHER as &dyn Method, json!({"max_epochs": 5}), [2, 8]),
        (&CALINET, json!({"neurons": 3, "steps": 6}), [2, 4]),
    ];
    for (method, hparams, questions) in settings {
        let values = HparamSet::parse(Path::new("case"), hparams.to_string().as_bytes());
        let by = values.unwrap().resolve(method, &of.model).unwrap();
        let run = |progress: &CancelAt, cache: Option<&mut Cache>| {
            of.with(|on| {
                let own = alone(on.model, on.statistics, on.contexts);
                let mut on = Context { progress, cache, tokenizer: on.tokenizer, ..own };
                method.plan(&mut on, &of.facts, &by)
            })
        };
        let made = |plan: Plan| match plan.memory {
            Some(EditMemory::Neurons(neurons)) => (neurons, plan.facts),
            other => panic!("no neurons: {other:?}"),
        };
        let whole = made(run(&CancelAt::never(), None).unwrap());
        for (question, later) in questions.into_iter().zip([false, true]) {
            let folder = tempfile::tempdir().unwrap();
            let mut cache = Cache::open_for_training(folder.path(), "weights").unwrap();
            let cut = run(&CancelAt::question(question), Some(&mut cache));
            assert!(matches!(cut, Err(Error::Interrupted { .. })), "question {question}");
            let one_by_one = method.about().name == "t-patcher";
            assert_eq!(cache.holds_work(), later || !one_by_one, "question {question}");
            let again = CancelAt::never();
            assert!(made(run(&again, Some(&mut cache)).unwrap()) == whole, "question {question}");
            assert_eq!(again.heard("goes on after"), cache.holds_work() && (later || !one_by_one));
        }
    }
}

/// A loss that is not finite ends the training at that step, not at the last.
#[test]
fn a_rate_that_is_too_large_is_noticed_at_once() {
    let of = Case::named("gpt2-calinet").open(Precision::F32);
    let model = &of.model;
    let texts: Vec<_> = of.facts.iter().map(|fact| fact.rows.completion(0)).collect();
    let rows = LabelRows::read(model, &texts).unwrap();
    let start = |name: &str, biased| {
        let file = fs::read(golden().join(format!("neurons/{name}.safetensors"))).unwrap();
        recorded(&file, "init", model, biased)
    };
    let mut all = NeuronTraining::new(start("gpt2-calinet", false));
    let calibrated = all.run(model, &rows, (1 << 40, 1e25), None, &Quiet);
    assert!((1..4).contains(&all.losses.len()), "{} steps", all.losses.len());
    let mut own = start("gpt2-t-patcher", true);
    let (trained, held_out) = (Mat::zeros(0, model.arch.width), Mat::zeros(0, model.arch.width));
    let training = PatchTraining {
        lr: 1e25,
        weight_decay: 0.0,
        epochs: 1 << 40,
        looks: [1 << 40, 1],
        patience: 1,
        amplify: 1.0,
        weights: [1.0, 1.0],
    };
    let wrong: Vec<usize> = (0..own.len()).collect();
    let memory = StateMemory { trained, held_out };
    let patched = training.run(model, &rows, &wrong, &mut own, &memory, &Quiet).map(drop);
    for (ended, remedy) in [(calibrated, "smaller lr"), (patched, "smaller edit_lr")] {
        let error = ended.err().unwrap();
        assert!(matches!(error, Error::Numeric { .. }), "{error}");
        assert!(format!("{:?}", error.remedy()).contains(remedy), "{error:?}");
    }
}

/// Weights in other formats are left out: they are not widened, and would not fit.
#[test]
fn weights_of_other_formats_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("model")).unwrap();
    for file in fs::read_dir(golden().join("gpt2")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            fs::copy(&path, at("model").join(path.file_name().unwrap())).unwrap();
        }
    }
    let others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"];
    let stays = ["README.md", "generation_config.json"];
    others.iter().chain(&stays).for_each(|n| fs::write(at("model").join(n), "{}").unwrap());
    let editor = Editor::open(at("model")).unwrap().method("calinet").unwrap();
    let editor = editor.set("neurons", 2).unwrap().set("steps", 1).unwrap();
    let fact = Fact::new("The mother tongue of {} is", "Danielle Darrieux", "German");
    editor.plan(&[fact]).unwrap().write(at("a.memory")).unwrap();
    editor.export_widened(at("a.memory"), at("wide")).unwrap();
    assert!(others.iter().all(|name| !at("wide").join(name).exists()));
    assert!(stays.iter().all(|name| at("wide").join(name).exists()));
}
