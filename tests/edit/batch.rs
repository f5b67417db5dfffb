//! MEMIT and its family against `tools/reference_batch.py`, which searches one fact at a time and
//! solves the dense F×F system; and what holds whatever the batch.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use incise::base::Quiet;
use incise::data::{Contexts, request};
use incise::edit::batch::Batches;
use incise::edit::change::dense;
use incise::edit::facts::{Fact, facts};
use incise::edit::hparams::{Method, Values};
use incise::edit::kept::Kept;
use incise::edit::plan::Planned;
use incise::edit::settings::Settings;
use incise::edit::state::State;
use incise::model::Model;
use incise::stats::Moment;
use incise::store::Checkpoint;
use incise::tensor::Precision;
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::Value;

use super::reference::{golden, moment, off, tensor};

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    stats: String,
    method: String,
    requests: Value,
    contexts: Vec<Vec<String>>,
    sequential: usize,
    anchor: Option<Vec<usize>>,
    hparams: Value,
}

/// A case, ready to run.
struct Ready {
    model: Model,
    facts: Vec<Fact>,
    contexts: Contexts,
    by: Settings,
    moments: Vec<Arc<Moment>>,
    sequential: usize,
    anchor: Option<Vec<usize>>,
}

impl Case {
    fn all() -> Vec<Case> {
        serde_json::from_slice(&fs::read(golden().join("batch/cases.json")).unwrap()).unwrap()
    }

    fn named(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.name == name).unwrap()
    }

    fn ready(&self, precision: Precision) -> Ready {
        let dir = golden().join(&self.model);
        let model = Model::load(&Checkpoint::open(&dir).unwrap(), precision).unwrap();
        let mut values =
            Values::parse(Path::new("case"), self.hparams.to_string().as_bytes()).unwrap();
        if self.anchor.is_some() {
            values.put("norm_anchor", true.into());
        }
        let by = values.batch(Method::parse(&self.method).unwrap(), &model).unwrap();
        let requests = request::parse("case", self.requests.to_string().as_bytes()).unwrap();
        let contexts = Contexts::new("case", self.contexts.clone()).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let text = (&tokenizer, None);
        let facts = facts(&model, text, (Path::new("case"), &requests), &contexts).unwrap();
        let read = |&l: &usize| Arc::new(moment(&dir.join(&self.stats), l, model.arch.inner));
        let moments = by.layers.iter().map(read).collect();
        let (sequential, anchor) = (self.sequential, self.anchor.clone());
        Ready { model, facts, contexts, by, moments, sequential, anchor }
    }
}

impl Ready {
    fn run(&self, facts: &[Fact], room: u64, kept: Option<&mut Kept>) -> Planned {
        let moments = |l| Ok(self.moments.iter().find(|m| m.layer == l).unwrap().clone());
        let batches = Batches {
            model: &self.model,
            name: "tiny".into(),
            moments: &moments,
            contexts: &self.contexts,
            by: &self.by,
            sequential: self.sequential,
            carries: false,
            room,
            seed: 0,
        };
        let mut state = State::default();
        if let Some(sample) = &self.anchor {
            let sample: Vec<&Fact> = sample.iter().map(|&i| &self.facts[i]).collect();
            state.anchor = Some(batches.anchor(&sample, None, &Quiet).unwrap());
        }
        batches.run(facts, &mut state, kept, &Quiet).unwrap()
    }
}

fn check(case: &Case, precision: Precision, bar: f64) {
    let ready = case.ready(precision);
    let planned = ready.run(&ready.facts, u64::MAX, None);
    let file = fs::read(golden().join(format!("batch/{}.safetensors", case.name))).unwrap();
    let mut worst = 0.0f64;
    for (i, outcome) in planned.outcomes.iter().enumerate() {
        let loss = tensor(&file, &format!("{i}.loss"));
        assert_eq!(outcome.trace.len(), loss.len(), "{} {precision:?}: steps of {i}", case.name);
        for (step, want) in outcome.trace.iter().zip(&loss) {
            worst = worst.max((step.total() - want).abs() / want);
        }
    }
    let mut change = 0.0f64;
    for layer in &planned.layers {
        let sizes = ready.model.layers[layer.layer].down.w.dims();
        let want = tensor(&file, &format!("{}.change", layer.layer));
        change = change.max(off(&dense(&layer.kind, sizes), &want));
    }
    println!("{} {precision:?}: ΔW {change:.1e}, loss {worst:.1e}", case.name);
    assert!(change <= bar, "{} {precision:?}: ΔW is off by {change:e}", case.name);
    assert!(worst <= bar, "{} {precision:?}: the loss is off by {worst:e}", case.name);
}

#[test]
fn changes_and_losses_are_the_references() {
    for case in Case::all() {
        check(&case, Precision::F32, 1e-4);
        // In f64 what is left is the rounding of each layer's change to f32, and what a search on
        // a model so changed makes of it.
        check(&case, Precision::F64, 1e-6);
    }
}
