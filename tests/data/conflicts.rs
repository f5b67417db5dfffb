//! Requests for one prompt: repeats, and different targets.

use std::collections::BTreeSet;
use std::path::Path;

use incise::data::conflicts::{OnConflict, resolve};
use incise::data::{Fact, request};

use crate::support::shared::shared;

fn requests() -> Vec<Fact> {
    let lines = [
        ("a", "{} is in", "Rome", "Asia"),
        ("b", "{} is in", "Oslo", "Peru"),
        ("c", "{} is in", "Rome", " Asia"), // repeats a
        ("d", "Rome is {}", "in", "Chile"), // the same prompt by another subject
        ("e", "{} is in", "Oslo", "Peru "), // repeats b
        ("f", "{} is near", "Rome", "Chile"),
        ("g", "{} is near ", "Rome", "\nChile"), // repeats f over another seam
        ("h", "{} is near\n", "Oslo", "Peru"),
        ("i", " {} is near", "Oslo", "Chile"), // conflicts with h
    ];
    let json = |(id, prompt, subject, target): (&str, &str, &str, &str)| {
        serde_json::json!({"id": id, "prompt": prompt, "subject": subject, "target_new": target})
            .to_string()
    };
    request::parse("r", lines.map(json).join("\n").as_bytes()).unwrap()
}

fn ids(requests: &[Fact]) -> String {
    requests.iter().map(|r| r.id.as_str()).collect()
}

#[test]
fn the_rule_says_which_counts() {
    for (rule, kept, superseded) in [
        (
            OnConflict::Last,
            "bdfi",
            [
                ("a", "d", false),
                ("c", "d", false),
                ("e", "b", true),
                ("g", "f", true),
                ("h", "i", false),
            ],
        ),
        (
            OnConflict::First,
            "abfh",
            [
                ("c", "a", true),
                ("d", "a", false),
                ("e", "b", true),
                ("g", "f", true),
                ("i", "h", false),
            ],
        ),
    ] {
        let (left, out) = resolve(Path::new("r"), requests(), rule).unwrap();
        assert_eq!(ids(&left), kept, "{rule:?}");
        let out: Vec<_> =
            out.iter().map(|s| (s.request.id.as_str(), s.by.as_str(), s.repeats)).collect();
        assert_eq!(out, superseded, "{rule:?}");
    }
}

/// 10,000 real requests: 3 repeat others, 62 prompts have more than one target.
#[test]
fn the_conflicts_of_a_real_file_are_counted() {
    let test = "the_conflicts_of_a_real_file_are_counted";
    let Some(path) = shared(test, "counterfact/counterfact-edit-10000.json") else { return };
    let all = request::read(&path).unwrap();
    let (left, out) = resolve(&path, all, OnConflict::Last).unwrap();
    assert_eq!((left.len(), out.len()), (10_000 - 83, 83));
    assert_eq!(out.iter().filter(|s| s.repeats).count(), 3);
    let prompt = |r: &Fact| r.prompt.replace("{}", &r.subject);
    let contested = out.iter().filter(|s| !s.repeats).map(|s| prompt(&s.request));
    assert_eq!(contested.collect::<BTreeSet<_>>().len(), 62);
}

#[test]
fn without_a_rule_different_targets_are_an_error_that_names_them() {
    let error = resolve(Path::new("r.jsonl"), requests(), OnConflict::Error).unwrap_err();
    assert_eq!(error.code(), "conflict");
    let settings = error.remedy().unwrap().settings;
    let rules: Vec<_> = settings.iter().map(|s| (&s.name[..], s.value.as_deref())).collect();
    assert_eq!(rules, [("on_conflict", Some("last")), ("on_conflict", Some("first"))]);
    let error = error.to_string();
    for word in ["r.jsonl", "2 times", "`a`, `c`, `d`; `h`, `i`"] {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
    let repeats: Vec<Fact> = requests().into_iter().filter(|r| !"di".contains(&r.id)).collect();
    let (left, out) = resolve(Path::new("r"), repeats, OnConflict::Error).unwrap();
    assert_eq!((ids(&left).as_str(), out.len()), ("abfh", 3));
}

/// Words are others where no space stands before them.
#[test]
fn a_target_without_a_space_is_another_one() {
    let fact =
        |id: &str, space| Fact { id: id.into(), space, ..Fact::new("{} is in", "Bern", "Asia") };
    let resolved =
        |space| resolve(Path::new("r"), vec![fact("a", None), fact("b", space)], OnConflict::Error);
    assert_eq!(resolved(Some(true)).unwrap().1.len(), 1, "a repetition");
    assert_eq!(resolved(Some(false)).unwrap_err().code(), "conflict");
}
