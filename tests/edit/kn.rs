//! Knowledge neurons: what rests on them, which are chosen, and what their columns become.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::{Error, Progress, Quiet};
use incise::data::{Contexts, request};
use incise::edit::attribution::{IntegratedGradients, Neuron, NeuronSite, above, refined};
use incise::edit::cache::Cache;
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::kn::KN;
use incise::model::change::dense;
use incise::model::completion::Completion;
use incise::model::score::score;
use incise::model::site::Look;
use incise::model::{At, Batch, LanguageModel, Matrix, MatrixId, Model, Past, Site};
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
use crate::support::twin;

/// A recorded run.
#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    requests: Value,
    hparams: Value,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("kn/cases.json")).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }
}

/// A model, its tokenizer and a case's facts.
struct Opened {
    model: Model,
    tokenizer: Tokenizer,
    facts: Vec<TokenizedFact>,
}

fn open(case: &Case, compute: impl Into<Compute>) -> Opened {
    let dir = golden().join(&case.model);
    let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
    let requests = request::parse("case", case.requests.to_string().as_bytes()).unwrap();
    let (facts, broken) = tokenize(&model, reading, &requests, &Contexts::bare());
    assert_eq!(broken, []);
    Opened { model, tokenizer, facts }
}

fn plan(of: &Opened, hparams: &Value) -> incise::Result<Plan> {
    plan_with(of, hparams, &Quiet, None)
}

fn plan_with(
    of: &Opened,
    hparams: &Value,
    progress: &dyn Progress,
    cache: Option<&mut Cache>,
) -> incise::Result<Plan> {
    let values = HparamSet::parse(Path::new("case"), hparams.to_string().as_bytes());
    let by = values.unwrap().resolve(&KN, &of.model).unwrap();
    let contexts = Contexts::bare();
    let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics are read") };
    let on = alone(&of.model, &moments, &contexts);
    let mut on = Context { tokenizer: Some(&of.tokenizer), progress, cache, ..on };
    KN.plan(&mut on, &of.facts, &by)
}

/// What rests on the neurons of the first fact's prompt, the neurons of all facts, and what became
/// of the columns, are PyTorch's. By the error budget: twice as far as its own f32 run of the case,
/// and of a change a rounding to f32 on either side.
fn check(case: &Case, compute: impl Into<Compute>) {
    let compute = compute.into();
    let name = &case.name;
    let file = fs::read(golden().join(format!("kn/{name}.safetensors"))).unwrap();
    let double = compute.precision() == Precision::F64 && learned_positions(&case.model);
    let lost = if double { 0.75 * U64 / U32 } else { digits(&compute) };
    let budget = |kind: &str| lost * 2.0 * made(&file)[kind].as_f64().unwrap();
    let of = open(case, &compute);

    let site = match case.hparams["site"].as_str().unwrap() {
        "key" => NeuronSite::Key,
        _ => NeuronSite::BeforeActivation,
    };
    let steps = case.hparams["steps"].as_u64().unwrap() as usize;
    let first = &of.facts[0];
    let old = first.request.target_true.as_ref().unwrap();
    let old = of.tokenizer.encode_target(&first.request.filled(), old, None).unwrap();
    if case.hparams["along"] == "answer" {
        let text = Completion::new(&first.rows.keys[0].ids, &old);
        let ways = IntegratedGradients { steps, site };
        let found = ways.attribute(&of.model, &text, u64::MAX, &Quiet).unwrap().concat();
        let gap = off(&found, &tensor(&file, "0.0.attr"));
        println!("{name} {compute:?}: attr {gap:e}");
        assert!(gap <= budget("f32_attr"), "{name}: {gap:e}, {:e}", budget("f32_attr"));
    }

    let plan = plan(&of, &case.hparams).unwrap();
    for (i, fact) in plan.facts.iter().enumerate() {
        let want = integers(&file, &format!("{i}.neurons")).len() / 2;
        assert_eq!(fact.neurons, Some(want), "{name}: neurons of fact {i}");
    }
    for layer in 0..of.model.arch.layers {
        let sizes = of.model.matrix(MatrixId::down(layer)).w.dims();
        let want = tensor(&file, &format!("{layer}.change"));
        let own = plan.changes.iter().find(|change| change.id == MatrixId::down(layer));
        let Some(own) = own else {
            assert!(want.iter().all(|&x| x == 0.0), "{name}: layer {layer} is left as it is");
            continue;
        };
        let gap = off(&dense(&own.delta, sizes), &want);
        let bound = budget("f32_change") + 2.0 * U32;
        assert!(gap <= bound, "{name}: change of layer {layer} off by {gap:e}, {bound:e}");
    }
}

#[test]
fn neurons_and_columns_are_the_references() {
    for case in Case::all() {
        check(&case, Precision::F32);
        check(&case, Precision::F64);
    }
}

/// As the case's budget has it, of fewer points.
#[test]
fn neurons_by_kernels_are_those_of_the_host() {
    let test = "edit::kn::neurons_by_kernels_are_those_of_the_host";
    let Some(engine) = twin::fastest(test) else { return };
    let file = fs::read(golden().join("kn/llama-tied-key.safetensors")).unwrap();
    let ways = IntegratedGradients { steps: 2, site: NeuronSite::Key };
    let at = |compute: Compute| {
        let model = open(&Case::named("llama-tied-key"), compute).model;
        let text = Completion::new(&[5, 6, 7], &[9]);
        ways.attribute(&model, &text, u64::MAX, &Quiet).unwrap().concat()
    };
    let compute = Compute::from(engine);
    let budget = 2.0 * digits(&compute) * made(&file)["f32_attr"].as_f64().unwrap();
    let gap = off(&at(compute), &at(Precision::F64.into()));
    assert!(gap <= budget, "{gap:e}, {budget:e}");
}

/// p of the last label of a text where a layer's activation at the last token is 0.
fn without(model: &Model, ids: &[u32], label: u32, site: Site) -> f64 {
    let n = ids.len();
    let mut hook = Look {
        sites: vec![site],
        look: |_, shown: &mut incise::tensor::Tensor| {
            let [_, f] = shown.dims();
            shown.get_mut::<f64>()[(n - 1) * f..].fill(0.0);
        },
    };
    let z = model.run(&Batch::whole([ids]), &mut Past::None, &[n - 1], &mut hook).unwrap();
    let z = z.to_f64();
    let most = z.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = z.iter().map(|z| (z - most).exp()).sum();
    (z[label as usize] - most).exp() / sum
}

/// Completeness, layer by layer: what rests on all neurons of a layer is what p loses without them.
/// With S_m = Σ attr of m points and f(α) = dp/dα, (m S_m − S_2)/(m − 1) is the trapezoidal rule of
/// f on m − 1 intervals, and S_2 = (f(0) + f(1))/2. Half the intervals' length quarters its error,
/// which is then a third of what the rule moved; at most all of that is granted.
#[test]
fn what_rests_on_a_layer_is_what_goes_without_it() {
    for model in ["gpt2-key", "llama-tied-key"] {
        let of = open(&Case::named(model), Precision::F64);
        let text = of.facts[0].rows.completion(0);
        let text = Completion::new(&text.read[..text.prompt()], &[5, 9]); // of two tokens
        for (site, at) in [
            (NeuronSite::Key, At::KEY),
            (
                NeuronSite::BeforeActivation,
                match of.model.matrix_sizes(gate()).is_some() {
                    true => At::Output(Matrix::Gate),
                    false => At::Output(Matrix::Up),
                },
            ),
        ] {
            let sums = |steps| -> Vec<f64> {
                let ways = IntegratedGradients { steps, site };
                let all = ways.attribute(&of.model, &text, u64::MAX, &Quiet).unwrap();
                all.iter().map(|own| own.iter().sum()).collect()
            };
            let (ends, coarse, fine) = (sums(2), sums(17), sums(33));
            let now = score(&of.model, std::slice::from_ref(&text)).unwrap();
            for layer in 0..of.model.arch.layers {
                let rule = |m: f64, s: f64| (m * s - ends[layer]) / (m - 1.0);
                let [coarse, fine] = [rule(17.0, coarse[layer]), rule(33.0, fine[layer])];
                let lost: f64 = (0..2)
                    .map(|t| {
                        let ids = &text.read[..text.prompt() + t];
                        let site = Site { layer, at };
                        let p = now[0].tokens[t].log_p.exp();
                        (p - without(&of.model, ids, text.labels[t], site)) / 2.0
                    })
                    .sum();
                let gap = (fine - lost).abs();
                let bound = (fine - coarse).abs() + 64.0 * f64::EPSILON;
                assert!(gap <= bound, "{model} {site:?} {layer}: {fine}, {lost}, {bound:e}");
                assert!(lost.abs() > 4.0 * bound, "{model} {layer}: {lost:e} says nothing");
            }
        }
    }
}

fn gate() -> MatrixId {
    MatrixId::new(0, Matrix::Gate)
}

/// However many rows a pass has, to the bit.
#[test]
fn room_decides_nothing() {
    for model in ["gpt2-key", "llama-tied-key"] {
        let of = open(&Case::named(model), Precision::F32);
        let text = of.facts[0].rows.completion(0);
        let ways = IntegratedGradients { steps: 3, site: NeuronSite::Key };
        let row = IntegratedGradients::bytes_a_row(&of.model);
        let at = |room| ways.attribute(&of.model, &text, room, &Quiet).unwrap();
        let all = at(u64::MAX);
        assert!(at(0) == all && at(5 * row) == all, "{model}");
    }
}

#[test]
fn neurons_are_chosen_by_the_rules() {
    let rests = [vec![0.5, 0.1, 0.0], vec![-1.0, 0.11, 0.05]];
    let places = |all: &[Neuron]| all.iter().map(|n| [n.layer, n.index]).collect::<Vec<_>>();
    assert_eq!(places(&above(&rests, 0.2)), [[0, 0], [1, 1]], "more than 0.1, not as much");
    assert_eq!(places(&above(&rests, 0.0)), [[0, 0], [0, 1], [1, 1], [1, 2]]);
    assert_eq!(above(&[vec![-1.0, 0.0]], 0.0), [], "nothing rests on any");
    let neuron = |index, attribution| Neuron { layer: 1, index, attribution };
    let prompts = [vec![neuron(3, 0.5)], vec![neuron(3, 0.25), neuron(7, 1.0)], vec![]];
    assert_eq!(refined(&prompts, 0.5), [neuron(3, 0.375)], "two of three, the mean of both");
    assert_eq!(refined(&prompts, 2.0 / 3.0), []);
    assert_eq!(refined(&prompts[..1], 0.9), [neuron(3, 0.5)]);
}

/// Without an old answer, what the model says is one; nothing is changed where nothing rests on any
/// neuron, and that is said.
#[test]
fn what_the_model_says_is_an_old_answer() {
    let mut of = open(&Case::named("gpt2-key"), Precision::F32);
    of.facts.truncate(1);
    let fact = &mut of.facts[0];
    let prompt = fact.rows.keys[0].ids.clone();
    fact.request.target_true = None;
    let said = plan(&of, &json!({})).unwrap();
    assert!(said.facts[0].neurons.unwrap() > 0);
    let batch = Batch::whole([&prompt]);
    let z = of.model.logits(&batch, Past::None, &[prompt.len() - 1]).unwrap().to_f64();
    let likeliest = (0..z.len()).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap() as u32;
    let text = Completion::new(&prompt, &[likeliest]);
    let ways = IntegratedGradients { steps: 20, site: NeuronSite::Key };
    let all = ways.attribute(&of.model, &text, u64::MAX, &Quiet).unwrap();
    assert_eq!(said.facts[0].neurons, Some(above(&all, 0.2).len()));
    let none = plan(&of, &json!({"adaptive_threshold": 1.0})).unwrap();
    assert!(none.changes.is_empty() && none.facts[0].change.is_none());
    let by = HparamSet::default();
    let by = by.resolve(&KN, &of.model).unwrap();
    let why = KN.why_missed(&none.facts[0], &by).unwrap();
    assert!(why.contains("no neuron") && why.contains("adaptive_threshold"), "{why}");
}

#[test]
fn it_can_be_cut_off() {
    let of = open(&Case::named("gpt2-key"), Precision::F32);
    for question in [1, 2] {
        let progress = CancelAt::question(question);
        let contexts = Contexts::bare();
        let by = HparamSet::default().resolve(&KN, &of.model).unwrap();
        let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics") };
        let on = alone(&of.model, &moments, &contexts);
        let mut on = Context { progress: &progress, tokenizer: Some(&of.tokenizer), ..on };
        let cut = KN.plan(&mut on, &of.facts, &by);
        assert!(matches!(cut, Err(Error::Interrupted { .. })), "question {question}");
    }
}

/// Cut off in the second fact and started again, the first one's neurons are not looked for again,
/// and the changes are those of one run.
#[test]
fn what_is_cut_off_goes_on_to_the_same_changes() {
    let of = open(&Case::named("gpt2-key"), Precision::F32);
    assert!(of.facts.len() > 1);
    let changes = |plan: Plan| (plan.changes, plan.facts);
    let whole = changes(plan(&of, &json!({})).unwrap());
    let asked = CancelAt::never();
    let mut one = open(&Case::named("gpt2-key"), Precision::F32);
    one.facts.truncate(1);
    plan_with(&one, &json!({}), &asked, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut cache = Cache::open_for_training(folder.path(), "weights").unwrap();
    let cut = CancelAt::question(asked.asked() + 1);
    let cut = plan_with(&of, &json!({}), &cut, Some(&mut cache));
    assert!(matches!(cut, Err(Error::Interrupted { .. })) && cache.holds_work());
    let again = CancelAt::never();
    let found = plan_with(&of, &json!({}), &again, Some(&mut cache));
    assert!(again.heard("goes on after fact 1"));
    assert!(changes(found.unwrap()) == whole);
}
