//! `incise eval`, `ask`, `compare` and `merge` of what they leave.

use std::fs;

use serde_json::{Value, json as value};

use crate::support::session::{Session, done, fails, json};

/// Records with a true target each, a paraphrase and a neighbour.
fn records(s: &Session) -> String {
    let file = s.at("records.json");
    let record = |i: usize, subject: &str, new: &str| {
        value!({"case_id": i, "requested_rewrite": {"prompt": "{} is in", "subject": subject,
            "target_new": {"str": new}, "target_true": {"str": "England"}},
            "paraphrase_prompts": [format!("You find {subject} in")],
            "neighborhood_prompts": ["London is in"]})
    };
    let all = [record(0, "Big Ben", "Rome"), record(1, "The Tower", "Paris")];
    fs::write(&file, value!([all[0], all[1], record(2, "The Thames", "France")]).to_string())
        .unwrap();
    file
}

fn summary(dir: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(format!("{dir}/summary.json")).unwrap()).unwrap()
}

const METHOD: [&str; 8] =
    ["--method", "ft-m", "--set", "layers=[0]", "--set", "num_steps=3", "--metrics", "counterfact"];

#[test]
fn edits_are_measured_kept_and_held_against_each_other() {
    let s = Session::new("gpt2");
    let (model, file) = (s.at("model"), records(&s));
    let eval = |dir: &str, more: &[&str]| {
        let fixed = ["eval", &model, "--data", &file, "-o", dir];
        done(&[&fixed[..], more].concat())
    };
    let [plain, single, upon] = ["plain", "single", "upon"].map(|name| s.at(name));
    eval(&plain, &["--metrics", "counterfact"]);
    eval(&single, &METHOD);
    let hparams = s.at("hparams.json");
    let rome = ["--method", "rome", "--hparams", &hparams, "--set", "mom2_adjustment=false"];
    let upon_another = ["--mode", "sequential", "--checkpoints", "1", "--metrics", "counterfact"];
    eval(&upon, &[rome, upon_another].concat());
    let [before, after] = [&plain, &single].map(|dir| summary(dir)["metrics"].clone());
    assert_eq!(before["counterfact.es"]["mean"], after["counterfact.es"]["before"]);
    assert_eq!(after["counterfact.es"]["n"], 3);
    assert_eq!(summary(&upon)["cases"], 3);
    let results = fs::read_to_string(format!("{upon}/results.jsonl")).unwrap();
    assert_eq!(results.lines().count(), 4);

    // Cut off within a line: that case alone is measured again, with the same result.
    let file_of = format!("{single}/results.jsonl");
    let whole = fs::read_to_string(&file_of).unwrap();
    fs::write(&file_of, &whole[..whole.len() - 5]).unwrap();
    eval(&single, &METHOD);
    let without_time = |text: &str| -> Vec<Value> {
        let line = |line| -> Value {
            let mut result: Value = serde_json::from_str(line).unwrap();
            result["seconds"].take();
            result
        };
        text.lines().map(line).collect()
    };
    let again = fs::read_to_string(&file_of).unwrap();
    assert_eq!(without_time(&again), without_time(&whole));

    let compared = json(&["compare", &single, &upon, "--json"]);
    assert_eq!(compared["cases"], 3);
    assert!(fs::read_to_string(format!("{single}/report.html")).unwrap().contains("Big Ben"));
    fails(
        1,
        &[&["eval", &model, "--data", &file, "-o", &single, "--seed", "5"][..], &METHOD].concat(),
    );
}

#[test]
fn shares_make_the_whole() {
    let s = Session::new("gpt2");
    let (model, file) = (s.at("model"), records(&s));
    let eval = |dir: &str, more: &[&str]| {
        done(&[&["eval", &model, "--data", &file, "-o", dir], &METHOD[..], more].concat());
    };
    let [all, first, second, joined] = ["all", "0", "1", "joined"].map(|name| s.at(name));
    eval(&all, &[]);
    eval(&first, &["--shard", "0/2"]);
    let missing = fails(1, &["merge", &first, &first, "-o", &joined]);
    assert!(missing.contains("comes twice"), "{missing}");
    eval(&second, &["--shard", "1/2"]);
    done(&["merge", &second, &first, "-o", &joined]);
    let [joined, all] = [joined, all].map(|dir| summary(&dir));
    for name in ["metrics", "cases", "taken", "by_probability"] {
        assert_eq!(joined[name], all[name], "{name}");
    }
}

#[test]
fn what_a_model_says_before_and_after_stands_side_by_side() {
    let s = Session::new("gpt2");
    let (model, file, patch) = (s.at("model"), records(&s), s.at("a.patch"));
    let edit = ["edit", &model, &file, "--method", "ft-m", "--set", "layers=[0]", "-o", &patch];
    done(&edit);
    let prompts = s.at("prompts.txt");
    fs::write(&prompts, "Big Ben is in\nYou find Big Ben in\n").unwrap();
    let said = json(&["ask", &model, "--patch", &patch, "--prompts", &prompts, "--json"]);
    assert_eq!(said["answers"].as_array().unwrap().len(), 2, "{said}");
}

/// Text and tasks are measured where all is edited, stay when the run is called again, and are made
/// again where their file was lost.
#[test]
fn tasks_are_answered_before_and_after() {
    let s = Session::new("gpt2");
    let (model, file, out) = (s.at("model"), records(&s), s.at("with-task"));
    let [task, text] = ["task.jsonl", "text.txt"].map(|name| s.at(name));
    let choices = value!({"task": "towns", "context": "Big Ben is in", 
        "choices": ["Rome", "England"], "gold": 0});
    let says =
        value!({"task": "says", "context": "Big Ben is in", "answer": "Rome", "max_tokens": 3});
    fs::write(&task, format!("{choices}\n{says}\n")).unwrap();
    fs::write(&text, "London is in England and Rome is in Italy\n").unwrap();
    let more = ["--task", &task, "--text", &text, "-o", &out];
    let eval = [&["eval", &model, "--data", &file][..], &METHOD, &more].concat();
    let refused = fails(1, &eval);
    assert!(refused.contains("edited apart"), "{refused}");
    let eval = [&eval[..], &["--mode", "batch"]].concat();
    done(&eval);
    let first = summary(&out);
    for name in ["task.towns.acc", "task.says.exact_match", "text.perplexity", "drift.kl"] {
        assert!(first["metrics"][name]["before"].is_number(), "{name}: {first}");
    }
    let sample = |which: &str| -> Value {
        let file = format!("{out}/samples/{which}/samples_towns_incise.jsonl");
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    };
    let [before, after] = ["unedited", "edited"].map(sample);
    assert_eq!(before["doc"], choices);
    assert_ne!(before["resps"], after["resps"]);
    done(&eval);
    assert_eq!(summary(&out)["metrics"], first["metrics"]);
    fs::remove_file(format!("{out}/tasks.jsonl")).unwrap();
    done(&eval);
    assert_eq!(summary(&out)["metrics"], first["metrics"]);

    let alone = s.at("task-alone");
    done(&["eval", &model, "--task", &task, "-o", &alone]);
    assert_eq!(
        summary(&alone)["metrics"]["task.towns.acc"]["mean"],
        first["metrics"]["task.towns.acc"]["before"]
    );
}
