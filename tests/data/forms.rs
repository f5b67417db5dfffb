//! The field's data sets: small records of each form by hand, and the real files where present.

use std::fs;

use incise::data::request::{parse, read};
use incise::data::{Fact, Probe};
use serde_json::{Value, json};

use crate::support::shared::shared;

fn one(record: &Value) -> Fact {
    let mut requests = parse("x.json", record.to_string().as_bytes()).unwrap();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

fn probe(prompt: &str, target: &str) -> Probe {
    Probe::new(prompt, Some(target.to_string()))
}

fn counterfact() -> Value {
    json!({
        "case_id": 18,
        "requested_rewrite": {
            "prompt": "{}, created by", "subject": "Porsche 911",
            "target_new": {"str": "Honda", "id": "Q1"},
            "target_true": {"str": "Porsche", "id": "Q2"},
        },
        "paraphrase_prompts": ["Who makes it? Porsche 911 is made by"],
        "neighborhood_prompts": ["Porsche 550, created by", "Porsche 924 is made by"],
        "attribute_prompts": ["Honda Jazz is made by"],
        "generation_prompts": ["Porsche 911 is sold by"],
    })
}

#[test]
fn counterfact_records_are_recognised() {
    let mut record = counterfact();
    let plain = Fact {
        id: "18".into(),
        prompt: "{}, created by".into(),
        subject: "Porsche 911".into(),
        target_new: "Honda".into(),
        target_true: Some("Porsche".into()),
        paraphrases: vec!["Who makes it? Porsche 911 is made by".into()],
        neighbourhood: vec![
            probe("Porsche 550, created by", "Porsche"),
            probe("Porsche 924 is made by", "Porsche"),
        ],
        ..Fact::default()
    };
    assert_eq!(one(&record), plain);

    record["portability"] =
        json!([{"prompt": "The 911 comes from", "target_true": "Germany", "target_new": "Japan"}]);
    record["alternative_subject"] = "the 911".into();
    record["distracting_neighborhood_prompts"] =
        json!(["Porsche 911 is by Honda. Porsche 550, by"]);
    record["unrelated_relation"] = json!({"question": "The 911 has doors:", "object": "two"});
    let full = Fact {
        portability: vec![
            probe("The 911 comes from", "Japan"),
            probe("the 911, created by", "Honda"),
        ],
        locality: vec![
            probe("Porsche 911 is by Honda. Porsche 550, by", "Porsche"),
            probe("The 911 has doors:", "two"),
        ],
        ..plain
    };
    assert_eq!(one(&record), full);
}

#[test]
fn zsre_records_are_recognised() {
    let record = json!({
        "subject": "Ada ", "src": "Who is Ada's sister?", "pred": "Zoe",
        "rephrase": "Ada's sister?",
        "alt": "Eva ", "answers": ["Mia", "M."], "loc": "nq question: who am i", "loc_ans": "You",
        "cond": "Zoe >> Eva || Who is Ada's sister?", "inverse question": "Who is Eva's sister?",
        "alter_subject_question": "Who is A.'s sister?",
        "portability": {"New Question": "Whose aunt?", "New Answer": "Tim"},
    });
    let want = Fact {
        id: "0".into(),
        prompt: "Who is {}'s sister?".into(),
        subject: "Ada".into(),
        target_new: "Eva".into(),
        target_true: Some("Mia".into()),
        paraphrases: vec!["Ada's sister?".into()],
        neighbourhood: vec![],
        portability: vec![
            probe("Whose aunt?", "Tim"),
            probe("Who is Eva's sister?", "Ada"),
            probe("Who is A.'s sister?", "Eva"),
        ],
        locality: vec![probe("nq question: who am i?", "You")],
    };
    assert_eq!(one(&record), want);
}

#[test]
fn easyedit_records_are_recognised() {
    let record = json!({
        "case_id": 3, "prompt": "The mother of Ada is", "subject": "Ada", "target_new": "Eva",
        "ground_truth": [[], ["Mia", "M."]], "rephrase_prompt": "Ada's mother is",
        "locality_prompt": "Two is", "locality_ground_truth": "even",
        "portability": {
            "one": {"prompt": "a", "ground_truth": "1"},
            "list": [{"prompt": "b", "ground_truth": [["2", "two"], ["3"]]},
                     {"prompt": "c", "ground_truth": [[]]}],
            "lists": {"prompt": ["d", "e"], "ground_truth": ["4", ["5"]]},
        },
        "locality": {"none": null, "empty": [], "name": {"prompt": "f", "ground_truth": ["6"]}},
    });
    let mut want = Fact {
        id: "3".into(),
        prompt: "The mother of {} is".into(),
        subject: "Ada".into(),
        target_new: "Eva".into(),
        target_true: Some("Mia".into()),
        paraphrases: vec!["Ada's mother is".into()],
        neighbourhood: vec![],
        portability: vec![
            probe("b", "2"),
            Probe::new("c", None),
            probe("d", "4"),
            probe("e", "5"),
            probe("a", "1"),
        ],
        locality: vec![probe("f", "6"), probe("Two is", "even")],
    };
    let mut got = one(&record);
    for request in [&mut got, &mut want] {
        request.portability.sort_by(|a, b| a.prompt.cmp(&b.prompt));
    }
    assert_eq!(got, want);

    let mut uneven = record.clone();
    uneven["portability"]["lists"]["ground_truth"] = json!(["4"]);
    let error = parse("x", uneven.to_string().as_bytes()).unwrap_err().to_string();
    assert!(error.contains("portability.lists.ground_truth: has 1 entries for 2"), "{error}");
}

#[test]
fn a_subject_written_out_is_cut_out_once() {
    let prompt = |prompt: &str, subject: &str| {
        let record = json!({"prompt": prompt, "subject": subject, "target_new": "x",
                            "ground_truth": "y"});
        parse("x", record.to_string().as_bytes()).map(|mut r| r.remove(0).prompt)
    };
    assert_eq!(prompt("Ada is", "Ada").unwrap(), "{} is");
    assert_eq!(prompt("{} is Ada", "Ada").unwrap(), "{} is Ada");
    assert_eq!(prompt("Ada, Ada's son", "Ada").unwrap(), "Ada, {}'s son");
    assert_eq!(prompt("Ada is Adam's", "Ada").unwrap(), "{} is Adam's");
    assert_eq!(prompt("Adam's", "Ada").unwrap(), "{}m's");
    assert_eq!(prompt("東京は", "東京").unwrap(), "{}は");
    let error = prompt("ada is", "Ada").unwrap_err().to_string();
    assert!(error.contains("prompt") && error.contains("\"Ada\""), "{error}");
}

#[test]
fn mquake_records_become_one_request_an_edit() {
    let mut first = counterfact()["requested_rewrite"].clone();
    first["question"] = "Who created the Porsche 911?".into();
    let mut second = first.clone();
    second["subject"] = "Honda".into();
    let record = json!({"case_id": 7, "requested_rewrite": [first, second],
        "questions": ["Q1?", "Q2?"], "answer": "old", "new_answer": "new"});
    let requests = parse("x", record.to_string().as_bytes()).unwrap();
    let ids: Vec<&str> = requests.iter().map(|request| request.id.as_str()).collect();
    assert_eq!(ids, ["7-0", "7-1"]);
    assert_eq!(requests[0].paraphrases, ["Who created the Porsche 911?"]);
    assert_eq!(requests[0].portability, []);
    assert_eq!(requests[1].portability, [probe("Q1?", "new"), probe("Q2?", "new")]);
    let none = json!({"requested_rewrite": [], "questions": []}).to_string();
    let error = parse("x", none.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("requested_rewrite: is empty"), "{error}");
}

/// Real files: requests, and over all of them paraphrases, neighbours, portability, locality.
const FILES: &[(&str, [usize; 5])] = &[
    ("counterfact/counterfact-1200.json", [1200, 2400, 12_000, 0, 0]),
    ("counterfact/counterfact-edit-10000.json", [10_000, 10_000, 0, 0, 10_000]),
    ("factlm-gpt2/counterfact.json", [400, 800, 4000, 0, 0]),
    ("knowedit/wiki_counterfact_test_cf.json", [885, 0, 0, 5117, 5956]),
    ("knowedit/wiki_recent_test_from_requests.json", [1266, 0, 0, 11_701, 6205]),
    ("mquake/MQuAKE-hard.json", [1716, 1716, 0, 1287, 0]),
    ("portability/counterfact_portability_gpt4.json", [1031, 2062, 10_310, 1031, 0]),
    ("portability/counterfact_subject_replace.json", [213, 426, 2130, 213, 0]),
    ("zsre/zsre_mend_eval_portability_gpt4.json", [1037, 1037, 0, 1037, 1037]),
];

#[test]
fn every_record_of_the_real_files_converts() {
    for &(name, want) in FILES {
        let Some(path) = shared("every_record_of_the_real_files_converts", name) else { continue };
        let requests = read(path).unwrap();
        let sum = |part: fn(&Fact) -> usize| requests.iter().map(part).sum::<usize>();
        let got = [
            requests.len(),
            sum(|r| r.paraphrases.len()),
            sum(|r| r.neighbourhood.len()),
            sum(|r| r.portability.len()),
            sum(|r| r.locality.len()),
        ];
        assert_eq!(got, want, "{name}");
        assert!(requests.iter().all(|r| r.target_true.is_some() || name.contains("recent")));
    }
}

/// Real files with records that no rule can convert: the prompt spells the subject differently.
#[test]
fn records_that_do_not_name_their_subject_are_refused_and_no_others() {
    for (name, total, broken) in [
        ("knowedit/ZsRE-test-all.json", 1304, vec![396, 597, 676]),
        ("portability/zsre_inverse_relation.json", 385, vec![75, 344, 347, 368, 369]),
        ("portability/zsre_subject_replace.json", 293, vec![17, 122, 137, 210]),
    ] {
        let test = "records_that_do_not_name_their_subject_are_refused_and_no_others";
        let Some(path) = shared(test, name) else { continue };
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("record {}: ", broken[0])), "{error}");
        let records: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(records.len(), total);
        for (i, record) in records.iter().enumerate() {
            let result = parse(name, record.to_string().as_bytes());
            assert_eq!(result.is_err(), broken.contains(&i), "{name}: record {i}");
        }
    }
}
