//! The field's data sets: small records of each form by hand, and the real files where present.

use std::fs;

use incise::data::request::{Fields, parse, parse_each};
use incise::data::{Continuation, Fact};
use serde_json::{Value, json};

use crate::support::shared::shared;

fn one(record: &Value) -> Fact {
    let mut requests = parse("x.json", record.to_string().as_bytes()).unwrap();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

fn probe(prompt: &str, target: &str) -> Continuation {
    Continuation::new(prompt, Some(target.to_string()))
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
        space: None,
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
            Continuation::new("c", None),
            probe("d", "4"),
            probe("e", "5"),
            probe("a", "1"),
        ],
        locality: vec![probe("f", "6"), probe("Two is", "even")],
        space: None,
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

/// What KnowEdit's public files hold where a question is missing.
#[test]
fn empty_groups_of_questions_are_none() {
    let record = json!({
        "prompt": "Ada is", "subject": "Ada", "target_new": "Eva", "ground_truth": [],
        "rephrase": null, "rephrase_prompt": [],
        "locality": {"Relation_Specificity": [], "Forgetfulness": {}},
        "portability": {"Reasoning": [{"prompt": "a", "ground_truth": [[]]}, {}],
                        "Logical_Generalization": {"prompt": [], "ground_truth": []}},
    });
    let fact = one(&record);
    assert_eq!((fact.locality, fact.paraphrases), (vec![], Vec::<String>::new()));
    assert_eq!(fact.portability, [Continuation::new("a", None)]);
}

#[test]
fn qaedit_records_are_recognised() {
    let record = json!({
        "id": 1104, "source": "NQ", "prompt": "who is ada?", "target": "Eva *", "subject": "ada",
        "rephrase": "Who's ada?",
        "locality": [{"loc": "who are you", "loc_ans": "You"}, {"loc": "who am i", "loc_ans": "I"}],
    });
    let want = Fact {
        id: "NQ-1104".into(),
        paraphrases: vec!["Who's ada?".into()],
        locality: vec![probe("who are you", "You"), probe("who am i", "I")],
        ..Fact::new("who is {}?", "ada", "Eva *")
    };
    assert_eq!(one(&record), want);
}

#[test]
fn records_of_wikibigedit_and_of_questions_with_answers_are_recognised() {
    let wiki = json!({
        "subject": "Ada", "update": "Who is Ada?", "ans": "Eva", "rephrase": "Ada?",
        "personas": "Say, who is Ada?", "loc": "Who is Zoe?", "loc_ans": "Mia",
        "mhop": "Whose aunt is Ada?", "mhop_ans": "Tim's",
    });
    let want = Fact {
        id: "0".into(),
        paraphrases: vec!["Ada?".into(), "Say, who is Ada?".into()],
        portability: vec![probe("Whose aunt is Ada?", "Tim's")],
        locality: vec![probe("Who is Zoe?", "Mia")],
        ..Fact::new("Who is {}?", "Ada", "Eva")
    };
    assert_eq!(one(&wiki), want);
    let copied = json!({
        "subject": "Ada", "prompt": "Who is Ada?", "target_new": "Eva", "loc": "Who is Zoe?",
        "loc_ans": "Mia",
    });
    assert_eq!(one(&copied).locality, [probe("Who is Zoe?", "Mia")]);
    let qna = json!({
        "case_index": 5, "question": "The name of Ada is", "subject": "Ada", "answer": "Eva",
        "qna_question": "What is the name of Ada?",
    });
    let want = Fact {
        id: "5".into(),
        paraphrases: vec!["What is the name of Ada?".into()],
        ..Fact::new("The name of {} is", "Ada", "Eva")
    };
    assert_eq!(one(&qna), want);
}

fn prompt(prompt: &str, subject: &str) -> Result<String, String> {
    let record = json!({"prompt": prompt, "subject": subject, "target_new": "x",
                        "ground_truth": "y"});
    let parsed = parse("x", record.to_string().as_bytes());
    parsed.map(|mut r| r.remove(0).prompt).map_err(|e| e.to_string())
}

#[test]
fn a_subject_written_out_is_cut_out_once() {
    for (text, subject, cut) in [
        ("Ada is", "Ada", "{} is"),
        ("{} is Ada", "Ada", "{} is Ada"),
        ("Ada, Ada's son", "Ada", "Ada, {}'s son"),
        ("Ada is Adam's", "Ada", "{} is Adam's"),
        ("Adam's Ada", "Ada", "Adam's {}"),
        ("the Ada-based", "Ada", "the {}-based"),
        ("the Ada_2", "Ada", "the {}_2"),
        ("the C++20", "C++", "the {}20"),
        ("東京は", "東京", "{}は"),
        ("在中国的", "中国", "在{}的"),
        ("로마의 수도", "로마", "{}의 수도"),
        ("ชื่อโรมคือ", "โรม", "ชื่อ{}คือ"),
    ] {
        assert_eq!(prompt(text, subject).as_deref(), Ok(cut));
    }
    let error = prompt("ada is", "Ada").unwrap_err();
    assert!(error.contains("prompt") && error.contains("does not contain"), "{error}");
}

/// The middle of another word is not what was meant.
#[test]
fn a_subject_only_inside_other_words_is_refused() {
    for (text, subject) in [
        ("Romeo lives in", "Rome"),
        ("Adam's", "Ada"),
        ("The crew of Apollo 11 was", "Apollo 1"),
        ("The crew of 2Apollo was", "Apollo"),
        ("Jose\u{301} lives in", "Jose"),
        ("Столица Россиян", "Россия"),
        ("Romeo and Jerome", "Rome"),
    ] {
        let error = prompt(text, subject).unwrap_err();
        for words in ["only inside other words", "write {} in the prompt"] {
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }
    assert_eq!(prompt("{}o lives in", "Rome").as_deref(), Ok("{}o lives in"));
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

/// Real files: requests, over all of them paraphrases, neighbours, portability and locality, and
/// records that no rule can convert: the prompt spells the subject differently, or (record 54) has
/// it inside another word.
pub const FILES: &[(&str, [usize; 5], &[&str])] = &[
    ("counterfact/counterfact-1200.json", [1200, 2400, 12_000, 0, 0], &[]),
    ("counterfact/counterfact-edit-10000.json", [10_000, 10_000, 0, 0, 10_000], &[]),
    ("factlm-gpt2/counterfact.json", [400, 800, 4000, 0, 0], &[]),
    ("knowedit/ZsRE-test-all.json", [1301, 1301, 0, 1301, 2602], &["396", "597", "676"]),
    ("knowedit/wiki_counterfact_test_cf.json", [885, 0, 0, 5117, 5956], &[]),
    ("knowedit/wiki_recent_test_from_requests.json", [1266, 0, 0, 11_701, 6205], &[]),
    ("mquake/MQuAKE-hard.json", [1716, 1716, 0, 1287, 0], &[]),
    (
        "portability/counterfact_distracting_neighbor_and_other_attribution.json",
        [804, 1608, 8040, 804, 8844],
        &[],
    ),
    ("portability/counterfact_portability_gpt4.json", [1031, 2062, 10_310, 1031, 0], &[]),
    ("portability/counterfact_subject_replace.json", [213, 426, 2130, 213, 0], &[]),
    (
        "portability/zsre_inverse_relation.json",
        [380, 380, 0, 380, 0],
        &["75", "344", "347", "368", "369"],
    ),
    (
        "portability/zsre_subject_replace.json",
        [288, 288, 0, 288, 0],
        &["17", "54", "122", "137", "210"],
    ),
    ("qna/counterfact_qna.json", [1000, 1000, 0, 0, 0], &[]),
    ("wikibigedit/wikibigedit.json", [2000, 2000, 0, 0, 2000], &[]),
    ("wild/qaedit.json", [700, 700, 0, 0, 3500], &[]),
    ("zsre/zsre_locft.json", [2000, 2000, 0, 0, 2000], &[]),
    ("zsre/zsre_mend_eval_portability_gpt4.json", [1037, 1037, 0, 1037, 1037], &[]),
];

#[test]
fn the_records_of_the_real_files_convert_and_the_others_are_named() {
    const NAME: &str = "the_records_of_the_real_files_convert_and_the_others_are_named";
    for &(name, want, broken) in FILES {
        let Some(path) = shared(NAME, name) else { continue };
        let all = parse_each(&path, &fs::read(&path).unwrap(), Fields::All).unwrap();
        let sum = |part: fn(&Fact) -> usize| all.facts.iter().map(part).sum::<usize>();
        let got = [
            all.facts.len(),
            sum(|r| r.paraphrases.len()),
            sum(|r| r.neighbourhood.len()),
            sum(|r| r.portability.len()),
            sum(|r| r.locality.len()),
        ];
        assert_eq!(got, want, "{name}");
        let ids: Vec<&str> = all.broken.iter().map(|b| b.id.as_str()).collect();
        assert_eq!(ids, broken, "{name}");
        assert!(all.facts.iter().all(Fact::has_subject), "{name}");
    }
}
