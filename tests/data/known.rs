//! Known facts for tracing, and MQuAKE's demonstrations.

use std::fs;

use incise::data::{Demonstrations, KnownFact, known};

use crate::support::root;
use crate::support::shared::shared;

#[test]
fn known_facts_are_romes_or_the_old_targets_of_any_form() {
    let read = |name: &str| known(root().join("tests/data/fixtures").join(name)).unwrap();
    let (facts, broken) = read("known.json");
    let second = KnownFact {
        id: "1".into(),
        prompt: "The firm {} has its seat in".into(),
        subject: "Tarn Works".into(),
        object: "Kesta".into(),
        relation: Some("P159".into()),
    };
    assert_eq!((facts.len(), &facts[1], broken), (2, &second, vec![]));
    let (facts, _) = read("mquake.json");
    let got: Vec<(&str, &str)> = facts.iter().map(|f| (&f.id[..], &f.object[..])).collect();
    assert_eq!(got, [("31-0", "The Low Bells"), ("31-1", "Meresh")]);
    assert_eq!(facts[1].relation.as_deref(), Some("P27"));
    let (facts, broken) = read("qna.json");
    assert!(facts.is_empty() && broken.len() == 2);
    assert!(broken[1].reason().starts_with("record 1: target_true: is not"), "{broken:?}");

    const NAME: &str = "known_facts_are_romes_or_the_old_targets_of_any_form";
    for (name, count) in
        [("known/known_1000.json", 1209), ("counterfact/counterfact-1200.json", 1200)]
    {
        let Some(path) = shared(NAME, name) else { continue };
        let (facts, broken) = known(path).unwrap();
        assert_eq!((facts.len(), broken.len()), (count, 0), "{name}");
        assert!(facts.iter().all(|fact| fact.relation.is_some()), "{name}");
    }
}

#[test]
fn demonstrations_are_read_as_published() {
    let folder = root().join("tests/data/fixtures/prompts");
    let read = Demonstrations::read(&folder).unwrap();
    let relation = "Q: What is the country of citizenship of Oda Marsh? A: Hallan";
    assert_eq!((read.relations.len(), &read.relations["P27"][..]), (2, relation));
    assert!(read.multi_hop.unwrap().ends_with("A: Tarn Works"));
    assert!(read.thoughts.unwrap().starts_with("Question: "));

    let error = |folder: &std::path::Path| Demonstrations::read(folder).unwrap_err().to_string();
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path()).contains("has none of rel-prompts.json"));
    for (text, words) in [
        ("[1]", "rel-prompts.json: relations: is not as published"),
        ("{", "rel-prompts.json: relations: is not JSON"),
        ("{\"P1\": \" \"}", "rel-prompts.json: P1: is empty"),
        ("{\"P1\": \"a\", \"P1\": \"b\"}", "named twice"),
    ] {
        fs::write(empty.path().join("rel-prompts.json"), text).unwrap();
        assert!(error(empty.path()).contains(words), "{}", error(empty.path()));
    }
    fs::remove_file(empty.path().join("rel-prompts.json")).unwrap();
    fs::write(empty.path().join("multihop-prompts.txt"), "Q: a? A: b\n").unwrap();
    let one = Demonstrations::read(empty.path()).unwrap();
    assert_eq!(one.multi_hop.as_deref(), Some("Q: a? A: b"));

    let Some(real) = shared("demonstrations_are_read_as_published", "mquake/prompts") else {
        return;
    };
    let real = Demonstrations::read(real).unwrap();
    assert_eq!(real.relations.len(), 37);
    assert_eq!(real.multi_hop.unwrap().lines().count(), 16);
    assert_eq!(real.thoughts.unwrap().matches("Thoughts:").count(), 5);
}
