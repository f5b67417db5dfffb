//! Tasks: documents as they are read, numbers counted by hand, and lines with the keys that
//! lm-evaluation-harness's readers ask for (`tools/check_samples` runs them).

use std::fs;

use incise::data::task::tasks;
use incise::data::{TaskDocument, TaskQuestion};
use incise::eval::task::{TaskAnswer, TaskResult, summarise};
use serde_json::json;

fn choices(gold: usize) -> TaskDocument {
    TaskDocument {
        task: "pets".to_owned(),
        place: 3,
        doc: json!({"q": "Who purrs?"}),
        doc_hash: None,
        context: "Who purrs?".to_owned(),
        asked: TaskQuestion::Choices {
            choices: ["a dog", "cät", "a cat!"].map(str::to_owned).to_vec(),
            gold,
            delimiter: " ".to_owned(),
        },
    }
}

fn result(document: TaskDocument, before: TaskAnswer, after: Option<TaskAnswer>) -> TaskResult {
    TaskResult { document, before, after }
}

/// Over 5, 3 and 6 characters, and 5, 4 and 6 bytes: −1.2, −1, −1.05; −1.2, −0.75, −1.05.
#[test]
fn choices_are_compared_as_a_whole_by_characters_and_by_bytes() {
    let answer = TaskAnswer::Choices(vec![(-6.0, false), (-3.0, false), (-6.3, false)]);
    for (gold, want) in [(0, [0.0, 0.0, 0.0]), (1, [1.0; 3]), (2, [0.0; 3])] {
        let result = result(choices(gold), answer.clone(), None);
        assert_eq!(result.values(&answer), want, "{gold}");
    }
    // −5/5, −4/3, −4.4/6 of characters; −5/5, −4/4, −4.4/6 of bytes.
    let answer = TaskAnswer::Choices(vec![(-5.0, false), (-4.0, false), (-4.4, false)]);
    assert_eq!(result(choices(1), answer.clone(), None).values(&answer), [1.0, 0.0, 0.0]);
    assert_eq!(result(choices(2), answer.clone(), None).values(&answer), [0.0, 1.0, 1.0]);
    let equal = TaskAnswer::Choices(vec![(-5.0, false); 3]);
    assert_eq!(
        result(choices(0), equal.clone(), None).values(&equal)[0],
        1.0,
        "the first of equals"
    );
}

#[test]
fn samples_have_the_harness_keys() {
    let answer = TaskAnswer::Choices(vec![(-6.0, false), (-3.25, true), (-6.5, false)]);
    let sample = result(choices(1), answer.clone(), None).sample(&answer);
    assert_eq!(
        sample["resps"],
        json!([[["-6.0", "False"]], [["-3.25", "True"]], [["-6.5", "False"]]])
    );
    assert_eq!(sample["filtered_resps"][1], json!(["-3.25", "True"]));
    assert_eq!(sample["arguments"]["gen_args_1"], json!({"arg_0": "Who purrs?", "arg_1": " cät"}));
    assert_eq!(
        [&sample["doc_id"], &sample["target"], &sample["acc"]],
        [&json!(3), &json!("1"), &json!(1.0)]
    );
    // sha256sum of the texts `{"q": "Who purrs?"}` over three lines, and of `1`.
    let hash = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    assert_eq!(sample["target_hash"], hash);

    let text = TaskDocument {
        asked: TaskQuestion::Text {
            answer: " cat".into(),
            stops: vec!["\n".into()],
            max_tokens: 4,
        },
        ..choices(0)
    };
    let said = TaskAnswer::Text("cat ".to_owned());
    let result = result(text, said.clone(), None);
    assert_eq!(result.values(&said), [1.0]);
    let sample = result.sample(&said);
    assert_eq!(sample["metrics"], json!(["exact_match"]));
    assert_eq!(sample["resps"], json!([["cat "]]));
    assert_eq!(sample["arguments"]["gen_args_0"]["arg_1"]["until"], json!(["\n"]));
}

#[test]
fn a_task_is_summed_up_with_what_it_was_before() {
    let of = |right: bool| {
        let lls = if right { [-9.0, -1.0, -9.0] } else { [-1.0, -9.0, -9.0] };
        TaskAnswer::Choices(lls.map(|ll| (ll, false)).to_vec())
    };
    let results: Vec<TaskResult> =
        (0..8).map(|i| result(choices(1), of(true), Some(of(i % 4 > 0)))).collect();
    let all = summarise(&results, 0);
    let acc = &all["task.pets.acc"];
    assert_eq!((acc.mean, acc.before, acc.n), (75.0, 100.0, 8));
    assert_eq!(acc.change.unwrap()[0], -25.0);
    assert_eq!(all.len(), 3);
}

#[test]
fn documents_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("task.jsonl");
    let good = json!({"task": "t", "context": "c", "choices": ["a", "b"], "gold": 0});
    let with = |name: &str, value: serde_json::Value| {
        let mut record = good.clone();
        record[name] = value;
        record
    };
    for (record, want) in [
        (with("task", json!("../t")), "task: is no name"),
        (with("context", json!(" ")), "context: is empty"),
        (with("choices", json!(["a"])), "choices: are not two"),
        (with("gold", json!(2)), "gold: is no place"),
        (with("answer", json!("a")), "one of the two is needed"),
        (json!({"task": "t"}), "missing field `context`"),
    ] {
        fs::write(&file, format!("{good}\n{record}\n")).unwrap();
        let error = tasks([&file]).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains(want), "{error}");
    }
    fs::write(&file, "").unwrap();
    assert!(tasks([&file]).unwrap_err().to_string().contains("holds no document"));
    fs::write(&file, format!("{good}\n{good}\n")).unwrap();
    assert_eq!(tasks([&file, &file]).unwrap()[3].place, 3);
    let says = json!({"task": "t", "context": "c", "answer": "a"});
    fs::write(&file, format!("{good}\n{says}\n")).unwrap();
    let error = tasks([&file]).unwrap_err().to_string();
    assert!(error.contains("differ from those of the task"), "{error}");
}
