//! SERAC against `tools/reference_serac.py`, a PyTorch program that has both models' gradients by
//! autograd; its gradient against differences of the loss; and what its memory answers.

use std::path::Path;
use std::sync::Arc;

use incise::data::{Contexts, request};
use incise::edit::facts::{Reading, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method};
use incise::edit::methods::serac::{SERAC, SeracEditor, SeracObjective};
use incise::memory::{ContextMemory, EditMemory, Memory, SeracMemory};
use incise::model::completion::Completion;
use incise::model::score::score;
use incise::model::{LanguageModel, MatrixId, Model};
use incise::stats::Moment;
use incise::tensor::Precision;
use incise::text::Tokenizer;
use incise::train::{Parameters, TrainedEditor};
use serde_json::json;

use super::recorded_training::{Case, drawn};
use super::reference::{alone, golden, integers, tensor};
use super::weight_editor::{Within, check_gradient, check_steps};

fn tokenizer(case: &Case) -> Tokenizer {
    Tokenizer::open(golden().join(&case.model)).unwrap()
}

/// The objective of a case as it begins, and its parameters.
fn started<'m>(case: &Case, model: &'m Model) -> (SeracObjective<'m>, Parameters) {
    let mut parameters = Parameters::new(model.compute.precision());
    let by = case.params(model, json!({}));
    let in_layers = |id: &MatrixId| by.layers().is_empty() || by.layers().contains(&id.layer);
    let ids: Vec<MatrixId> = model.matrices().map(|(id, _)| id).filter(in_layers).collect();
    let editor = SeracEditor::new(model, &ids, (case.number("lr"), 3), &mut parameters);
    case.begin(&mut parameters);
    let joined = ContextMemory::empty(&tokenizer(case), model.arch.vocabulary);
    (SeracObjective::new(model, editor, joined, case.weights()), parameters)
}

#[test]
fn ten_steps_of_serac_are_the_references() {
    for case in Case::all("serac") {
        for precision in [Precision::F32, Precision::F64] {
            let model = case.model(precision);
            let (mut objective, mut parameters) = started(&case, &model);
            let (within, samples) = (Within::of(&case, precision), case.samples(&model));
            check_steps(&within, &mut objective, &mut parameters, &samples, usize::MAX / 8);
        }
    }
}

#[test]
fn gradients_of_serac_are_those_of_the_loss() {
    for case in Case::all("serac") {
        let model = case.model(Precision::F64);
        let (mut objective, mut parameters) = started(&case, &model);
        let samples = case.samples(&model);
        let drawn = drawn(&samples, &case.draws[0]);
        check_gradient(&case, &mut objective, &mut parameters, &drawn);
    }
}

/// The memory of all requests of a case, by the reference's trained tensors.
fn memory(case: &Case, model: &Model) -> Arc<SeracMemory> {
    let (_, parameters) = started(case, model);
    let mut trained = TrainedEditor { method: "serac".to_owned(), ..TrainedEditor::default() };
    trained.take(&parameters);
    let file = case.record();
    for (name, (_, values)) in &mut trained.tensors {
        let own = tensor(&file, &format!("memory.{name}"));
        *values = own.into_iter().map(|x| x as f32).collect();
    }
    let tokenizer = tokenizer(case);
    let requests = request::parse("case", case.requests.to_string().as_bytes()).unwrap();
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let (facts, _) = tokenize(model, reading, &requests, &Contexts::bare());
    let (contexts, by) = (Contexts::bare(), case.params(model, json!({})));
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    let on = alone(model, &moments, &contexts);
    let mut on = Context { editor: Some(&trained), tokenizer: Some(&tokenizer), ..on };
    let plan = SERAC.plan(&mut on, &facts, &by).unwrap();
    assert!(plan.changes.is_empty());
    match plan.memory {
        Some(EditMemory::Serac(memory)) => memory,
        other => panic!("no such memory: {other:?}"),
    }
}

/// Prompts and targets that the reference asks, in its order.
fn asked(case: &Case, model: &Model) -> Vec<Completion> {
    let (samples, tokenizer) = (case.samples(model), tokenizer(case));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for (sample, request) in samples.iter().zip(case.requests.as_array().unwrap()) {
        all.push(sample.edit.clone());
        all.extend(sample.outer.iter().cloned());
        for stays in request["neighbourhood"].as_array().unwrap() {
            let (prompt, target) = (text(&stays["prompt"]), text(&stays["target"]));
            let target = tokenizer.encode_target(&prompt, &target, Some(true)).unwrap();
            all.push(Completion::new(&tokenizer.encode(&prompt).unwrap(), &target));
        }
    }
    all
}

/// Which prompts are about a fact, how much, and what is answered, by both models: each prompt
/// alone, and all of them in one batch. What is about no fact is answered to the base's bytes.
#[test]
fn prompts_are_answered_as_the_reference_does() {
    for case in Case::all("serac") {
        let file = case.record();
        for precision in [Precision::F32, Precision::F64] {
            let model = case.model(precision);
            let (memory, within) = (memory(&case, &model), Within::of(&case, precision));
            let asked = asked(&case, &model);
            let facts: Vec<i64> = integers(&file, "fact").iter().map(|&i| i as i64).collect();
            let (log_s, log_p) = (tensor(&file, "log_s"), tensor(&file, "log_p"));
            let base: Arc<dyn LanguageModel> = Arc::new(model.clone());
            let with = memory.clone().on(base.clone()).unwrap();
            let together = score(&*with, &asked).unwrap();
            let before = score(&*base, &asked).unwrap();
            let mut wanted = log_p.iter();
            let off = |got: f64, want: f64| (got - want).abs() / want.abs().max(1.0);
            for (i, text) in asked.iter().enumerate() {
                let points = memory.points(&model, &[&text.read[..text.prompt()]]).unwrap();
                let (_, found) = memory.nearest(&points[0]).unwrap();
                // Keys are kept in f32, which changes a distance by twice that of itself.
                within.check("f32_log_s", 4.0, off(found, log_s[i]));
                let about = memory.about(&points[0]).map_or(-1, |fact| fact as i64);
                assert_eq!(about, facts[i], "{}: prompt {i}", case.name);
                let alone = score(&*with, std::slice::from_ref(text)).unwrap();
                assert_eq!(alone[0], together[i], "{}: prompt {i}", case.name);
                for token in &together[i].tokens {
                    within.check("f32_log_p", 0.0, off(token.log_p, *wanted.next().unwrap()));
                }
                if about < 0 {
                    assert_eq!(together[i], before[i], "{}: prompt {i}", case.name);
                } else {
                    assert_ne!(together[i], before[i], "{}: prompt {i}", case.name);
                }
            }
        }
    }
}

/// What the public code's files say of a scope that is told otherwise, and of a mixture, is refused
/// by name; and so is a sample whose texts do not fit behind its edit.
#[test]
fn what_is_not_done_here_is_refused() {
    let case = Case::gpt2("serac");
    let model = case.model(Precision::F32);
    let resolve = |yaml: &str| {
        let set = HparamSet::parse(Path::new("gpt2-xl.yaml"), yaml.as_bytes()).unwrap();
        set.resolve(&SERAC, &model)
    };
    let plain = "lr: 1e-5\ncedit: 0.1\nsquare: true\n";
    assert!(resolve(plain).unwrap().layers().is_empty());
    for other in ["supervised: false", "cos: true", "cross_attend: true", "dist_heads: 2"] {
        let error = resolve(&format!("{plain}{other}\n"));
        let (field, _) = other.split_once(':').unwrap();
        let error = error.err().unwrap();
        assert_eq!(error.field(), Some(field), "{error}");
    }
    let (objective, _) = started(&case, &model);
    let mut sample = case.samples(&model).remove(0);
    objective.check(&sample).unwrap();
    let own = sample.edit.read.len() + 1;
    let rest = model.arch.max_positions - own;
    sample.outer = vec![Completion::new(&vec![5; rest + 1], &[6])];
    let error = objective.check(&sample).unwrap_err().to_string();
    assert!(error.contains(&sample.name) && error.contains("behind its own edit"), "{error}");
    sample.outer = vec![Completion::new(&vec![5; rest], &[6])];
    objective.check(&sample).unwrap();
}
