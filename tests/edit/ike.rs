//! In-context editing: the texts that stand before prompts, and what a model says behind them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::Error;
use incise::data::{Contexts, request};
use incise::edit::facts::{Reading, TokenizedFact, tokenize};
use incise::edit::hparams::HparamSet;
use incise::edit::method::{Context, Method, Plan};
use incise::edit::methods::ike::{IKE, before};
use incise::edit::params::Params;
use incise::linalg::vector::{dot, norm};
use incise::memory::{ContextMemory, EditMemory, Memory};
use incise::model::score::{read, score};
use incise::model::{At, Model, Site};
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{alone, golden, integers, made, tensor};
use crate::support::budget::{U32, U64};
use crate::support::cancel::CancelAt;
use crate::support::golden::{digits, learned_positions};

/// A recorded run.
#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    requests: Value,
    demonstrations: Value,
    hparams: Value,
}

/// A case's model, facts and file of records.
struct Opened {
    model: Model,
    tokenizer: Tokenizer,
    facts: Vec<TokenizedFact>,
    folder: tempfile::TempDir,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("ike/cases.json")).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }

    fn record(&self) -> Vec<u8> {
        fs::read(golden().join(format!("ike/{}.safetensors", self.name))).unwrap()
    }

    fn open(&self, compute: impl Into<Compute>) -> Opened {
        let dir = golden().join(&self.model);
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), compute).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let reading = Reading { space: Some(true), ..Reading::plain(&tokenizer) };
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        let (facts, broken) = tokenize(&model, reading, &requests, &Contexts::bare());
        assert_eq!(broken, []);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.json");
        fs::write(&file, self.demonstrations.to_string()).unwrap();
        Opened { model, tokenizer, facts, folder }
    }
}

impl Opened {
    fn params(&self, hparams: &Value) -> Params {
        let mut hparams = hparams.clone();
        hparams["icl_examples"] = json!(self.folder.path().join("records.json"));
        let values = HparamSet::parse(Path::new("case"), hparams.to_string().as_bytes());
        values.unwrap().resolve(&IKE, &self.model).unwrap()
    }

    /// What is made of a method's context.
    fn with<T>(&self, run: impl FnOnce(&mut Context) -> T) -> T {
        let contexts = Contexts::bare();
        let moments = |_: usize| -> incise::Result<Arc<Moment>> { panic!("no statistics") };
        let on = alone(&self.model, &moments, &contexts);
        run(&mut Context { tokenizer: Some(&self.tokenizer), ..on })
    }

    fn plan(&self, facts: &[TokenizedFact], hparams: &Value) -> incise::Result<Plan> {
        let by = self.params(hparams);
        self.with(|on| IKE.plan(on, facts, &by))
    }
}

fn contexts(plan: Plan) -> Arc<ContextMemory> {
    assert!(plan.changes.is_empty());
    match plan.memory {
        Some(EditMemory::Context(memory)) => memory,
        other => panic!("no contexts: {other:?}"),
    }
}

/// Contexts are the reference's, token by token, and so is what the model says behind them, as one
/// text: the budget is twice what the reference's own f32 run is off, and an ulp of the number.
#[test]
fn contexts_and_answers_are_the_references() {
    for case in Case::all().into_iter().filter(|case| case.hparams["form"] == "easyedit") {
        let file = case.record();
        for precision in [Precision::F32, Precision::F64] {
            let of = case.open(precision);
            let double = precision == Precision::F64 && learned_positions(&case.model);
            let lost = if double { 0.75 * U64 / U32 } else { digits(&precision.into()) };
            let budget = lost * 2.0 * made(&file)["f32_log_p"].as_f64().unwrap();
            for (i, fact) in of.facts.iter().enumerate() {
                let plan = of.plan(std::slice::from_ref(fact), &case.hparams).unwrap();
                let memory = contexts(plan);
                let [entry] = &memory.entries[..] else { panic!("one fact") };
                let context: Vec<u64> = entry.context.iter().map(|&id| id.into()).collect();
                assert_eq!(context, integers(&file, &format!("{i}.context")), "{}", case.name);
                let with = memory.on(Arc::new(of.model.clone())).unwrap();
                let found = score(&*with, &[fact.rows.completion(0)]).unwrap();
                for (own, want) in found[0].tokens.iter().zip(tensor(&file, &format!("{i}.log_p")))
                {
                    let gap = (own.log_p - want).abs();
                    let bound = budget + 4.0 * f64::EPSILON * want.abs();
                    assert!(gap <= bound, "{} {i}: {gap:e}, {bound:e}", case.name);
                }
            }
        }
    }
}

/// The nearest records by the reference's order, the nearest last, and a copy of the fact itself.
#[test]
fn the_originals_demonstrations_are_the_nearest_records() {
    for case in Case::all().into_iter().filter(|case| case.hparams["form"] == "original") {
        let (of, file) = (case.open(Precision::F32), case.record());
        let by = of.params(&case.hparams);
        let store = case.demonstrations.as_array().unwrap();
        let filled = |record: &Value| {
            let [prompt, subject] = ["prompt", "subject"].map(|f| record[f].as_str().unwrap());
            format!("{} {}", prompt.replace("{}", subject), record["target_new"].as_str().unwrap())
        };
        for (i, fact) in of.facts.iter().enumerate() {
            let text = of.with(|on| before(on, &fact.request, &by)).unwrap();
            let blocks: Vec<&str> = text.split_terminator("\n\n").collect();
            let near = integers(&file, &format!("{i}.near"));
            let own = format!("{} {}", fact.request.filled(), fact.request.target_new.trim());
            let mut want: Vec<String> =
                near[..2].iter().rev().map(|&j| filled(&store[j as usize])).collect();
            want.push(own.clone());
            let said = blocks.iter().map(|b| b.lines().next().unwrap());
            let wanted = want.iter().map(|new| format!("New Fact: {new}"));
            assert!(said.eq(wanted), "{text}");
            assert_eq!(blocks[2].lines().nth(1).unwrap(), format!("Prompt: {own}"));
        }
    }
}

/// By the model's own states: the mean over a text's tokens behind the middle layer. The nearest
/// demonstrations are the first, in that order, and a longer list begins as a shorter one.
#[test]
fn demonstrations_are_in_the_order_of_their_states() {
    let case = Case::named("llama-tied-easyedit");
    let of = case.open(Precision::F64);
    let shown = |k: usize| {
        let by = of.params(&json!({"form": "easyedit", "k": k, "retriever": "states"}));
        of.with(|on| before(on, &of.facts[0].request, &by)).unwrap()
    };
    let state = |text: &str| -> Vec<f64> {
        let ids = of.tokenizer.encode_bare(text).unwrap().ids;
        let site = Site { layer: of.model.arch.layers / 2, at: At::Stream };
        let prefixes: Vec<&[u32]> = (1..=ids.len()).map(|n| &ids[..n]).collect();
        let rows = read(&of.model, &prefixes, site).unwrap();
        let d = of.model.arch.width;
        (0..d).map(|i| (0..ids.len()).map(|t| rows.row_f64(t)[i]).sum()).collect()
    };
    let fact = &of.facts[0].request;
    let query = format!(
        "New Fact: {} {}\nPrompt: {}\n\n",
        fact.filled(),
        fact.target_new.trim(),
        fact.filled()
    );
    let query = state(&query);
    let all = shown(9);
    let blocks: Vec<&str> = all.split_inclusive("\n\n").collect();
    assert_eq!(blocks.len(), 9, "three kinds of three records");
    let alike = |text: &&str| {
        let own = state(text);
        dot(&own, &query) / (norm(&own) * norm(&query))
    };
    let alike: Vec<f64> = blocks.iter().map(alike).collect();
    assert!(alike.windows(2).all(|two| two[0] > two[1]), "{alike:?}");
    for k in [1, 2, 5] {
        assert_eq!(shown(k), blocks[..k].concat());
    }
}

/// A record of the fact's own prompt is not shown.
#[test]
fn a_facts_own_record_is_not_shown() {
    let case = Case::named("llama-tied-easyedit");
    let of = case.open(Precision::F32);
    let by = of.params(&json!({"form": "easyedit", "k": 1, "retriever": "states"}));
    let mut fact = of.facts[0].request.clone();
    (fact.prompt, fact.subject) = ("The {} has".to_owned(), "cat".to_owned());
    fact.target_new = "nine".to_owned();
    let text = of.with(|on| before(on, &fact, &by)).unwrap();
    assert!(!text.contains("cat"), "{text}");
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    let case = Case::named("gpt2-original");
    let of = case.open(Precision::F32);
    let long = of.plan(&of.facts, &json!({"k": 3})).err().unwrap();
    assert!(long.to_string().contains("97 positions"), "{long}");
    assert!(format!("{:?}", long.remedy()).contains("\"k\""), "{long}");
    let by = HparamSet::default().resolve(&IKE, &of.model).unwrap();
    let none = of.with(|on| IKE.plan(on, &of.facts, &by)).err().unwrap();
    assert!(format!("{:?}", none.remedy()).contains("icl_examples"), "{none}");
    let wrong = HparamSet::parse(Path::new("case"), br#"{"icl_examples": 3}"#).unwrap();
    let wrong = wrong.resolve(&IKE, &of.model).unwrap_err().to_string();
    assert!(wrong.contains("3 is no file's path"), "{wrong}");
    let by = of.params(&json!({"use_icl_examples": false}));
    let cut = of.with(|on| {
        let progress = CancelAt::question(1);
        let mut on = Context { progress: &progress, model: on.model, ..alone_of(on) };
        IKE.plan(&mut on, &of.facts, &by)
    });
    assert!(matches!(cut, Err(Error::Interrupted { .. })));
    let why = IKE.why_missed(
        &of.plan(&of.facts, &json!({"use_icl_examples": false})).unwrap().facts[0],
        &by,
    );
    assert!(why.unwrap().contains("use_icl_examples"));
}

/// The same context, to be told another progress.
fn alone_of<'a>(on: &Context<'a>) -> Context<'a> {
    Context { tokenizer: on.tokenizer, ..alone(on.model, on.statistics, on.contexts) }
}
