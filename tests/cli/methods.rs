//! Which method is recommended, and settings that are lists of words, from the command line.

use crate::support::session::{Session, done};

#[test]
fn advice_names_a_command_and_why() {
    let s = Session::new("gpt2");
    let advice = done(&["methods", "--advise", &s.at("model"), "--facts", "20"]);
    assert!(advice.contains("incise edit") && advice.contains("neighbours"), "{advice}");
}

#[test]
fn words_in_brackets_are_a_list() {
    let s = Session::new("gpt2");
    let (model, facts, patch) = (s.at("model"), s.at("requests.jsonl"), s.at("p"));
    let train = ["edit", &model, &facts, "--method", "ft-m", "--set", "layers=[0]", "-o", &patch];
    done(&[&train[..], &["--dry-run", "--set", "matrices=[up, down]"]].concat());
}
