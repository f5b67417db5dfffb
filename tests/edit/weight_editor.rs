//! MEND and KE against `tools/reference_mend.py` and `reference_ke.py`, PyTorch programs that have
//! the networks' gradients by autograd; their gradients against differences of the loss; and what
//! holds of a training that is cut off, and of an editor in its folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::{Error, Quiet, Rng};
use incise::data::{Contexts, request};
use incise::edit::facts::{Reading, tokenize};
use incise::edit::method::{Context, Method, Plan, TrainContext};
use incise::edit::methods::find;
use incise::edit::methods::ke::{KE, KeEditor, KeShape};
use incise::edit::methods::mend::{MEND, MendEditor, MendShape};
use incise::edit::weight_editor::{EditObjective, WeightEditor, change};
use incise::model::Model;
use incise::model::change::dense;
use incise::model::score::score;
use incise::stats::Moment;
use incise::tensor::{Compute, Precision, Tensor};
use incise::text::Tokenizer;
use incise::train::kept::{KeptParameters, Progressed};
use incise::train::{Drawn, Parameters, Sample, SampleLoss, SampleObjective, TrainedEditor};
use serde_json::{Value, json};

use super::recorded_training::{Case, drawn};
use super::reference::{alone, golden, made, off, tensor};
use crate::support::budget::{U32, U64};
use crate::support::cancel::CancelAt;
use crate::support::golden::{digits, learned_positions};
use crate::support::twin;

/// An editor as a case begins with it, and its parameters.
trait Begins: WeightEditor + Sized {
    /// Untrained.
    fn untrained(case: &Case, model: &Model) -> (Self, Parameters);

    /// The same with the tensors that the reference began with.
    fn started(case: &Case, model: &Model) -> (Self, Parameters) {
        let (editor, mut parameters) = Self::untrained(case, model);
        case.begin(&mut parameters);
        (editor, parameters)
    }
}

impl Begins for MendEditor {
    fn untrained(case: &Case, model: &Model) -> (MendEditor, Parameters) {
        let shape = MendShape {
            rank: case.number("rank") as usize,
            lr: case.number("lr"),
            lr_lr: case.number("lr_lr"),
            edit_lr: case.number("edit_lr"),
            seed: 3,
        };
        let mut parameters = Parameters::new(model.compute.precision());
        let ids = case.params(model, json!({})).edited();
        (MendEditor::new(model, &ids, shape, &mut parameters), parameters)
    }
}

impl Begins for KeEditor {
    fn untrained(case: &Case, model: &Model) -> (KeEditor, Parameters) {
        let shape = KeShape {
            hidden: case.number("hidden_dim") as usize,
            condition: case.number("condition_dim") as usize,
            lr: case.number("lr"),
            seed: 3,
        };
        let mut parameters = Parameters::new(model.compute.precision());
        let ids = case.params(model, json!({})).edited();
        (KeEditor::new(model, &ids, shape, &mut parameters), parameters)
    }
}

fn numbers(loss: SampleLoss) -> [f64; 3] {
    [loss.edit, loss.locality, loss.total]
}

/// How far a number of a record may be missed: by the error budget twice as far as the reference's
/// own f32 run misses it, or in f64 2⁻²⁹ of that (as `reference::Budget::f64`); a rounding of the
/// number, and those of what is compared to f32. How far a single run is off is luck, so the worst
/// of the cases counts.
fn bound(records: &[Value], name: &str, double: bool, digits: f64, roundings: f64) -> f64 {
    let missed = records.iter().filter_map(|record| record[name].as_f64());
    let f32_off = 2.0 * missed.fold(0.0, f64::max);
    match double {
        true => 1.5 * U64 / U32 * f32_off + 2.0 * U64 + roundings * U32,
        false => digits * f32_off + (1.0 + roundings) * U32,
    }
}

/// How far the numbers of a case may be off.
pub struct Within<'c> {
    case: &'c Case,
    compute: Compute,
    records: Vec<Value>,
    pub double: bool,
}

impl Within<'_> {
    pub fn of(case: &Case, compute: impl Into<Compute>) -> Within<'_> {
        let compute = compute.into();
        let double = compute.precision() == Precision::F64 && learned_positions(&case.model);
        let all = Case::all(&case.method);
        let alike = |other: &&Case| other.hparams["kl_bound"] == case.hparams["kl_bound"];
        let records = all.iter().filter(alike).map(|case| made(&case.record())).collect();
        Within { case, compute, records, double }
    }

    pub fn check(&self, what: &str, roundings: f64, got: f64) {
        let (name, compute) = (&self.case.name, &self.compute);
        let bound = bound(&self.records, what, self.double, digits(compute), roundings);
        assert!(got <= bound, "{name} {compute:?}: {what}: {got:e} is beyond {bound:e}");
    }
}

/// Steps are PyTorch's; whether all of the record were taken.
pub fn check_steps(
    within: &Within,
    objective: &mut dyn SampleObjective,
    parameters: &mut Parameters,
    samples: &[Sample],
    batches: usize,
) -> bool {
    let (case, file) = (within.case, within.case.record());
    let size = case.number("accumulate_bs") as usize;
    let (losses, norms) = (tensor(&file, "losses"), tensor(&file, "norms"));
    for (b, batch) in case.draws.chunks(size).enumerate().take(batches) {
        parameters.clear();
        for (i, draw) in batch.iter().enumerate() {
            let drawn = drawn(samples, draw);
            let loss = objective.gradient(parameters, &drawn, 1.0 / size as f64).unwrap();
            let want = &losses[3 * (b * size + i)..][..3];
            for (got, want) in numbers(loss).into_iter().zip(want) {
                // A loss, and a KL, is off by what ln p is.
                within.check("f32_losses", 0.0, (got - want).abs() / want.max(1.0));
            }
        }
        let norm = parameters.step(case.number("grad_clip"));
        within.check("f32_norms", 0.0, (norm - norms[b]).abs() / norms[b]);
        objective.stepped(parameters);
    }
    if batches * size < case.draws.len() {
        return false;
    }
    for p in parameters.all() {
        let (kind, what) = if p.is_trained() { ("moved", "f32_moved") } else { ("end", "f32_end") };
        let now = p.value().to_f64();
        let want = tensor(&file, &format!("{kind}.{}", p.name));
        let start = within.case.start(&p.name);
        let got: Vec<f64> = match p.is_trained() {
            true => now.iter().zip(&start).map(|(now, start)| now - start).collect(),
            false => now,
        };
        // A parameter is rounded in each step, beside which it moves little.
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let roundings = norms.len() as f64 * length(&start) / length(&want);
        let counts = p.is_trained() && !within.double;
        within.check(what, if counts { roundings } else { 0.0 }, off(&got, &want));
    }
    true
}

/// Ten steps, and an edit after them, are PyTorch's.
fn check<E: Begins>(case: &Case, compute: impl Into<Compute>, batches: usize) {
    let within = Within::of(case, compute);
    let (file, model) = (case.record(), case.model(within.compute.clone()));
    let samples = case.samples(&model);
    let (editor, mut parameters) = E::started(case, &model);
    let outer = case.outer(&model, &mut parameters);
    let mut objective = EditObjective::new(&model, editor, outer);
    if !check_steps(&within, &mut objective, &mut parameters, &samples, batches) {
        return;
    }
    let (mut editor, _) = E::untrained(case, &model);
    let (deltas, _) = change(&mut editor, &model, &mut parameters, &samples[0].edit).unwrap();
    for (id, delta) in editor.ids().iter().zip(&deltas) {
        let got = dense(delta, model.matrix(*id).w.dims());
        let want = tensor(&file, &format!("{}.{}.change", id.layer, id.matrix.name()));
        within.check("f32_change", 2.0, off(&got, &want)); // each factor is rounded
    }
}

fn check_all<E: Begins>(method: &str) {
    for case in Case::all(method) {
        check::<E>(&case, Precision::F32, usize::MAX / 8);
        check::<E>(&case, Precision::F64, usize::MAX / 8);
    }
}

#[test]
fn ten_steps_of_mend_are_the_references() {
    check_all::<MendEditor>("mend");
}

#[test]
fn ten_steps_of_ke_are_the_references() {
    check_all::<KeEditor>("ke");
}

#[test]
fn a_step_by_kernels_is_the_references() {
    let test = "edit::weight_editor::a_step_by_kernels_is_the_references";
    let Some(engine) = twin::engine(test) else { return };
    check::<MendEditor>(&Case::gpt2("mend"), engine, 1);
}

/// Makes running means and deviations those of so many rows that a few more change nothing: they
/// are constants of the gradient, and each matrix of a sample moves them for the next.
fn settle(parameters: &mut Parameters) {
    const SEEN: f64 = 1e14;
    let deviation = |p: &str| p.strip_suffix("_s").map(|of| format!("{of}_std"));
    for i in 0..parameters.all().len() {
        let p = &parameters.all()[i];
        let of = deviation(&p.name).and_then(|of| parameters.all().iter().find(|p| p.name == of));
        let values: Vec<f64> = match of {
            Some(of) => of.value().to_f64().iter().map(|d| d * d * SEEN).collect(),
            None if p.name.ends_with(").k") => vec![SEEN],
            None => continue,
        };
        let shape = p.value().shape().to_vec();
        *parameters.value_mut(i) = Tensor::of(Precision::F64, &shape, &values);
    }
}

/// The directional derivative: ⟨gradient, d⟩ = (loss(p + hd) − loss(p − hd))/2h + O(h²), in f64,
/// with a direction in each kind of parameter by itself.
pub fn check_gradient(
    case: &Case,
    objective: &mut dyn SampleObjective,
    parameters: &mut Parameters,
    drawn: &Drawn,
) {
    parameters.clear();
    objective.gradient(parameters, drawn, 1.0).unwrap();
    let start: Vec<Vec<f64>> = parameters.all().iter().map(|p| p.value().to_f64()).collect();
    for (i, start) in start.iter().enumerate() {
        let p = &parameters.all()[i];
        if !p.is_trained() {
            continue;
        }
        let (name, shape) = (p.name.clone(), p.value().shape().to_vec());
        let mut rng = Rng::new(5, &name);
        let d: Vec<f64> = start.iter().map(|_| rng.normal()).collect();
        let gradient = parameters.gradient(i).to_f64();
        // The multiplier goes up the loss.
        let sign = if name == "multiplier" { -1.0 } else { 1.0 };
        let along = sign * gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>();
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        // So small that hardly an element of the networks passes 0 within it.
        let h = if name == "edit_lrs" { 1e-9 } else { 1e-8 };
        let mut at = |h: f64| {
            let moved: Vec<f64> = start.iter().zip(&d).map(|(p, d)| p + h * d).collect();
            *parameters.value_mut(i) = Tensor::of(Precision::F64, &shape, &moved);
            objective.loss(parameters, drawn).unwrap().total
        };
        let slope = (at(h) - at(-h)) / (2.0 * h);
        at(0.0);
        let gap = (slope - along).abs();
        let rounding = 64.0 * U64 * 10.0 / h; // of two losses of about ten, each of many sums
        assert!(gap <= 1e-6 * size + rounding, "{}: {name}: {slope} {along}", case.name);
    }
}

fn check_gradients<E: Begins>(method: &str) {
    for case in Case::all(method) {
        let model = case.model(Precision::F64);
        let samples = case.samples(&model);
        let (editor, mut parameters) = E::started(&case, &model);
        let outer = case.outer(&model, &mut parameters);
        let mut objective = EditObjective::new(&model, editor, outer);
        let drawn = drawn(&samples, &case.draws[0]);
        objective.gradient(&mut parameters, &drawn, 1.0).unwrap();
        settle(&mut parameters);
        check_gradient(&case, &mut objective, &mut parameters, &drawn);
    }
}

#[test]
fn gradients_of_mend_are_those_of_the_loss() {
    check_gradients::<MendEditor>("mend");
}

#[test]
fn gradients_of_ke_are_those_of_the_loss() {
    check_gradients::<KeEditor>("ke");
}

/// An editor that has not learnt hands on what its normaliser makes of the factors: with U = 0,
/// ΔW = η Σ_t δ'_t x'_tᵀ, which is η times the plain gradient where means are 0 and deviations 1.
#[test]
fn an_untrained_editor_goes_up_the_loss() {
    let case = Case::gpt2("mend");
    let model = case.model(Precision::F64);
    let samples = case.samples(&model);
    let (mut editor, mut parameters) = MendEditor::untrained(&case, &model);
    for p in parameters.all_mut().iter_mut().filter(|p| p.name.ends_with("_std")) {
        let ones = vec![1.0 - 1e-7; p.value().len()];
        *p.value_mut() = Tensor::of(Precision::F64, p.value().shape(), &ones);
    }
    let text = &samples[0].edit;
    let (deltas, before) = change(&mut editor, &model, &mut parameters, text).unwrap();
    let pairs: Vec<_> = editor.ids().iter().copied().zip(&deltas).collect();
    let (edited, _) = model.with(&pairs);
    let after = score(&edited, std::slice::from_ref(text)).unwrap()[0].nll();
    let square = |d: &[f64]| d.iter().map(|d| d * d).sum::<f64>();
    let sum: f64 = pairs.iter().map(|(id, d)| square(&dense(d, model.matrix(*id).w.dims()))).sum();
    let eta = case.number("edit_lr");
    // First order: the loss rises by ‖ΔW‖²/η. Second order is η of that.
    let rise = sum / eta;
    assert!(((after - before) / rise - 1.0).abs() < 0.05, "{before} {after} {rise}");
}

fn trained(case: &Case, folder: &Path, progress: &dyn incise::Progress) -> incise::Result<Vec<u8>> {
    let model = case.model(Precision::F32);
    let samples = case.samples(&model);
    let others = json!({"max_iters": 7, "val_interval": 3, "early_stop_patience": 100});
    let by = case.params(&model, others);
    let mut kept = KeptParameters::at(folder.join("partial"), "of these".to_owned());
    let (held_out, samples) = samples.split_last().unwrap();
    let on = TrainContext {
        model: &model,
        samples,
        held_out: std::slice::from_ref(held_out),
        tokenizer: &Tokenizer::open(golden().join(&case.model)).unwrap(),
        kept: Some(&mut kept),
        seed: 11,
        progress,
    };
    let (trained, record) = find(&case.method).unwrap().train(on, &by)?;
    // One before anything is learnt, then after 4, 6 and 7 samples.
    assert_eq!(record["history"].as_array().unwrap().len(), 4, "{record}");
    trained.write(folder, &record)?;
    Ok(fs::read(TrainedEditor::file(folder)).unwrap())
}

/// Cut off before any step and started again: the same bytes as in one run. A file of another
/// training is no use.
#[test]
fn cut_off_training_goes_on_to_the_same_bytes() {
    let de_cao = Case::all("ke").into_iter().find(|case| case.name == "gpt2-de-cao");
    for case in ["mend", "ke", "serac"].map(Case::gpt2).into_iter().chain(de_cao) {
        let folder = tempfile::tempdir().unwrap();
        let whole = trained(&case, folder.path(), &Quiet).unwrap();
        for question in 1..=4 {
            let name = format!("{}, question {question}", case.name);
            let folder = tempfile::tempdir().unwrap();
            let cut = trained(&case, folder.path(), &CancelAt::question(question));
            assert!(matches!(cut, Err(Error::Interrupted { .. })), "{name}");
            assert!(trained(&case, folder.path(), &Quiet).unwrap() == whole, "{name}");
        }
    }
    let case = Case::gpt2("mend");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("partial");
    let kept = |key: &str| KeptParameters::at(place.clone(), key.to_owned());
    let (_, mut parameters) = MendEditor::untrained(&case, &case.model(Precision::F32));
    let state = Progressed { samples: 4, steps: 2, ..Progressed::default() };
    kept("own").write(&parameters, &state).unwrap();
    assert_eq!(kept("own").read(&mut parameters).unwrap(), Some(state));
    let refused = |key: &str, parameters: &mut Parameters| {
        let error = kept(key).read(parameters).unwrap_err();
        assert_eq!(error.field(), Some("training"), "{error}");
    };
    refused("another's", &mut parameters);
    let mut bytes = fs::read(&place).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&place, bytes).unwrap();
    refused("own", &mut parameters); // a damaged file
}

/// A plan by an editor of the record, and the same after the editor went through its folder.
#[test]
fn plans_are_the_editors_whether_it_was_written_or_not() {
    let case = Case::gpt2("mend");
    let model = case.model(Precision::F32);
    let (_, parameters) = MendEditor::started(&case, &model);
    let mut own = TrainedEditor { method: "mend".to_owned(), ..TrainedEditor::default() };
    own.take(&parameters);
    let folder = tempfile::tempdir().unwrap();
    own.write(folder.path(), &json!({})).unwrap();
    let read = TrainedEditor::read(folder.path()).unwrap();
    assert_eq!((&read.tensors, read.fingerprint()), (&own.tensors, own.fingerprint()));
    let tokenizer = Tokenizer::open(golden().join(&case.model)).unwrap();
    let requests = request::parse("case", case.requests.to_string().as_bytes()).unwrap();
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let (facts, _) = tokenize(&model, reading, &requests, &Contexts::bare());
    let (contexts, by) = (Contexts::bare(), case.params(&model, json!({})));
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    let plan = |editor: &TrainedEditor| {
        let on = alone(&model, &moments, &contexts);
        MEND.plan(&mut Context { editor: Some(editor), ..on }, &facts, &by)
    };
    let plan_of_all = plan(&read).unwrap();
    assert_eq!(plan_of_all.facts.len(), 3);
    assert_eq!(plan_of_all.changes.len(), 4);
    assert!(plan_of_all.changes.iter().all(|change| change.norm > 0.0));
    let deltas = |plan: &Plan| -> Vec<_> {
        plan.changes.iter().map(|change| change.delta.clone()).collect()
    };
    assert!(deltas(&plan(&own).unwrap()) == deltas(&plan_of_all));
    // What does not fit is named.
    let mut less = own.clone();
    less.tensors.remove("edit_lrs");
    let mut more = own.clone();
    more.tensors.insert("another".to_owned(), (vec![1], vec![0.0]));
    let mut broken = own.clone();
    broken.tensors.get_mut("edit_lrs").unwrap().1[0] = f32::NAN;
    for (editor, field) in [(less, "edit_lrs"), (more, "another"), (broken, "edit_lrs")] {
        let Err(Error::Input { field: found, .. }) = plan(&editor).map(drop) else {
            panic!("{field}: was taken");
        };
        assert_eq!(found, field);
    }
}

/// A change is made again until the model says the fact, at most as often as it may.
#[test]
fn a_change_is_made_again_where_it_does_not_say_the_fact() {
    let case = Case::gpt2("ke");
    let model = case.model(Precision::F32);
    let (_, parameters) = KeEditor::started(&case, &model);
    let mut editor = TrainedEditor { method: "ke".to_owned(), ..TrainedEditor::default() };
    editor.take(&parameters);
    let tokenizer = Tokenizer::open(golden().join(&case.model)).unwrap();
    let requests = request::parse("case", case.requests.to_string().as_bytes()).unwrap();
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let (facts, _) = tokenize(&model, reading, &requests[..1], &Contexts::bare());
    let text = facts[0].rows.completion(0);
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    let plan = |times: usize| {
        let (contexts, by) = (Contexts::bare(), case.params(&model, json!({"reapply": times})));
        let on = alone(&model, &moments, &contexts);
        KE.plan(&mut Context { editor: Some(&editor), ..on }, &facts, &by).unwrap()
    };
    let [once, thrice] = [1, 3].map(plan);
    let says = |plan: &Plan| score(&plan.model, std::slice::from_ref(&text)).unwrap()[0].missed();
    assert!(says(&once).is_some() && says(&thrice).is_some(), "the editor has not learnt");
    for (one, three) in once.changes.iter().zip(&thrice.changes) {
        let sizes = model.matrix(one.id).w.dims();
        let [one, three] = [one, three].map(|change| dense(&change.delta, sizes));
        let want: Vec<f64> = one.iter().map(|x| 3.0 * x).collect();
        assert!(off(&three, &want) <= U32, "three times the change");
    }
    let [first, third] = [&once, &thrice].map(|plan| plan.facts[0].change.unwrap()[0]);
    assert!((third - 3.0 * first).abs() <= 1e-6 * third);
}
