//! A public type name occurs once in the crate, so that a reader who has learnt it once knows it.

use std::collections::BTreeMap;

use super::{Tree, code, none, planted, tree, words};

/// Names that still occur more than once. What is renamed leaves the list, and none joins it.
const TWICE: &[&str] = &[];

/// The public type that a line declares.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let mut words = words(rest).skip_while(|w| *w == "unsafe");
    let kind = words.next()?;
    ["struct", "enum", "union", "trait", "type"].contains(&kind).then(|| words.next())?
}

fn type_complaints(tree: &Tree, twice: &[&str]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let ours = |file: &str| ["src/", "build/", "build.rs"].iter().any(|at| file.starts_with(at));
    for (file, text) in tree.iter().filter(|(file, _)| ours(file)) {
        for (i, line) in text.lines().enumerate() {
            if let Some(name) = public_type(code(line)) {
                places.entry(name).or_default().push(format!("{file}:{}", i + 1));
            }
        }
    }
    let again = |name: &str| places.get(name).is_some_and(|at| at.len() > 1);
    let unknown = places.iter().filter(|(name, at)| at.len() > 1 && !twice.contains(name));
    let mut complaints: Vec<String> = unknown
        .map(|(name, at)| format!("{name} is {} types: {}", at.len(), at.join(", ")))
        .collect();
    for name in twice.iter().filter(|name| !again(name)) {
        complaints.push(format!("{name} is one type now: take it off the list"));
    }
    complaints
}

#[test]
fn a_type_name_occurs_once() {
    none(type_complaints(&tree(), TWICE));
    let complaints = |a: &str, twice| {
        let b = "/// B.\npub struct Row<'a> {}\nstruct Own;\n// pub struct Said;\n";
        type_complaints(&planted([("src/a.rs", a), ("build/b.rs", b), ("tests/c.rs", b)]), twice)
    };
    assert!(complaints("pub enum Line {}\npub(super) struct Row;\nenum Own {}", &[]).is_empty());
    assert!(complaints("pub struct Said;\npub fn row() {}", &[]).is_empty());
    for again in ["pub struct Row;", "    pub enum Row {}", "pub unsafe trait Row {}"] {
        assert_eq!(complaints(again, &[]).len(), 1, "{again}");
        assert!(complaints(again, &["Row"]).is_empty());
        assert_eq!(complaints(again, &["Row", "Own"]).len(), 1);
    }
    assert_eq!(complaints("pub type Row = u8;\npub trait Row {}", &[]).len(), 1);
}
