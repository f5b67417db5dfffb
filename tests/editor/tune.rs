//! How cases are split for tuning.

use std::collections::BTreeSet;

use incise::base::Rng;
use incise::data::{Background, Case, Fact, Form, Probe, Role};
use incise::editor::tune::split::Split;

fn case(subject: usize, relation: usize, object: usize) -> Case {
    let mut fact = Fact::new("{} has", format!("Subject {subject}"), format!("object {object}"));
    fact.target_true = Some("another".to_owned());
    let probe = |role| Probe {
        role,
        kind: String::new(),
        fact: 0,
        prompt: "It has".to_owned(),
        answers: vec![],
        before: vec![],
    };
    let relation = Some(format!("P{relation}"));
    Case {
        id: format!("{subject}-{object}"),
        form: Form::CounterFact,
        facts: vec![fact],
        background: vec![Background { relation, ..Background::default() }],
        probes: vec![probe(Role::Paraphrase), probe(Role::Neighbourhood)],
        hops: vec![],
        old_hops: vec![],
    }
}

/// Cases with subjects and (relation, object) that come several times.
fn drawn(rng: &mut Rng, n: usize) -> Vec<Case> {
    let mut at = |most: usize| (rng.uniform() * most as f64) as usize;
    (0..n).map(|_| case(at(n), at(6), at(12))).collect()
}

fn ids(cases: &[Case]) -> Vec<&str> {
    cases.iter().map(|case| &case.id[..]).collect()
}

/// No subject and no (relation, new object) is on both sides, none comes twice, sizes are as they
/// are said to be, and neither the order of the file nor another call makes a difference.
#[test]
fn sides_have_nothing_in_common() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed, "cases to split");
        let n = 60 + 20 * seed as usize;
        let cases = drawn(&mut rng, n);
        let split = Split::new(cases.clone(), seed).unwrap();
        let subjects = |side: &[Case]| -> BTreeSet<String> {
            side.iter().map(|case| case.facts[0].subject.clone()).collect()
        };
        let kinds = |side: &[Case]| -> BTreeSet<(Option<String>, String)> {
            let kind = |case: &Case| {
                (case.background[0].relation.clone(), case.facts[0].target_new.clone())
            };
            side.iter().map(kind).collect()
        };
        let (choose, report) = (&split.choose, &split.report);
        assert!(subjects(choose).is_disjoint(&subjects(report)), "seed {seed}: subjects");
        assert!(kinds(choose).is_disjoint(&kinds(report)), "seed {seed}: kinds");
        assert_eq!(subjects(choose).len(), choose.len(), "seed {seed}: a subject twice");
        assert!((10..=40).contains(&choose.len()) && report.len() <= 60, "seed {seed}");
        let mut turned = cases.clone();
        turned.reverse();
        // Of a subject that comes twice either may be taken, by texts alone.
        let again = Split::new(turned, seed).unwrap();
        assert_eq!(ids(choose), ids(&again.choose), "seed {seed}");
        assert_eq!(ids(report), ids(&again.report), "seed {seed}");
        assert_eq!(split.hash, again.hash);
        assert_ne!(split.hash, Split::new(cases, seed + 100).unwrap().hash, "seed {seed}");
    }
}

#[test]
fn cases_that_cannot_choose_are_refused() {
    let few: Vec<Case> = (0..19).map(|i| case(i, i, i)).collect();
    let error = Split::new(few, 0).err().unwrap().to_string();
    assert!(error.contains("19 of 19 records"), "{error}");
    let without: Vec<Case> = (0..50).map(|i| Case { probes: vec![], ..case(i, i, i) }).collect();
    let error = Split::new(without, 0).err().unwrap().to_string();
    assert!(error.contains("0 of 50 records"), "{error}");
    let one_kind: Vec<Case> = (0..50).map(|i| case(i, 1, 1)).collect();
    let error = Split::new(one_kind, 0).err().unwrap().to_string();
    assert!(error.contains("0 records are left to choose"), "{error}");
}
