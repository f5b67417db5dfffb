//! Records that cannot be used: named all at once, or left out.

use incise::data::request::{Fields, Requests, parse, parse_each};
use serde_json::{Value, json};

const GOOD: &str = r#"{"prompt": "{} is in", "subject": "Bern", "target_new": "Asia"}"#;

fn sorted(text: &str, fields: Fields) -> Requests {
    parse_each("x.jsonl", text.as_bytes(), fields).unwrap()
}

fn ids(all: &Requests) -> [Vec<&str>; 2] {
    let facts = all.facts.iter().map(|f| f.id.as_str()).collect();
    [facts, all.broken.iter().map(|b| b.id.as_str()).collect()]
}

#[test]
fn the_error_lists_the_first_ten_and_counts_them_all() {
    let line =
        |i: usize| json!({"id": i, "prompt": i.to_string(), "subject": "Bern", "target_new": "x"});
    let lines = |n: usize| {
        let broken = (0..n).map(|i| format!("{}\n", line(i)));
        format!("{GOOD}\n").replace("{\"p", "{\"id\": \"good\", \"p") + &broken.collect::<String>()
    };
    let error = |n: usize| parse("x.jsonl", lines(n).as_bytes()).unwrap_err();
    let twelve = error(12);
    assert_eq!((twelve.code(), twelve.field()), ("input", Some("12 broken records")));
    let text = twelve.line();
    assert!(text.starts_with("x.jsonl: 12 broken records: line 2: prompt: "), "{text}");
    assert_eq!(text.matches("does not contain").count(), 10, "{text}");
    assert!(text.contains("line 11: ") && !text.contains("line 12: "), "{text}");
    assert!(text.contains("; …; write {} in the prompt") && !text.contains('\n'), "{text}");
    let ten = error(10).line();
    assert!(ten.contains("line 11: ") && !ten.contains('…'), "{ten}");
    assert_eq!(error(1).field(), Some("line 2: prompt"));
    for n in [1, 12] {
        let settings = error(n).remedy().unwrap().settings;
        let skip: Vec<_> = settings.iter().map(|s| (&s.name[..], s.value.as_deref())).collect();
        assert_eq!(skip, [("on_broken", Some("skip"))]);
    }
}

#[test]
fn what_all_have_alike_is_said_once() {
    let line = json!({"prompt": "Rome is", "subject": "Bern", "target_new": "x"});
    let error = parse("x.jsonl", [line.to_string(), line.to_string()].join("\n").as_bytes());
    let text = error.unwrap_err().line();
    assert!(text.starts_with("x.jsonl: 2 broken records: line 1: prompt first, all of them: "));
    assert_eq!(text.matches("does not contain").count(), 1, "{text}");
}

/// What cannot be read has no id that another record could not have.
#[test]
fn a_broken_line_takes_no_other_record_with_it() {
    let own = GOOD.replace("{\"p", "{\"id\": 0, \"p");
    let all = sorted(&format!("garbage\n{own}"), Fields::Edit);
    assert_eq!(ids(&all), [vec!["0"], vec!["0"]]);
    let all = sorted(&format!("[7, {own}]"), Fields::Edit);
    assert_eq!(ids(&all), [vec!["0"], vec!["0"]]);
    let indented = format!("garbage\n  {GOOD}\n\t{GOOD}\n{GOOD}");
    assert_eq!(ids(&sorted(&indented, Fields::Edit)), [vec!["1", "2", "3"], vec!["0"]]);
    let edit = json!({"prompt": "{} is in", "subject": "Bern", "target_new": {"str": "Asia"}});
    let broken = json!({"prompt": "is in", "subject": "Bern", "target_new": {"str": "Asia"}});
    let case = json!({"case_id": 12, "requested_rewrite": [edit, broken, edit]}).to_string();
    let all = sorted(&case, Fields::Edit);
    assert_eq!(ids(&all), [vec!["12-0", "12-2"], vec!["12-1"]]);
    assert!(all.broken[0].field.contains("requested_rewrite[1].prompt"), "{all:?}");
}

#[test]
fn what_can_be_used_is_read_all_the_same() {
    let text = [
        GOOD,
        r#"{"prompt": "Bern is in", "subject": "Rome", "target_new": "Asia"}"#,
        r#"{"id": "7", "prompt": "{} is in", "subject": "Bern", "target_new": 3}"#,
        r#"{"id": "7", "prompt": "{} is in", "subject": "Bern", "target_new": "Asia"}"#,
        r#"{"id": "a", "prompt": "{} is in", "subject": "Bern", "target_new": "Asia"}"#,
        r#"{"id": "a", "prompt": "{} is in", "subject": "Rome", "target_new": "Asia"}"#,
        r#"{"id": true, "prompt": "{} is in", "subject": "Bern", "target_new": "Asia"}"#,
        "12",
        GOOD,
    ]
    .join("\n");
    let all = sorted(&text, Fields::All);
    assert_eq!(ids(&all), [vec!["0", "a", "8"], vec!["1", "7", "7", "a", "6", "7"]]);
    let reasons: Vec<String> = all.broken.iter().map(|b| b.reason()).collect();
    for (reason, words) in reasons.iter().zip([
        "line 2: prompt: \"Bern is in\" does not contain the subject \"Rome\"",
        "line 3: target_new: is a number",
        "line 4: id: \"7\" is also the id of line 3",
        "line 6: id: \"a\" is also the id of line 5",
        "line 7: id: is true or false",
        "line 8: is a number",
    ]) {
        assert!(reason.starts_with(words), "{reason:?} is not {words:?}");
    }
}

#[test]
fn a_line_that_is_not_json_is_one_broken_record() {
    let array = format!("[{GOOD}, {{\"prompt\": }}]");
    let error = parse_each("x", array.as_bytes(), Fields::Edit).unwrap_err();
    assert!(error.to_string().contains("is not JSON"), "{error}");
    let pretty = format!("{:#}", serde_json::from_str::<Value>(GOOD).unwrap());
    let text = [
        GOOD,
        r#"{"prompt": "open, "subject": "#,
        &pretty,
        r#"{"prompt": "cut"#,
        r#"{"subject": "a", "subject": "b"}"#,
        "",
        GOOD,
    ]
    .join("\n");
    let all = sorted(&text, Fields::All);
    assert_eq!(ids(&all), [vec!["0", "2", "5"], vec!["1", "3", "4"]]);
    for (broken, place) in all.broken.iter().zip(["line 2", "line 8", "line 9"]) {
        assert!(broken.reason().starts_with(&format!("{place}: is not JSON")), "{broken:?}");
    }
    assert!(all.broken[2].what.contains("named twice"));
}

/// Fields that an edit does not use do not stop it, and evaluation needs them right.
#[test]
fn fields_that_only_measure_stop_no_edit() {
    let native = json!({"prompt": "{} is in", "subject": "Bern", "target_new": "Asia"});
    let easyedit = json!({"prompt": "Bern is in", "subject": "Bern", "target_new": "Asia"});
    let counterfact = json!({"requested_rewrite":
        {"prompt": "{} is in", "subject": "Bern", "target_new": {"str": "Asia"}}});
    let zsre = json!({"src": "Where is Bern?", "subject": "Bern", "alt": "Asia"});
    let wiki = json!({"update": "Where is Bern?", "subject": "Bern", "ans": "Asia"});
    let qna = json!({"question": "Where is Bern?", "subject": "Bern", "answer": "Asia"});
    let mquake = json!({"requested_rewrite":
        [{"prompt": "{} is in", "subject": "Bern", "target_new": {"str": "Asia"}}]});
    for (record, fields) in [
        (native, &["target_true", "paraphrases", "neighbourhood", "portability", "locality"][..]),
        (easyedit, &["rephrase_prompt", "locality_prompt", "portability", "locality"]),
        (
            counterfact,
            &["paraphrase_prompts", "neighborhood_prompts", "unrelated_relation", "portability"],
        ),
        (zsre, &["rephrase", "answers", "loc", "portability", "inverse question"]),
        (wiki, &["rephrase", "personas", "loc", "mhop"]),
        (qna, &["qna_question"]),
        (mquake, &["questions"]),
    ] {
        for field in fields {
            for value in [json!(7), json!({"a": {"b": 1}}), json!([[1]])] {
                let mut record = record.clone();
                record[field] = value.clone();
                let line = record.to_string();
                let all = sorted(&line, Fields::Edit);
                assert_eq!((all.facts.len(), all.broken.len()), (1, 0), "{line}: {all:?}");
                assert_eq!(all.facts[0].target_new, "Asia");
                let strict = sorted(&line, Fields::All);
                assert_eq!(strict.broken.len(), 1, "{line}");
                assert!(strict.broken[0].field.contains(field), "{:?}", strict.broken);
            }
        }
    }
}
