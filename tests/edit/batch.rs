//! MEMIT and its family against `tools/reference_batch.py`, which searches one fact at a time and
//! solves the dense F×F system; and what holds whatever the batch.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::Quiet;
use incise::data::{Contexts, request};
use incise::edit::batch::anchor_of;
use incise::edit::cache::Cache;
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Moments, Plan};
use incise::edit::methods::find;
use incise::edit::params::Params;
use incise::edit::search::{SearchFact, TargetValue, find_all};
use incise::edit::state::State;
use incise::linalg::vector::{dot, norm};
use incise::model::change::dense;
use incise::model::score;
use incise::model::{At, Model, Site};
use incise::stats::Moment;
use incise::stats::covariance::matrix;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{Budget, alone, golden, moment, off, tensor};
use crate::support::budget::{U32, on_one_and_two};
use crate::support::cancel::CancelAt;
use crate::support::golden::learned_positions;
use crate::support::twin;

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub model: String,
    pub stats: String,
    pub method: String,
    pub requests: Value,
    pub contexts: Vec<Vec<String>>,
    pub sequential: usize,
    pub anchor: Option<Vec<usize>>,
    pub hparams: Value,
}

/// A case, ready to run.
pub struct Ready {
    pub model: Model,
    pub facts: Vec<TokenizedFact>,
    pub contexts: Contexts,
    pub method: &'static dyn Method,
    pub by: Params,
    pub moments: Vec<Arc<Moment>>,
    pub sequential: usize,
    pub anchor: Option<Vec<usize>>,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("batch/cases.json")).unwrap()).unwrap()
    }

    pub fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }

    pub fn ready(&self, compute: impl Into<Compute>) -> Ready {
        let dir = golden().join(&self.model);
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
        let method = find(&self.method).unwrap();
        let mut values =
            HparamSet::parse(Path::new("case"), self.hparams.to_string().as_bytes()).unwrap();
        if self.anchor.is_some() {
            values.put("norm_anchor", true.into(), "a test");
        }
        let by = values.resolve(method, &model).unwrap();
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        let contexts = Contexts::new("case", self.contexts.clone()).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        // The public code puts a space before every target.
        let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
        let (facts, broken) = tokenize(&model, reading, &requests, &contexts);
        assert_eq!(broken, []);
        let read = |&l: &usize| Arc::new(moment(&dir.join(&self.stats), l, model.arch.inner));
        let moments = by.layers().iter().map(read).collect();
        let (sequential, anchor) = (self.sequential, self.anchor.clone());
        Ready { model, facts, contexts, method, by, moments, sequential, anchor }
    }
}

impl Ready {
    pub fn moment(&self, l: usize) -> Arc<Moment> {
        self.moments.iter().find(|m| m.layer == l).unwrap().clone()
    }

    /// What the method plans with; the state has the anchor where the case measures one.
    fn context<'a>(
        &'a self,
        moments: &'a Moments<'a>,
        room: u64,
        cache: Option<&'a mut Cache>,
    ) -> Context<'a> {
        let mut context = Context {
            cache,
            sequential: self.sequential,
            memory: room,
            ..alone(&self.model, moments, &self.contexts)
        };
        if let Some(sample) = &self.anchor {
            let sample: Vec<&TokenizedFact> = sample.iter().map(|&i| &self.facts[i]).collect();
            let search = self.method.search(&self.by, &self.model.arch).unwrap();
            let mut alone = Context { memory: room, ..alone(&self.model, moments, &self.contexts) };
            let c = anchor_of(&mut alone, &sample, &search, &self.by).unwrap();
            context.state.notes.insert("anchor".into(), c.into());
        }
        context
    }

    pub fn run(&self, facts: &[TokenizedFact], room: u64, cache: Option<&mut Cache>) -> Plan {
        let moments = |l| Ok(self.moment(l));
        let mut context = self.context(&moments, room, cache);
        self.method.plan(&mut context, facts, &self.by).unwrap()
    }
}

fn check(case: &Case, compute: impl Into<Compute>, budget: Budget) -> (Ready, Plan) {
    let compute = compute.into();
    let budget = budget.on(&compute);
    let ready = case.ready(&compute);
    let planned = ready.run(&ready.facts, u64::MAX, None);
    let file = fs::read(golden().join(format!("batch/{}.safetensors", case.name))).unwrap();
    let mut worst = 0.0f64;
    for (i, outcome) in planned.facts.iter().enumerate() {
        let loss = tensor(&file, &format!("{i}.loss"));
        assert_eq!(outcome.trace.len(), loss.len(), "{} {compute:?}: steps of {i}", case.name);
        for (step, want) in outcome.trace.iter().zip(&loss) {
            worst = worst.max((step.total() - want).abs() / want);
        }
    }
    let mut change = 0.0f64;
    for planned in &planned.changes {
        let sizes = ready.model.matrix(planned.id).w.dims();
        let want = tensor(&file, &format!("{}.change", planned.id.layer));
        change = change.max(off(&dense(&planned.delta, sizes), &want));
    }
    println!("{} {compute:?}: ΔW {change:.1e}, loss {worst:.1e}", case.name);
    let name = &case.name;
    assert!(change <= budget.change, "{name} {compute:?}: ΔW is off by {change:e} {budget:?}");
    assert!(worst <= budget.loss, "{name} {compute:?}: the loss is off by {worst:e} {budget:?}");
    (ready, planned)
}

/// In f32.
fn budget() -> Budget {
    let record = |c: Case| golden().join(format!("batch/{}.safetensors", c.name));
    Budget::f32(&Case::all().into_iter().map(record).collect::<Vec<_>>())
}

#[test]
fn changes_and_losses_are_the_references() {
    for case in Case::all() {
        check(&case, Precision::F32, budget());
        // In f64 what is left is the rounding of each layer's change to f32, by two factors or
        // whole, which the next layers see; where batches follow one another, the next search is
        // on a model so changed, and its budget is that of f32.
        let layers = 2.0 * case.hparams["layers"].as_array().unwrap().len() as f64;
        let alone = case.sequential == 0 && learned_positions(&case.model);
        check(&case, Precision::F64, if alone { budget().f64(layers) } else { budget() });
    }
}

/// So does a plan by kernels, in steps that are replayed.
#[test]
fn a_change_by_kernels_is_the_references() {
    let test = "edit::batch::a_change_by_kernels_is_the_references";
    let Some(engine) = twin::engine(test) else { return };
    check(&Case::named("gpt2-encore-sequential-arg-max"), engine.clone(), budget());
    assert!(engine.replays() > 0, "steps were replayed");
}

/// Two devices, the second with less memory: the same bits, and it keeps the weights that batches
/// leave as they are.
#[test]
fn devices_share_facts_and_keep_weights() {
    let test = "edit::batch::devices_share_facts_and_keep_weights";
    let Some((first, second)) = twin::fastest(test).zip(twin::fastest(test)) else { return };
    let mut ready = Case::named("gpt2-memit-sequential").ready(first.clone());
    let alone = bits(&ready.run(&ready.facts, u64::MAX, None));
    second.cap(first.memory().peak / 3 * 2);
    ready.model.peers.push(second.clone().into());
    assert_eq!(bits(&ready.run(&ready.facts, u64::MAX, None)), alone);
    assert!(second.memory().used > 0, "its weights stay with the model's");
}

/// Bytes of everything a plan says.
pub fn bits(planned: &Plan) -> Vec<u64> {
    let sizes = |id| planned.model.matrix(id).w.dims();
    let layers = planned.changes.iter().flat_map(|c| dense(&c.delta, sizes(c.id)));
    let traces = planned.facts.iter().flat_map(|o| o.trace.iter().map(|s| s.total()));
    layers.chain(traces).map(f64::to_bits).collect()
}

/// However little room there is, so however often slots are refilled, and on however many threads.
#[test]
fn a_plan_does_not_depend_on_the_room() {
    for name in ["gpt2-memit-stop", "gptj-pmet-clamp-stop-arg-max", "llama-tied-memit-clamp-stop"] {
        let ready = Case::named(name).ready(Precision::F32);
        let all = bits(&ready.run(&ready.facts, u64::MAX, None));
        for room in [1, 200_000, 400_000] {
            assert_eq!(bits(&ready.run(&ready.facts, room, None)), all, "{name}, room {room}");
        }
        on_one_and_two(name, || bits(&ready.run(&ready.facts, 300_000, None)));
    }
}

/// Values come out the same for a fact alone, in other company and in another order.
#[test]
fn a_value_does_not_depend_on_other_facts() {
    let ready = Case::named("gpt2-memit-stop").ready(Precision::F32);
    let traces = |facts: &[TokenizedFact]| -> Vec<Vec<f64>> {
        let planned = ready.run(facts, 200_000, None);
        planned.facts.iter().map(|o| o.trace.iter().map(|s| s.total()).collect()).collect()
    };
    let all = traces(&ready.facts);
    for order in [vec![3, 0, 4], vec![2], vec![4, 3, 2, 1, 0]] {
        let some: Vec<TokenizedFact> = order.iter().map(|&i| ready.facts[i].clone()).collect();
        for (trace, i) in traces(&some).iter().zip(order) {
            assert_eq!(*trace, all[i], "fact {i}");
        }
    }
}

/// A lock outlives its file by a moment where another test forks a process just then.
pub fn open(dir: &Path) -> Cache {
    for _ in 0..200 {
        if let Ok(cache) = Cache::open(dir, "tiny") {
            return cache;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Cache::open(dir, "tiny").unwrap()
}

/// Cut off anywhere, with the values file torn anywhere, a run goes on to the same bytes, and does
/// not search again what it had found.
#[test]
fn a_run_goes_on_where_it_was_cut_off() {
    for name in ["gpt2-memit-stop", "gpt2-alphaedit-sequential", "gpt2-betaedit-refresh"] {
        let ready = Case::named(name).ready(Precision::F32);
        let whole = bits(&ready.run(&ready.facts, 200_000, None));
        let mut cuts = 0;
        for after in [0, 3, 9, 17, 25, 40] {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("kept");
            let moments = |l| Ok(ready.moment(l));
            let cancel = CancelAt::question(after + 1);
            let mut kept = open(&dir);
            let mut context = ready.context(&moments, 200_000, Some(&mut kept));
            context.progress = &cancel;
            let cut = ready.method.plan(&mut context, &ready.facts, &ready.by);
            drop(context);
            drop(kept);
            if cut.is_ok() {
                continue; // it was done by then
            }
            let path = dir.join("values");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - bytes.len().min(after as usize)]).unwrap();
            let mut kept = open(&dir);
            let planned = ready.run(&ready.facts, 200_000, Some(&mut kept));
            assert_eq!(bits(&planned), whole, "{name}, cut off after {after}");
            drop(kept);
            // All is kept now.
            let mut kept = open(&dir);
            let len = fs::metadata(&path).unwrap().len();
            assert_eq!(bits(&ready.run(&ready.facts, 200_000, Some(&mut kept))), whole);
            assert_eq!(fs::metadata(&path).unwrap().len(), len, "something was searched again");
            cuts += 1;
        }
        assert!(cuts > 2, "{name}: cut off {cuts} times");
    }
}

/// ΔU₁ = 0 for the directions in which C is at or above the threshold.
#[test]
fn alphaedit_leaves_what_text_uses() {
    let ready = Case::named("gpt2-alphaedit-sequential").ready(Precision::F64);
    let planned = ready.run(&ready.facts, u64::MAX, None);
    let case = Case::named("gpt2-alphaedit-sequential");
    let nullspace_threshold = case.hparams["nullspace_threshold"].as_f64().unwrap();
    for change in &planned.changes {
        let moment = ready.moments.iter().find(|m| m.layer == change.id.layer).unwrap();
        let c = matrix(moment, 0.0);
        let eigen = c.self_adjoint_eigen(faer::Side::Lower).unwrap();
        let sizes @ [out, inner] = ready.model.matrix(change.id).w.dims();
        let delta = dense(&change.delta, sizes);
        let (mut kept, mut used) = (0.0f64, 0);
        for (j, u) in eigen.U().col_iter().enumerate() {
            if eigen.S().column_vector()[j] >= nullspace_threshold {
                used += 1;
                let u: Vec<f64> = u.iter().copied().collect();
                for row in delta.chunks_exact(inner) {
                    kept = kept.max(dot(row, &u).abs());
                }
            }
        }
        assert!(used > 0 && delta.len() == out * inner);
        // Each factor was rounded to f32: inner terms of half a unit of 2⁻²³ each.
        let bound = inner as f64 * f64::from(f32::EPSILON) * norm(&delta);
        assert!(kept <= bound, "layer {}: {kept:e} > {bound:e}", change.id.layer);
    }
}

/// A case of another method, with some settings over its own.
fn variant(name: &str, method: &str, settings: Value) -> Plan {
    let mut case = Case { method: method.to_owned(), ..Case::named(name) };
    let Value::Object(settings) = settings else { panic!("settings by name") };
    case.hparams.as_object_mut().unwrap().extend(settings);
    let ready = case.ready(Precision::F64);
    ready.run(&ready.facts, u64::MAX, None)
}

/// ENCORE without its ridge and its early stop is MEMIT, to the bit; with either it is not.
#[test]
fn encore_without_its_switches_is_memit() {
    let memit = Case::named("gpt2-memit-sequential").ready(Precision::F64);
    let memit = bits(&memit.run(&memit.facts, u64::MAX, None));
    let encore = |nu: f64, looks: usize| {
        let settings = json!({"update_norm_lambda": nu, "early_stop": looks});
        bits(&variant("gpt2-memit-sequential", "encore", settings))
    };
    assert_eq!(encore(0.0, 100), memit);
    assert_ne!(encore(1.0, 100), memit);
    assert_ne!(encore(0.0, 1), memit);
}

/// As λ goes to 0, BetaEdit in its first directions is AlphaEdit: (A + E)⁻¹ is within ‖E‖/σ_min(A)
/// of A⁻¹, where E = λU₀ᵀCU₀ is below λ·nullspace_threshold and A is L2·I and more.
#[test]
fn betaedit_that_minds_no_text_is_alphaedit() {
    let name = "gpt2-alphaedit-clamp-stop";
    let change = |method: &str, settings: Value| {
        let plan = variant(name, method, settings);
        let [change] = &plan.changes[..] else { panic!("one layer") };
        dense(&change.delta, plan.model.matrix(change.id).w.dims())
    };
    let alpha = change("alphaedit", json!({"layers": [1]}));
    let [tiny, some] = [1e-9, 5.0].map(|lambda| {
        let settings = json!({"layers": [1], "mom2_update_weight": lambda, "refresh_every": 100});
        off(&change("betaedit", settings), &alpha)
    });
    let hparams = Case::named(name).hparams;
    let [threshold, l2] = ["nullspace_threshold", "L2"].map(|x| hparams[x].as_f64().unwrap());
    // Both keep two factors in f32.
    let bound = 1e-9 * threshold / l2 + 4.0 * U32;
    assert!(tiny <= bound, "{tiny:e} is above {bound:e}");
    assert!(some > bound, "λ counts");
}

/// A damaged layer is made again, and a damaged value is searched again; the others serve.
#[test]
fn what_was_kept_is_checked() {
    let ready = Case::named("gpt2-memit").ready(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("kept");
    let whole = bits(&ready.run(&ready.facts, u64::MAX, Some(&mut open(&dir))));
    let layer = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        path.file_name().unwrap().to_str().unwrap().starts_with("layer-").then_some(path)
    };
    let layers: Vec<_> = fs::read_dir(&dir).unwrap().filter_map(layer).collect();
    assert_eq!(layers.len(), ready.by.layers().len());
    for path in layers.iter().chain([&dir.join("values")]) {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        let at = if path.ends_with("values") { 100 } else { good.len() - 2 };
        bad[at] ^= 0x40;
        fs::write(path, &bad).unwrap();
        let mut kept = open(&dir);
        if path.ends_with("values") {
            assert_eq!(kept.values().len(), ready.facts.len() - 1);
        }
        assert_eq!(bits(&ready.run(&ready.facts, u64::MAX, Some(&mut kept))), whole, "{path:?}");
    }
}

/// The change minds the keys of a state, whatever was found under another.
#[test]
fn layers_are_stored_by_state() {
    let ready = Case::named("gpt2-memit").ready(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let moments = |l| Ok(ready.moment(l));
    let run = |scale: f64, cache: &mut Cache| {
        let gram = |l: &usize| {
            let f = ready.model.arch.inner;
            (*l, Arc::new(faer::Mat::from_fn(f, f, |i, j| if i == j { scale } else { 0.0 })))
        };
        let mut state = State { requests: vec!["the same".into()], ..State::default() };
        state.put("gram", ready.by.layers().iter().map(gram).collect());
        let mut context = ready.context(&moments, u64::MAX, Some(cache));
        context.state = state;
        bits(&ready.method.plan(&mut context, &ready.facts, &ready.by).unwrap())
    };
    let mut cache = open(&folder.path().join("kept"));
    let one = run(1.0, &mut cache);
    assert_ne!(run(50.0, &mut cache), one);
    assert_eq!(run(1.0, &mut cache), one);
}

/// What was found for one model is not handed to another.
#[test]
fn values_of_another_model_are_not_handed_back() {
    let ready = Case::named("gpt2-memit").ready(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("kept");
    drop(ready.run(&ready.facts, u64::MAX, Some(&mut open(&dir))));
    let len = fs::metadata(dir.join("values")).unwrap().len();
    let mut other = Cache::open(&dir, "another model").unwrap();
    drop(ready.run(&ready.facts, u64::MAX, Some(&mut other)));
    assert!(fs::metadata(dir.join("values")).unwrap().len() > len, "all were searched again");
}

/// EMMET with ε = 0 in one layer behind which a norm stands: every value is met, as long as before.
#[test]
fn emmet_meets_values_behind_a_norm() {
    let hparams = json!({
        "layers": [1], "mom2_update_weight": 100, "emmet_lambda": 0, "v_num_grad_steps": 5,
        "v_lr": 0.5, "v_weight_decay": 0.1, "clamp_norm_factor": 1, "kl_factor": 0.0625,
        "fact_token": "subject_last",
    });
    let request = |[subject, target]: [&str; 2]| {
        let prompt = "{} is in";
        json!({"prompt": prompt, "subject": subject, "target_new": target})
    };
    let case = Case {
        name: "emmet behind a norm".to_owned(),
        model: "olmo2".to_owned(),
        stats: "stats".to_owned(),
        method: "emmet".to_owned(),
        requests: json!([["Big Ben", "Paris"], ["The river", "Basel"]].map(request)),
        contexts: vec![vec!["{}".to_owned()]],
        sequential: 0,
        anchor: None,
        hparams,
    };
    let ready = case.ready(Precision::F64);
    let (model, f) = (&ready.model, ready.model.arch.inner);
    let search = ready.method.search(&ready.by, &model.arch).unwrap();
    let wanted: Vec<SearchFact> =
        ready.facts.iter().map(|fact| SearchFact { id: "", rows: &fact.rows }).collect();
    let mut values = vec![Vec::new(); wanted.len()];
    let mut each = |i: usize, value: TargetValue| {
        values[i] = value.v_star();
        Ok(())
    };
    find_all(model, &wanted, &search, u64::MAX, &Quiet, &mut each).unwrap();
    let planned = ready.run(&ready.facts, u64::MAX, None);
    let texts: Vec<&[u32]> = ready.facts.iter().map(|f| f.rows.keys[0].up_to_lookup()).collect();
    let [before, after] = [model, &planned.model]
        .map(|model| score::read(model, &texts, Site { layer: 1, at: At::VALUE }).unwrap());
    for (i, v) in values.iter().enumerate() {
        let (was, now) = (before.row_f64(i), after.row_f64(i));
        let gap = |a: &[f64], b: &[f64]| -> f64 {
            norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>())
        };
        assert!(gap(&was, v) > 0.1 * norm(v), "fact {i} moved");
        // Δ is kept in f32: each of F products of it with the key is off by a unit.
        let bound = f as f64 * U32 * norm(v);
        assert!(gap(&now, v) <= bound, "fact {i}: off by {:e}, {bound:e}", gap(&now, v));
        assert!((norm(&now) / norm(&was) - 1.0).abs() <= f as f64 * U32);
    }
}
