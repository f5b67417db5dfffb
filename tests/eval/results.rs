//! Summaries, by hand; and a folder that goes on.

use serde_json::{Value, json};

use incise::eval::folder::Folder;
use incise::eval::measure::{harmonic_mean, summarise};
use incise::eval::results::{CaseResult, PromptResult};

fn prompt(metric: &str, before: f64, after: f64) -> PromptResult {
    PromptResult { metric: metric.to_owned(), prompt: "p".to_owned(), before, after: Some(after) }
}

fn case(id: &str, edited: usize, values: Vec<PromptResult>) -> CaseResult {
    let (id, form) = (id.to_owned(), "counterfact".to_owned());
    CaseResult {
        id,
        place: 0,
        edited,
        form,
        facts: vec![],
        values,
        changes: vec![],
        seconds: [0.0; 2],
    }
}

/// Ten records: a record's value is the mean over its prompts, however many it has.
fn cases() -> Vec<CaseResult> {
    let of = |i: usize| {
        let mut values = vec![prompt("counterfact.es", 0.0, f64::from(i < 8))];
        let neighbours = if i == 0 { 1 } else { 4 };
        values.extend((0..neighbours).map(|n| prompt("counterfact.ns", 1.0, f64::from(n != 0))));
        values.push(prompt("counterfact.ps", 0.5, 0.5));
        case(&i.to_string(), 10, values)
    };
    (0..10).map(of).collect()
}

#[test]
fn a_table_is_the_mean_over_records_of_their_means() {
    let cases = cases();
    let all: Vec<&CaseResult> = cases.iter().collect();
    let summary = summarise(&all, 0);
    let es = &summary["counterfact.es"];
    assert_eq!((es.mean, es.before, es.n), (80.0, 0.0, 10));
    assert_eq!(es.change.unwrap()[0], 80.0);
    // One record has a single prompt, and failed it; nine have three of four.
    let ns = &summary["counterfact.ns"];
    assert!((ns.mean - 67.5).abs() < 1e-12 && ns.before == 100.0);
    assert!(ns.low < 67.5 && 67.5 < ns.high);
    let score = &summary["counterfact.score"];
    assert!((score.mean - 3.0 / (1.0 / 80.0 + 1.0 / 67.5 + 1.0 / 50.0)).abs() < 1e-9);
    assert_eq!(score.before, 0.0, "no harmonic mean where one is nothing");
    assert_eq!(harmonic_mean(&[0.5, 0.0]), 0.0);
}

/// The order in which records were measured changes no mean.
#[test]
fn the_order_of_records_does_not_matter() {
    let cases = cases();
    let forwards: Vec<&CaseResult> = cases.iter().collect();
    let backwards: Vec<&CaseResult> = cases.iter().rev().collect();
    let [a, b] = [forwards, backwards].map(|cases| summarise(&cases, 0));
    for (name, summary) in &a {
        assert!((summary.mean - b[name].mean).abs() < 1e-12, "{name}");
        assert_eq!(summary.n, b[name].n);
    }
}

#[test]
fn a_run_goes_on_where_it_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let run = || json!({"model": "m", "mode": "single", "seed": 0});
    let cases = cases();
    let mut folder = Folder::open(dir.path(), run()).unwrap();
    cases[..3].iter().for_each(|case| folder.add(case.clone()).unwrap());
    drop(folder);
    let path = dir.path().join("results.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap(); // the last line was being written
    let mut folder = Folder::open(dir.path(), run()).unwrap();
    assert_eq!(folder.kept.results, cases[..2]);
    assert!(folder.has(10, "1") && !folder.has(10, "2") && !folder.has(5, "1"));
    cases[2..].iter().for_each(|case| folder.add(case.clone()).unwrap());
    let summary = folder.summarise(0).unwrap();
    assert_eq!(summary["metrics"]["counterfact.es"]["mean"], 80.0);
    let written: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
}

#[test]
fn another_runs_results_are_not_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    // One that ended before its first result is in nobody's way.
    Folder::open(dir.path(), json!({"seed": 7, "mode": "single"})).unwrap();
    let mut folder = Folder::open(dir.path(), json!({"seed": 0, "mode": "single"})).unwrap();
    folder.add(case("0", 1, vec![])).unwrap();
    let other = Folder::open(dir.path(), json!({"seed": 1, "mode": "single"}));
    let said = other.err().unwrap().to_string();
    assert!(said.contains("seed") && said.contains("another run"), "{said}");
    std::fs::write(dir.path().join("results.jsonl"), "{}\n").unwrap();
    let broken = Folder::open(dir.path(), json!({"seed": 0, "mode": "single"}));
    let said = broken.err().unwrap().to_string();
    assert!(said.contains("results.jsonl") && said.contains("line 1"), "{said}");
}

/// Sequential runs measure records several times; the summary is of when most were edited.
#[test]
fn a_sequential_run_is_summarised_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = Folder::open(dir.path(), json!({"mode": "sequential"})).unwrap();
    let value = |after| vec![prompt("counterfact.es", 0.0, after)];
    folder.add(case("0", 1, value(1.0))).unwrap();
    folder.add(case("0", 2, value(0.0))).unwrap();
    folder.add(case("1", 2, value(1.0))).unwrap();
    let summary = folder.summarise(0).unwrap();
    assert_eq!(summary["metrics"]["counterfact.es"]["mean"], 50.0);
    assert_eq!(summary["cases"], 2);
}
