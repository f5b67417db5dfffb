//! What a fact that was not taken is told, by what its search and the edited model show.

use std::path::Path;

use incise::data::Contexts;
use incise::edit::advice::{Edited, Outcome};
use incise::edit::fact_report::FactPlan;
use incise::edit::hparams::HparamSet;
use incise::edit::methods::find;
use incise::edit::search::LossStep;
use incise::tensor::Precision;
use serde_json::json;

use crate::support::golden::Golden;

/// A case: the method, its settings, how many facts and what share of the change rounding lost; the
/// last step's nll, ‖z − t₀‖ with ‖t₀‖ = 1, the cosine of the keys, and the mean P in contexts.
struct Case {
    method: &'static str,
    set: (&'static str, serde_json::Value),
    facts: usize,
    lost: f64,
    nll: f64,
    moved: f64,
    cosine: Option<f64>,
    in_contexts: Option<f64>,
}

/// The loss of a fact that needed no step.
const SAID: f64 = 0.0;

const NONE: (&str, serde_json::Value) = ("kl_factor", serde_json::Value::Null);

/// A value that was found by R-ROME, for a fact whose target is likely in no context.
fn found() -> Case {
    let (lost, nll, moved, cosine, in_contexts) = (0.01, 0.05, 1.0, Some(0.4), Some(0.1));
    Case { method: "r-rome", set: NONE, facts: 1, lost, nll, moved, cosine, in_contexts }
}

fn why(case: Case) -> String {
    let method = find(case.method).unwrap();
    let mut hparams = HparamSet::parse(
        Path::new("case"),
        br#"{"layers": [1], "v_num_grad_steps": 20, "v_lr": 0.5, "v_weight_decay": 0.5,
             "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_update_weight": 15000, "L2": 10}"#,
    )
    .unwrap();
    if case.set != NONE {
        hparams.put(case.set.0, case.set.1, "a test");
    }
    let model = Golden::open("gpt2").model(Precision::F32);
    let params = hparams.resolve(method, &model).unwrap();
    let groups = vec![vec!["{}".into()], vec!["One. {}".into(), "Two. {}".into()]];
    let contexts = &Contexts::new("contexts", groups).unwrap();
    let step = LossStep { nll: case.nll, ..LossStep::default() };
    let plan = FactPlan {
        trace: vec![step; if case.nll == SAID { 0 } else { 20 }],
        value: Some([case.moved, 1.0]),
        left_out: false,
        change: None,
        key_cosine: case.cosine,
        neurons: None,
    };
    let edited = Edited { method, params: &params, contexts, facts: case.facts, lost: case.lost };
    let token = [" Rome", " Paris"];
    let why = edited.why(&plan, &Outcome { token, p: 0.0008, in_contexts: case.in_contexts });
    assert!(why.starts_with("the edited model says \" Paris\" in place of \" Rome\", P 0.08 %: "));
    println!("{why}");
    why
}

/// Each text has all of the first words and none of the second.
#[test]
fn advice_is_of_what_went_wrong() {
    let key = || Case { in_contexts: Some(0.99), ..found() };
    let memit = || Case { method: "memit", cosine: None, ..found() };
    let cases: Vec<(Case, &[&str], &[&str])> = vec![
        (key(), &["cosine of 0.40", "key_average grouped"], &["facts", "mom2", "layers"]),
        (
            Case { set: ("key_average", json!("grouped")), ..key() },
            &["another layer"],
            &["grouped"],
        ),
        (found(), &["the weights do not reach it", "another layer"], &["facts", "mom2", "cosine"]),
        (Case { facts: 9, ..found() }, &["later facts", "memit"], &["mom2", "fewer"]),
        (memit(), &["mom2_update_weight", "more layers"], &["fewer facts", "L2", "emmet"]),
        (Case { facts: 9, ..memit() }, &["fewer facts", "mom2_update_weight"], &["key_average"]),
        (
            Case { method: "alphaedit", facts: 9, ..memit() },
            &["fewer facts", "L2", "nullspace_threshold"],
            &["mom2"],
        ),
        (Case { method: "emmet", ..memit() }, &["emmet_lambda"], &["L2"]),
        (
            Case { nll: 3.0, ..memit() },
            &["P 5.0 %", "v_lr", "v_num_grad_steps"],
            &["found", "clamp"],
        ),
        (
            Case { nll: 3.0, moved: 4.0, ..memit() },
            &["clamp_norm_factor", "layer"],
            &["found", "v_lr"],
        ),
        (Case { lost: 0.4, ..memit() }, &["rounding", "40 %", "F32"], &["mom2"]),
        // The loss of a training is of more than the target, and is not told as P.
        (
            Case { method: "locft-bf", nll: 3.0, ..memit() },
            &["20 epochs", "to 3.00 for each of its tokens, the end of text among them"],
            &["5.0 %", "P 5"],
        ),
        (
            Case { method: "ft-m", ..memit() },
            &["its loss was 0.05 for each of its tokens, before the last step", "smaller lr"],
            &["95 %", "end of text"],
        ),
    ];
    let grace = || Case { method: "grace", cosine: None, ..found() };
    let values: Vec<(Case, &[&str], &[&str])> = vec![
        (
            Case { nll: 3.0, ..grace() },
            &["20 steps", "to 3.00 for each of its tokens", "n_iter", "edit_lr"],
            &["v_lr", "layer", "smaller eps"],
        ),
        (grace(), &["its own was found", "nearer", "smaller eps"], &["n_iter", "weights", "layer"]),
        (Case { nll: SAID, ..grace() }, &["it was said without one", "smaller eps"], &["n_iter"]),
    ];
    for (case, said, unsaid) in cases.into_iter().chain(values) {
        let why = why(case);
        for words in said {
            assert!(why.contains(words), "{words} is not in: {why}");
        }
        for words in unsaid {
            assert!(!why.contains(words), "{words} is in: {why}");
        }
    }
}
