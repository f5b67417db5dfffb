//! A norm anchor that is given as a number.

use incise::edit::method::Context;
use incise::edit::methods::find;
use incise::tensor::Precision;
use serde_json::json;

use super::batch::{Case, bits};
use super::reference::alone;

/// It is the one that a state has, and the state that is left has it; another is another edit.
#[test]
fn a_length_that_is_given_is_as_one_that_was_measured() {
    let run = |anchor: serde_json::Value, known: Option<f64>| {
        let mut case = Case::named("gpt2-memit-anchor-reset-stop");
        case.anchor = None;
        case.hparams["norm_anchor"] = anchor;
        let ready = case.ready(Precision::F32);
        let moments = |l| Ok(ready.moment(l));
        let on = alone(&ready.model, &moments, &ready.contexts);
        let mut on = Context { sequential: ready.sequential, ..on };
        if let Some(c) = known {
            on.state.notes.insert("anchor".into(), c.into());
        }
        let plan = ready.method.plan(&mut on, &ready.facts, &ready.by).unwrap();
        (bits(&plan), plan.state.notes["anchor"].as_f64())
    };
    let measured = run(json!(true), Some(2.5));
    assert_eq!(run(json!(2.5), None), measured);
    assert_ne!(run(json!(4), None), measured);
    let settings = |anchor| {
        let mut case = Case::named("gpt2-memit-anchor-reset-stop");
        (case.anchor, case.hparams["norm_anchor"]) = (None, anchor);
        find("memit").unwrap().state_settings(&case.ready(Precision::F32).by)
    };
    assert_ne!(settings(json!(2.5)), settings(json!(true)));
    assert_ne!(settings(json!(2.5)), settings(json!(4)));
}
