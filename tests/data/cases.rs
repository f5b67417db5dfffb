//! Cases for evaluation: fixtures of every form, and the real files where present.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use incise::data::kinds::{self, KINDS};
use incise::data::request::{Fields, digest, parse_each};
use incise::data::{Case, Cases, Hop, Role, cases};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::expected::{Expected, FIXTURES, REAL};
use super::forms::FILES;
use crate::support::root;
use crate::support::shared::shared;

fn fixture(name: &str) -> PathBuf {
    root().join("tests/data/fixtures").join(name)
}

/// All cases of a file of which no record is broken.
fn all(name: &str) -> Vec<Case> {
    cases(fixture(name)).unwrap().map(|case| case.unwrap()).collect()
}

fn one(record: &Value) -> Case {
    Cases::new("x", record.to_string().into_bytes()).unwrap().next().unwrap().unwrap()
}

fn counts<'a>(cases: impl IntoIterator<Item = &'a Case>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for probe in cases.into_iter().flat_map(|case| &case.probes) {
        *counts.entry(probe.key()).or_default() += 1;
    }
    counts
}

/// Its cases are as they should be, and their requests those of an edit of the file.
fn assert_as_expected(path: PathBuf, (name, form, want, probes): Expected, broken: &[&str]) {
    let (mut sound, mut others) = (vec![], vec![]);
    for case in cases(&path).unwrap() {
        match case {
            Ok(case) => sound.push(case),
            Err(broken) => others.push(broken.id),
        }
    }
    assert!(sound.iter().all(|case| case.form == form), "{name}");
    let probes: BTreeMap<String, usize> = probes.iter().map(|&(k, n)| (k.to_owned(), n)).collect();
    assert_eq!(counts(&sound), probes, "{name}");
    assert_eq!(others, broken, "{name}");
    let requests: Vec<_> = sound.iter().flat_map(Case::requests).collect();
    assert_eq!(digest(&requests), want, "{name}");
    let edited = parse_each(&path, &fs::read(&path).unwrap(), Fields::Edit).unwrap();
    assert_eq!(edited.facts, requests, "{name}");
    for case in &sound {
        assert_eq!(case.facts.len(), case.background.len(), "{name}");
        for probe in &case.probes {
            assert!(probe.fact < case.facts.len(), "{name}");
            assert!(probe.answers.iter().all(|spellings| !spellings.is_empty()), "{name}");
        }
    }
}

#[test]
fn every_form_has_cases_and_keeps_its_requests() {
    for &expected in FIXTURES {
        assert_as_expected(fixture(expected.0), expected, &[]);
    }
}

#[test]
fn the_real_files_have_cases_and_keep_their_requests() {
    const NAME: &str = "the_real_files_have_cases_and_keep_their_requests";
    assert_eq!(REAL.len(), FILES.len());
    for (&expected, &(name, _, broken)) in REAL.iter().zip(FILES) {
        assert_eq!(expected.0, name);
        let Some(path) = shared(NAME, name) else { continue };
        assert_as_expected(path, expected, broken);
    }
}

/// Probes of a key: prompts, answers, and what was right before.
fn of<'c>(case: &'c Case, key: &str) -> Vec<(&'c str, Value, Value)> {
    let probes = case.probes.iter().filter(|probe| probe.key() == key);
    probes.map(|p| (&p.prompt[..], json!(p.answers), json!(p.before))).collect()
}

#[test]
fn a_counterfact_case_keeps_its_prompts_apart() {
    let case = &all("counterfact.json")[1];
    assert_eq!((&case.id[..], &case.facts[0].id[..]), ("9", "9"));
    let background = &case.background[0];
    assert_eq!(background.relation.as_deref(), Some("P127"));
    assert_eq!(background.target_new_id.as_deref(), Some("Q9000003"));
    assert_eq!(background.target_true_id.as_deref(), Some("Q9000002"));
    assert_eq!(
        of(case, "neighbourhood")[2],
        ("Mill C is owned by", json!([["Orlu Mills"]]), json!([]))
    );
    assert_eq!(of(case, "attribute")[1].1, json!([["Ash & Daughter"]]));
    assert_eq!(of(case, "generation")[0], ("Fen Mill is visited for", json!([]), json!([])));
    assert_eq!(case.role(Role::Generation).count(), 2);
    assert!(case.facts[0].neighbourhood.is_empty(), "requests hold them");

    let sets = all("counterfact_sets.json");
    let (prompt, answers, _) = of(&sets[1], "portability.subject_replace").remove(0);
    assert_eq!((prompt, answers), ("the mill in the fen is owned by", json!([["Tarn Works"]])));
    assert_eq!(of(&sets[2], "portability.one_hop")[0].2, json!(["Orlu Mills"]));
    // EasyEdit's distracting prompts are CounterFact+'s.
    let neighbours = sets[0].role(Role::Neighbourhood);
    let made: Vec<String> = neighbours.map(|p| sets[0].facts[0].distracting(&p.prompt)).collect();
    let written = of(&sets[0], "locality.distracting_neighbour");
    assert_eq!(made, written.iter().map(|probe| probe.0).collect::<Vec<_>>());
}

#[test]
fn answers_keep_their_spellings_and_those_beside_them() {
    let cases = all("knowedit.json");
    assert_eq!(
        of(&cases[0], "locality.relation_specificity")[0].1,
        json!([["Eda Quill", "E. Quill"], ["Ira Quill"]])
    );
    assert_eq!(of(&cases[0], "portability.reasoning")[0].1, json!([["Tovin mark", "TVM"]]));
    assert_eq!(of(&cases[0], "portability.logical_generalization")[0].1, json!([]));
    assert_eq!(of(&cases[1], "portability.reasoning")[1].1, json!([["Kesta Bay"]]));
    assert_eq!(of(&cases[2], "locality.relation_specificity")[0].1, json!([["species", "sp."]]));
    let zsre = &all("zsre.json")[0];
    assert_eq!(zsre.facts[0].target_true.as_deref(), Some("River Ash"));
    assert_eq!(zsre.background[0].true_aliases, ["the Ash"]);
    let native = &all("native.jsonl")[1];
    assert_eq!(of(native, "portability.reasoning")[0].1, json!([["Kesta", "Old Kesta"]]));
    let truths = json!([["Mia", "M."], "Mya", 3, " "]);
    let record = json!({"prompt": "Ada is", "subject": "Ada", "target_new": "x",
                        "ground_truth": truths,
                        "locality": {"a": {"prompt": "p", "ground_truth": truths}}});
    let case = one(&record);
    assert_eq!(case.facts[0].target_true.as_deref(), Some("Mia"));
    assert_eq!(case.background[0].true_aliases, ["M.", "Mya"]);
    assert_eq!(of(&case, "locality.a")[0].1, json!([["Mia", "M."], ["Mya"]]));
}

#[test]
fn a_mquake_case_holds_its_edits_questions_and_chains() {
    let case = &all("mquake.json")[0];
    let ids: Vec<&str> = case.facts.iter().map(|fact| fact.id.as_str()).collect();
    assert_eq!((&case.id[..], ids), ("31", vec!["31-0", "31-1"]));
    let questions = of(case, "portability.multi_hop");
    assert_eq!(questions.len(), 3);
    assert_eq!(questions[0].1, json!([["Tovin", "Republic of Tovin", "TV"]]));
    assert_eq!(questions[0].2, json!(["Hallan", "Kingdom of Hallan"]));
    let facts: Vec<usize> = case.probes.iter().map(|probe| probe.fact).collect();
    assert_eq!(facts, [0, 1, 1, 1, 1]);
    let hop = Hop {
        question: "What is the country of citizenship of Ira Venn?".into(),
        cloze: "Ira Venn is a citizen of".into(),
        relation: Some("P27".into()),
        answers: vec!["Tovin".into(), "Republic of Tovin".into(), "TV".into()],
    };
    assert_eq!((case.hops.len(), &case.hops[1]), (2, &hop));
    assert_eq!(case.old_hops[1].answers, ["Hallan", "Kingdom of Hallan"]);
    assert_eq!(case.background[1].target_true_id.as_deref(), Some("Q9000014"));
}

/// A case is edited whole or not at all, but requests one by one.
#[test]
fn a_broken_edit_spoils_its_case() {
    let text = fs::read_to_string(fixture("mquake.json")).unwrap();
    let text = text.replacen("\"{} is a citizen of\"", "\"Ida is a citizen of\"", 1);
    let broken = Cases::new("x", text.clone().into_bytes()).unwrap().next().unwrap().unwrap_err();
    assert_eq!(broken.id, "31");
    assert!(broken.reason().contains("record 0: requested_rewrite[1].prompt"), "{broken:?}");
    assert_eq!(parse_each("x", text.as_bytes(), Fields::All).unwrap().facts.len(), 1);
}

#[test]
fn broken_records_are_items_and_broken_files_errors() {
    let items = |text: &str| -> Vec<String> {
        let name = |case: Result<Case, incise::data::broken::Broken>| match case {
            Ok(case) => case.id,
            Err(broken) => format!("{}!{}", broken.id, broken.reason()),
        };
        Cases::new("x", text.as_bytes().to_vec()).unwrap().map(name).collect()
    };
    let sound = r#"{"prompt": "{} is", "subject": "a", "target_new": "b"}"#;
    let numbered = r#"{"id": 0, "prompt": "{} is", "subject": "a", "target_new": "b"}"#;
    let probes =
        r#"{"id": 7, "prompt": "{} is", "subject": "a", "target_new": "b", "locality": 3}"#;
    let got = items(&format!("{sound}\n{{oops\n{numbered}\n{probes}\n{sound}"));
    assert_eq!(got[0], "0");
    assert!(got[1].starts_with("1!line 2: is not JSON"), "{got:?}");
    assert!(got[2].starts_with("0!line 3: id: \"0\" is also the id of line 1"), "{got:?}");
    assert!(got[3].starts_with("7!line 4: locality: is a number"), "{got:?}");
    assert_eq!(&got[4..], ["4"]);
    let error = |text: &str| match Cases::new("x", text.as_bytes().to_vec()) {
        Ok(_) => panic!("{text}"),
        Err(e) => e.to_string(),
    };
    for empty in ["", " \n", "[]", " [ ] "] {
        assert!(error(empty).contains("holds no record"), "{empty:?}");
    }
    // Nothing behind a mistake in an array would be read.
    for (text, words) in [
        (format!("[{sound}\n {sound}]"), "line 2: is not JSON: expected `,` or `]` at column 2"),
        (format!("[{sound},\n  ]"), "line 2: is not JSON: trailing comma at column 3"),
        (format!("[{sound}]\n7"), "line 2: is not JSON: trailing characters at column 1"),
        (format!("[{sound},"), "line 1: is not JSON: EOF while parsing a list at column 56"),
        (format!("[{sound},\n {{\"a\": oops"), "line 2: is not JSON: expected value at column 8"),
    ] {
        assert!(error(&text).contains(words), "{} does not say {words}", error(&text));
    }
}

#[test]
fn kinds_have_one_spelling() {
    for (role, spelling, want) in [
        (Role::Portability, "Subject_Aliasing", "subject_aliasing"),
        (Role::Portability, "Reasoning", "reasoning"),
        (Role::Portability, "reasoning", "reasoning"),
        (Role::Portability, "one-hop", "one_hop"),
        (Role::Portability, "mhop", "multi_hop"),
        (Role::Locality, "neighborhood", "neighbourhood"),
        (Role::Locality, "distracting", "distracting_neighbour"),
        (Role::Locality, "Their own", "their_own"),
        (Role::Portability, "neighborhood", "neighborhood"),
    ] {
        assert_eq!(kinds::name(role, spelling), want);
    }
    for kind in KINDS {
        assert_eq!(kinds::name(kind.role, kind.name), kind.name);
    }
}

#[test]
fn the_page_on_data_names_every_form_and_kind() {
    let page = fs::read_to_string(root().join("docs/data.md")).unwrap();
    for &(_, form, ..) in FIXTURES {
        assert!(page.contains(&format!("| `{}` |", form.name())), "{form:?}");
    }
    for kind in KINDS {
        let row = format!("| `{}.{}` | {} |", kind.role.name(), kind.name, kind.about);
        assert!(page.contains(&row), "docs/data.md needs the row\n{row}");
    }
}

/// An array of small values, of which a few bytes may be lost or changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let item = prop_oneof![
        Just("{\"prompt\": \"{} é\",\n \"subject\": \"a\", \"target_new\": \"b\"}"),
        Just("7"),
        Just("null"),
        Just("[1, [2]]"),
        Just("\"x\\\"y\""),
    ];
    let items = prop::collection::vec(item, 0..4);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\],\\{ \n1\"]?"), 0..3);
    (items, "[ \n]{0,2}", damage).prop_map(|(items, blanks, damage)| {
        let comma = format!("{blanks},{blanks}");
        let mut bytes = format!("[{}{blanks}]{blanks}", items.join(&comma)).into_bytes();
        for (at, with) in damage {
            // Not the bracket, for what follows would be JSON Lines.
            if bytes.len() > 1 {
                let at = 1 + at.index(bytes.len() - 1);
                bytes.splice(at..at + 1, with.bytes());
            }
        }
        bytes
    })
}

proptest! {
    /// An array is read in pieces as it is as a whole, and its mistakes are where they are.
    #[test]
    fn an_array_is_read_as_one_value(bytes in damaged()) {
        let whole = serde_json::from_slice::<Vec<Value>>(&bytes);
        let read = parse_each("x", &bytes, Fields::All);
        match (whole, read) {
            (Ok(values), Ok(read)) => {
                prop_assert_eq!(values.len(), read.facts.len() + read.broken.len());
            }
            (Ok(values), Err(e)) => {
                let said = e.to_string();
                prop_assert!(values.is_empty() && said.contains("holds no request"), "{}", said);
            }
            (Err(want), Err(e)) => {
                let said = e.to_string();
                prop_assert!(said.contains("is not JSON"), "{}", said);
                // A line break inside a string is in the string's line.
                let line = want.line() - usize::from(want.column() == 0);
                let place = [format!("line {line}:"), format!("column {};", want.column())];
                let is_there = place.iter().all(|words| said.contains(words));
                prop_assert!(want.is_eof() || is_there, "{} for {}", said, want);
            }
            (Err(want), Ok(_)) => prop_assert!(false, "read, but {}", want),
        }
        if let Ok(all) = Cases::new("x", bytes.clone()) {
            let count = all.count();
            prop_assert_eq!(count, serde_json::from_slice::<Vec<Value>>(&bytes).unwrap().len());
        }
    }
}
