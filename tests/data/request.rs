use incise::data::request::{Fields, digest, parse, parse_each, read};
use incise::data::{Continuation, Fact};
use proptest::prelude::*;
use serde_json::{Value, json};

fn one(record: Value) -> Fact {
    let mut requests = parse("x.json", record.to_string().as_bytes()).unwrap();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

fn error(text: impl AsRef<[u8]>) -> String {
    parse("x.json", text.as_ref()).unwrap_err().to_string()
}

fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

const SHORT: &str = r#"{"prompt": "{} is in", "subject": "Zürich", "target_new": "東京"}"#;

fn short() -> Fact {
    Fact {
        id: "0".into(),
        prompt: "{} is in".into(),
        subject: "Zürich".into(),
        target_new: "東京".into(),
        ..Fact::default()
    }
}

#[test]
fn our_own_record_may_be_short_or_full() {
    assert_eq!(parse("x", SHORT.as_bytes()).unwrap(), [short()]);
    let full = one(json!({
        "id": "a7", "prompt": "{} is in", "subject": " Zürich ", "target_new": "東京 ",
        "target_true": "Europe", "paraphrases": ["Where is Zürich? In"],
        "neighbourhood": ["Bern is in", {"prompt": "Rome is in", "target": "Italy"}],
        "portability": [{"prompt": "In Zürich one speaks", "target": "Japanese"}],
        "locality": ["1 + 1 ="], "note": "no form knows this field",
    }));
    let probe =
        |prompt: &str, target: Option<&str>| Continuation::new(prompt, target.map(String::from));
    let want = Fact {
        id: "a7".into(),
        target_true: Some("Europe".into()),
        paraphrases: vec!["Where is Zürich? In".into()],
        neighbourhood: vec![
            probe("Bern is in", Some("Europe")),
            probe("Rome is in", Some("Italy")),
        ],
        portability: vec![probe("In Zürich one speaks", Some("Japanese"))],
        locality: vec![probe("1 + 1 =", None)],
        ..short()
    };
    assert_eq!(full, want);
}

#[test]
fn lines_arrays_byte_order_marks_and_line_endings_are_the_same() {
    let second = SHORT.replace("Zürich", "Bern");
    let array = format!("[{SHORT},\n{second}]");
    let want = parse("x", array.as_bytes()).unwrap();
    assert_eq!((want.len(), want[1].id.as_str()), (2, "1"));
    let pretty: Value = serde_json::from_str(SHORT).unwrap();
    for text in [
        format!("{SHORT}\n{second}"),
        format!("{SHORT}\r\n\r\n{second}\r\n"),
        format!("\u{feff}{SHORT}\n{second}\n"),
        format!("\u{feff} \n{array}\n"),
        format!("{pretty:#}\n{second}"),
    ] {
        assert_eq!(parse("x", text.as_bytes()).unwrap(), want, "{text}");
    }
}

#[test]
fn errors_name_file_line_and_field() {
    let line = |record: Value| format!("{SHORT}\n\n{record}\n");
    let base = || json!({"prompt": "{} is in", "subject": "Bern", "target_new": "Asia"});
    let with = |field: &str, value: Value| {
        let mut record = base();
        record[field] = value;
        error(line(record))
    };
    assert_says(&with("target_new", Value::Null), &["x.json: line 3: target_new: is missing; add"]);
    assert_says(&with("target_new", json!("\t ")), &["line 3: target_new: is empty"]);
    assert_says(&with("target_new", json!(7)), &["line 3: target_new: is a number"]);
    assert_says(&with("subject", json!(["Bern"])), &["line 3: subject: is a list"]);
    assert_says(&with("prompt", json!("{} or {}")), &["line 3: prompt: has 2 places {}"]);
    assert_says(&with("prompt", json!("Rome is in")), &["line 3: prompt", "Bern", "write {}"]);
    assert_says(&with("prompt", Value::Null), &["line 3: prompt", "fields prompt, subject"]);
    assert_says(&with("paraphrases", json!({"a": 1})), &["line 3: paraphrases: is an object"]);
    assert_says(&with("locality", json!([{"target": "x"}])), &["line 3: locality[0].prompt"]);
    assert_says(&with("locality", json!(["a", 1])), &["line 3: locality[1]: is a number"]);
    assert_says(&with("id", json!(true)), &["line 3: id: is true or false"]);
    assert_says(&with("id", json!("0")), &["line 3: id", "also the id of line 1"]);
    assert_says(&error(line(json!(7))), &["line 3: is a number"]);
    assert_says(&error(line(json!({"question": "?"}))), &["line 3: prompt", "question"]);
    assert_says(&error(format!("[{SHORT}, {{}}]")), &["record 1: prompt"]);
    assert_says(&error(format!("{SHORT}\n\n{{\"prompt\": \n\n oops}}")), &["line 5: is not JSON"]);
    assert_says(&error(format!("[{SHORT},\n")), &["line 2: is not JSON"]);
    assert_says(&error(b"{\"prompt\": \"\xff\"}"), &["line 1: is not JSON", "UTF-8"]);
    assert_says(&error(format!("{SHORT}\n{SHORT}\n\n{SHORT}\n7")), &["line 5: is a number"]);
    for empty in ["", " \n", "[]", "\u{feff}"] {
        assert_says(&error(empty), &["holds no request"]);
    }
    assert_says(&error("[".repeat(100_000)), &["is not JSON"]);
    let twice = r#"{"prompt": "{} is in", "subject": "a", "subject": "b", "target_new": "c"}"#;
    let words = ["line 2: is not JSON", "\"subject\" is named twice"];
    assert_says(&error(format!("{SHORT}\n{twice}")), &words);
    assert_says(&error(format!("[{SHORT},\n{twice}]")), &words);
    assert_says(&error(r#"{"x": [{"a": 1, "a": 1}]}"#), &["\"a\" is named twice"]);
    assert_says(&read("/no/such/file").unwrap_err().to_string(), &["/no/such/file: cannot read"]);
}

#[test]
fn a_record_without_a_subject_is_about_its_whole_prompt() {
    let fact = |prompt: &str| one(json!({"prompt": prompt, "target_new": "Rome"}));
    for text in ["The capital of France is", " Q: the capital of France?\nA:\n"] {
        let fact = fact(text);
        assert_eq!((fact.filled().as_str(), fact.has_subject()), (text, false));
        assert_eq!(fact.subject, text.trim());
    }
    let null = one(json!({"prompt": "Who?", "subject": null, "target_new": "x", "loc": "?"}));
    assert_eq!((&null.prompt[..], &null.subject[..]), ("{}", "Who?"));
    let question = one(json!({"src": "Who is it?", "alt": "I"}));
    assert_eq!((&question.prompt[..], &question.subject[..]), ("{}", "Who is it?"));
    let missing = json!({"prompt": "{} is", "target_new": "x"}).to_string();
    assert_says(&error(missing), &["line 1: subject: is missing"]);
    let blank = json!({"prompt": "It is", "subject": " ", "target_new": "x"}).to_string();
    assert_says(&error(blank), &["line 1: subject: is empty", "take the field out"]);
}

#[test]
fn a_record_may_say_whether_a_space_follows_its_prompt() {
    let with = |space: Value| {
        json!({"prompt": "{} is", "subject": "a", "target_new": "b", "space": space}).to_string()
    };
    for (value, want) in
        [(json!(true), Some(true)), (json!(false), Some(false)), (json!(null), None)]
    {
        let facts = parse("x", with(value).as_bytes()).unwrap();
        assert_eq!(facts[0].space, want);
        // What is not said is not in the digest, so older digests hold.
        let says = serde_json::to_string(&facts).unwrap().contains("space");
        assert_eq!(says, want.is_some());
    }
    assert_says(&error(with(json!("no"))), &["line 1: space: is a string; write true or false"]);
    let rewrite = json!({"prompt": "{} is", "subject": "a", "target_new": {"str": "b"}});
    let record = json!({"case_id": 1, "requested_rewrite": rewrite, "space": false});
    assert_eq!(one(record).space, Some(false));
}

#[test]
fn ids_are_found_whatever_the_form() {
    let id = |field: &str, prompt: &str| {
        one(json!({field: 7, "prompt": prompt, "subject": "Bern", "target_new": "Asia"})).id
    };
    for field in ["id", "case_id", "case_index"] {
        assert_eq!((id(field, "{} is in"), id(field, "Bern is in")), ("7".into(), "7".into()));
    }
}

/// Python's `json` writes these where a table has no value.
#[test]
fn numbers_that_are_none_count_as_null() {
    let text = r#"{"prompt": "{} is in", "subject": "NaN", "target_new": "a \" NaN, Infinity",
        "target_true": NaN, "paraphrases": [NaN, "b"],
        "note": [-Infinity, Infinity, {"a":NaN}]}"#;
    let fact = parse("x", text.as_bytes()).unwrap().remove(0);
    assert_eq!((&fact.subject[..], &fact.target_new[..]), ("NaN", "a \" NaN, Infinity"));
    assert_eq!((fact.target_true, fact.paraphrases), (None, vec!["b".into()]));
    let needed = SHORT.replace("\"東京\"", "NaN");
    assert_says(&error(&needed), &["line 1: target_new: is missing"]);
    // A string that is left open ends with its line.
    let open = format!("{{\"prompt\": \"x\n{}", SHORT.replace("東京", "NaN"));
    let all = parse_each("x", open.as_bytes(), Fields::All).unwrap();
    assert_eq!((all.facts.len(), &all.facts[0].target_new[..]), (1, "NaN"));
}

#[test]
fn the_digest_tells_requests_apart_and_nothing_else() {
    let requests = parse("x", SHORT.as_bytes()).unwrap();
    let spaced = SHORT.replace(":", " :");
    assert_eq!(digest(&requests), digest(&parse("y", spaced.as_bytes()).unwrap()));
    let other = parse("x", SHORT.replace("東", "北").as_bytes()).unwrap();
    assert_ne!(digest(&requests), digest(&other));
    assert_eq!(digest(&requests).len(), 64);
}

/// Any JSON, with field names and strings that the forms know.
fn value() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec!["", "{}", "Bern", "{} is", "Bern is {} {}", "é", "?"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    let field = prop::sample::select(vec![
        "id",
        "case_id",
        "prompt",
        "subject",
        "target_new",
        "target_true",
        "str",
        "src",
        "alt",
        "answers",
        "loc",
        "requested_rewrite",
        "portability",
        "locality",
        "ground_truth",
        "neighbourhood",
        "paraphrases",
        "questions",
        "new_answer",
        "New Question",
        "question",
        "unrelated_relation",
        "alternative_subject",
        "rephrase_prompt",
        "target",
        "update",
        "ans",
        "answer",
        "space",
    ]);
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(field.clone().prop_map(String::from), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A request as its fields allow it.
fn request() -> impl Strategy<Value = Fact> {
    let text = "[a-zé東]{1,4}( [a-zé東\"]{1,4})?";
    let probe = (text, prop::option::of(text)).prop_map(|(p, t)| Continuation::new(p, t));
    let probes = prop::collection::vec(probe, 0..3);
    let texts = (text, text, text, prop::option::of(text), prop::collection::vec(text, 0..3));
    (texts, probes.clone(), probes.clone(), probes, any::<Option<bool>>()).prop_map(
        |((prompt, subject, target_new, target_true, paraphrases), a, b, c, space)| Fact {
            id: "0".into(),
            prompt: format!("{prompt} {{}}"),
            subject,
            target_new,
            target_true,
            paraphrases,
            neighbourhood: a,
            portability: b,
            locality: c,
            space,
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse("x", &bytes);
    }

    #[test]
    fn no_json_panics(values in prop::collection::vec(value(), 0..3), array in any::<bool>()) {
        let text = match array {
            true => Value::from(values).to_string(),
            false => values.iter().map(|value| format!("{value}\n")).collect(),
        };
        if let Ok(requests) = parse("x", text.as_bytes()) {
            for request in requests {
                prop_assert_eq!(request.prompt.matches("{}").count(), 1);
                prop_assert_eq!(request.subject.trim(), request.subject.as_str());
                prop_assert!(!request.subject.is_empty() && !request.target_new.is_empty());
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back(request in request()) {
        let text = serde_json::to_string(&request).unwrap();
        prop_assert_eq!(parse("x", text.as_bytes()).unwrap(), [request]);
    }
}
