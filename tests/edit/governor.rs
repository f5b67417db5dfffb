//! How much a model carries, and the verdict on it.

use std::fs;
use std::path::Path;

use incise::base::progress::Quiet;
use incise::edit::apply::{in_place, lineage_with, to_folder};
use incise::edit::governor::{CarriedEdits, Strain, thresholds};
use incise::edit::methods::METHODS;
use incise::store::{AppliedPatch, Lineage, TensorNorms};
use incise::tensor::Device;

use super::rows::{Chain, chain};
use crate::store::toy::refusal;

fn applied(method: &str, facts: u64, norms: &[(&str, f64, f64)], anew: bool) -> AppliedPatch {
    let tensors = norms
        .iter()
        .map(|&(name, change, weight)| (name.to_owned(), TensorNorms { change, weight }));
    AppliedPatch {
        hash: String::new(),
        method: method.into(),
        facts,
        at_once: None,
        change: None,
        weight: None,
        tensors: tensors.collect(),
        anew,
    }
}

fn lineage(patches: Vec<AppliedPatch>) -> Lineage {
    let mut lineage = Lineage::begin("base".into());
    lineage.patches = patches;
    lineage
}

#[test]
fn a_threshold_says_where_it_was_measured() {
    let table = include_str!("../../src/edit/thresholds.yaml");
    let rows = thresholds(table).unwrap();
    for row in &rows {
        assert!(METHODS.iter().any(|m| m.about().name == row.method), "{}", row.method);
    }
    for broken in [
        "- {method: rome, strain: broken, facts: 9}",
        "- {method: rome, strain: broken, facts: 9, source: ' '}",
        "- {method: rome, strain: broken, source: a table}",
        "- {method: rome, strain: tired, facts: 9, source: a table}",
    ] {
        assert!(refusal(thresholds(broken)).contains("where it was measured"), "{broken}");
    }
}

/// In place the last norm counts, which is of all that was added; a folder that starts anew adds
/// its own to it. The weight is that before all changes.
#[test]
fn norms_add_up_where_a_folder_starts_anew() {
    let carried = CarriedEdits::of(&lineage(vec![
        applied("rome", 1, &[("a", 1.0, 10.0), ("b", 2.0, 20.0)], true),
        applied("rome", 1, &[("a", 3.0, 10.0)], false),
        applied("rome", 1, &[("a", 0.5, 11.0)], true),
    ]));
    assert_eq!(carried.tensors["a"], TensorNorms { change: 3.5, weight: 10.0 });
    assert_eq!(carried.tensors["b"], TensorNorms { change: 2.0, weight: 20.0 });
    assert_eq!((carried.ratio(), carried.facts, carried.without_norms), (Some(0.35), 3, 0));
}

#[test]
fn the_worst_threshold_that_is_reached_counts() {
    let rows = thresholds(
        "- {method: memit, strain: broken, facts: 20, at_once: 1, source: A}
- {method: memit, strain: strained, facts: 100, source: B}
- {method: memit, strain: broken, ratio: 0.5, source: C}",
    )
    .unwrap();
    let of = |patches| {
        let carried = CarriedEdits::by(&lineage(patches), &rows);
        let sources: String = carried.reached.iter().map(|row| &row.source[..]).collect();
        (carried.strain, sources)
    };
    let memit = |facts, change| applied("memit", facts, &[("a", change, 1.0)], false);
    assert_eq!(of(vec![]), (Some(Strain::Light), String::new()));
    assert_eq!(of(vec![memit(99, 0.1)]), (Some(Strain::Light), String::new()));
    assert_eq!(of(vec![memit(100, 0.1)]), (Some(Strain::Strained), "B".into()));
    assert_eq!(of(vec![memit(1, 0.5)]), (Some(Strain::Broken), "C".into()));
    assert_eq!(of(vec![memit(1, 0.1); 20]), (Some(Strain::Broken), "A".into()));
    assert_eq!(of(vec![memit(2, 0.1); 10]), (Some(Strain::Light), String::new()));
    // A patch of many facts may be of single ones, one upon the other.
    let sequential = AppliedPatch { at_once: Some(1), ..memit(20, 0.1) };
    assert_eq!(of(vec![sequential]), (Some(Strain::Broken), "A".into()));
    // Of another method nothing is known, but what is known to be too much is.
    let other = || applied("emmet", 1, &[], false);
    assert_eq!(of(vec![other(), memit(1, 0.1)]), (None, String::new()));
    assert_eq!(of(vec![other(), memit(100, 0.1)]), (Some(Strain::Strained), "B".into()));
    let too_much = CarriedEdits::by(&lineage(vec![memit(100, 0.25)]), &rows);
    assert!(too_much.refuse_past(Strain::Broken).is_ok());
    let said = refusal(too_much.refuse_past(Strain::Strained));
    for part in ["would be strained", "100 facts (100 by memit)", "25 %", "B", "undo earlier"] {
        assert!(said.contains(part), "{said}");
    }
}

fn read(dir: &Path) -> Lineage {
    Lineage::read(dir).unwrap().unwrap()
}

/// What is foretold is what applying leaves, by either way; the norms of a patch are its tensors'.
/// A lineage of an earlier version, without them, is read.
#[test]
fn norms_are_kept_by_tensor_and_foretold() {
    let Chain { copy, patches, .. } = chain("llama");
    let (dir, out) = (copy.dir(), copy.beside("out"));
    let then = lineage_with(&dir, &patches, &Device::Cpu, &Quiet).unwrap().unwrap().patches;
    assert!(!dir.join(".incise/lineage.json").exists(), "nothing is written");
    to_folder(&dir, &patches, &out, &Device::Cpu, &Quiet).unwrap();
    in_place(&dir, &patches, &Device::Cpu, &Quiet).unwrap();
    assert_eq!((&then, &then), (&read(&dir).patches, &read(&out).patches));
    for (patch, anew) in then.iter().zip([true, false]) {
        assert_eq!(patch.anew, anew);
        let square: f64 = patch.tensors.values().map(|norms| norms.change.powi(2)).sum();
        assert!((square.sqrt() / patch.change.unwrap() - 1.0).abs() < 1e-12);
    }
    let file = dir.join(".incise/lineage.json");
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for patch in old["patches"].as_array_mut().unwrap() {
        let patch = patch.as_object_mut().unwrap();
        patch.remove("tensors").unwrap();
        patch.remove("anew");
    }
    fs::write(&file, old.to_string()).unwrap();
    let carried = CarriedEdits::of(&read(&dir));
    assert_eq!((carried.without_norms, carried.facts, carried.ratio()), (2, 6, None));
}
