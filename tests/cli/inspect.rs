//! What `incise inspect` says of a model.

use crate::support::session::{Session, json};

#[test]
fn what_edits_a_model_is_named() {
    for (name, memit) in [("gpt2", true), ("gemma3", false)] {
        let s = Session::new(name);
        let methods = json(&["inspect", &s.at("model"), "--json"])["methods"].to_string();
        assert_eq!(methods.contains("\"memit\""), memit, "behind a norm it is refused: {methods}");
        assert!(methods.contains("\"emmet\"") && methods.contains("\"grace\""), "{methods}");
    }
}
