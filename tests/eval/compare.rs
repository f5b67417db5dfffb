//! Runs against each other: numbers by hand, and what is refused.

use std::fs;
use std::path::PathBuf;

use incise::eval::compare::Comparison;
use incise::eval::interval::{TWO_SIDED, clopper_pearson};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::runs::{case, run, write};

/// Folders of runs whose cases have these efficacies after the edit.
fn runs(all: &[(&str, Value, &[f64])]) -> (TempDir, Vec<PathBuf>) {
    let dir = tempdir().unwrap();
    let write_run = |(name, run, after): &(&str, Value, &[f64])| {
        let edited = if run["mode"] == "sequential" { after.len() } else { 1 };
        let cases = after.iter().enumerate().map(|(i, after)| case(i, edited, [0.0, *after]));
        write(&dir.path().join(name), run.clone(), cases.collect());
        dir.path().join(name)
    };
    let folders = all.iter().map(write_run).collect();
    (dir, folders)
}

#[test]
fn differences_are_paired_and_over_common_cases() {
    let single = || run("single", 0, "abc");
    let first = [1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.];
    let second = [1., 1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1.];
    let third = [1.; 12];
    let (_dir, folders) =
        runs(&[("a", single(), &first), ("b", single(), &second), ("c", single(), &third)]);
    let compared = Comparison::read(&folders, 0).unwrap();
    assert_eq!(compared.cases, 12);
    assert_eq!(compared.runs.iter().map(|run| run.cases).collect::<Vec<_>>(), [12, 14, 12]);
    let [metric] = &compared.metrics[..] else { panic!("{:?}", compared.metrics) };
    assert_eq!((&metric.metric[..], metric.n), ("counterfact.es", 12));
    let [a, b, c] = &metric.runs[..] else { panic!("{:?}", metric.runs) };
    for (run, successes) in [(a, 2), (b, 3), (c, 12)] {
        let exact = clopper_pearson(successes, 12, TWO_SIDED);
        let got = [run.mean, run.low, run.high];
        let want = [successes as f64 / 12.0, exact.low, exact.high].map(|share| 100.0 * share);
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-9), "{got:?}");
    }
    assert!(a.difference.is_none() && a.p.is_none());
    let mean = |run: &incise::eval::compare::RunValue| run.difference.unwrap()[0];
    assert!((mean(b) - 100.0 / 12.0).abs() < 1e-9 && (mean(c) - 1000.0 / 12.0).abs() < 1e-9);
    // One difference is as large with either sign; ten have 2 of 1024 signs as far from 0.
    let p = c.p.unwrap();
    assert_eq!((b.p, b.p_holm), (Some(1.0), Some(1.0)));
    assert!((p - 2.0 / 1024.0).abs() < 0.002, "{p}");
    assert_eq!(c.p_holm, Some(2.0 * p));
    assert!(compared.orders.is_empty());
}

#[test]
fn orders_of_edits_have_a_range() {
    let sequential = |seed| run("sequential", seed, "abc");
    let (_dir, folders) = runs(&[
        ("a", sequential(0), &[1., 0., 0., 0.]),
        ("b", sequential(1), &[1., 1., 1., 0.]),
        ("c", sequential(2), &[1., 1., 0., 0.]),
        ("batch", run("batch", 0, "abc"), &[1., 1., 1., 1.]),
    ]);
    let compared = Comparison::read(&folders, 0).unwrap();
    let [orders] = &compared.orders[..] else { panic!("{:?}", compared.orders) };
    assert_eq!(orders.runs, ["a", "b", "c"]);
    assert_eq!(orders.metrics["counterfact.es"], [50.0, 25.0, 75.0]);
    assert_eq!(compared.settings.keys().collect::<Vec<_>>(), ["mode", "seed"]);
}

#[test]
fn what_cannot_be_compared_is_named() {
    let (dir, folders) = runs(&[
        ("a", run("single", 0, "abc"), &[1., 0.]),
        ("other", run("single", 0, "def"), &[1., 0.]),
        ("damaged", run("single", 0, "abc"), &[1., 0.]),
    ]);
    let [a, other, damaged] = &folders[..] else { panic!() };
    let results = damaged.join("results.jsonl");
    let text = fs::read_to_string(&results).unwrap();
    fs::write(&results, text.replacen("\"case-1\"", "case-1", 1)).unwrap();
    let refused = |other: &PathBuf| Comparison::read(&[a.clone(), other.clone()], 0).unwrap_err();
    let missing = dir.path().join("nowhere");
    assert!(refused(&missing).line().contains("nowhere"), "{}", refused(&missing).line());
    let of_other = refused(other);
    assert_eq!(
        (of_other.file().unwrap(), of_other.field()),
        (&*other.join("run.json"), Some("data"))
    );
    assert!(of_other.line().contains("records.json"), "{}", of_other.line());
    let of_damaged = refused(damaged);
    assert_eq!((of_damaged.file().unwrap(), of_damaged.field()), (&*results, Some("line 2")));
    assert!(Comparison::read(&folders[..1], 0).unwrap_err().line().contains("two"));
}
