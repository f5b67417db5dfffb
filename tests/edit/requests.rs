//! What `incise edit` does with records that differ from what it expects: it names them, goes on
//! without them, or says how it reads them.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use incise::store::Patch;
use serde_json::Value;

use crate::data::forms::FILES;
use crate::support::session::{Session, done, fails, incise, json, strs, text};
use crate::support::shared::shared;

/// A session with statistics and these requests.
fn with(records: &[Value]) -> Session {
    let s = Session::new("gpt2");
    s.stats();
    let lines: String = records.iter().map(|r| format!("{r}\n")).collect();
    fs::write(s.at("requests.jsonl"), lines).unwrap();
    s
}

/// The arguments of a MEMIT edit.
fn memit(s: &Session, more: &[&str]) -> Vec<String> {
    let set = ["--set", "layers=[0,1]", "--set", "mom2_update_weight=20"];
    let mut args = s.edit(&[&set, more].concat());
    let at = args.iter().position(|a| a == "r-rome").unwrap();
    args[at] = "memit".into();
    args
}

fn report(s: &Session) -> Vec<Value> {
    let lines = fs::read_to_string(s.at("patch.safetensors.report.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Standard output and standard error of an edit that succeeds.
fn said(args: &[String]) -> (String, String) {
    let out = incise(&strs(args));
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    (text(&out.stdout).to_owned(), text(&out.stderr).to_owned())
}

fn fact(id: &str, prompt: &str, subject: &str) -> Value {
    serde_json::json!({"id": id, "prompt": prompt, "subject": subject, "target_new": "Paris"})
}

/// One sound record, and one of every way to be broken.
fn mixed() -> Vec<Value> {
    let long = "a very long prompt ".repeat(6) + "{} is in";
    vec![
        fact("good", "{} is in", "Big Ben"),
        fact("absent", "Big Ben is in", "The sea"),
        fact("inside", "Romeo is in", "Rome"),
        fact("good", "{} is in", "The sea"),
        serde_json::json!({"id": "untold", "prompt": "{} is in", "subject": "The sea"}),
        fact("long", &long, "Big Ben"),
    ]
}

#[test]
fn broken_records_stop_an_edit_or_are_skipped() {
    let s = with(&mixed());
    let error = fails(1, &strs(&memit(&s, &[])));
    for words in [
        "requests.jsonl: 5 broken records: line 2: prompt: ",
        "line 3: prompt: \"Romeo is in\" has the subject \"Rome\" only inside other words; ",
        "line 4: id: ",
        "line 5: target_new: is missing",
        "record `long`: ",
        "go on without what is broken (--on-broken skip)",
    ] {
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    let (told, warned) = said(&memit(&s, &["--on-broken", "skip", "--json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((told["facts"].as_array().unwrap().len(), &told["skipped"]), (1, &5.into()));
    assert!(warned.contains("5 broken records skipped: `absent`, line 2: "), "{warned}");
    let lines = report(&s);
    let skipped: Vec<(&str, &str)> = lines[1..]
        .iter()
        .map(|l| (l["id"].as_str().unwrap(), l["skipped"].as_str().unwrap()))
        .collect();
    let ids: Vec<&str> = skipped.iter().map(|(id, _)| *id).collect();
    assert_eq!((lines.len(), ids), (6, vec!["absent", "inside", "good", "untold", "long"]));
    assert!(skipped[4].1.contains("the model's context is 97"), "{skipped:?}");

    // The patch is that of the sound record alone, and the next run may replace the report.
    let patch = fs::read(s.at("patch.safetensors")).unwrap();
    fs::write(s.at("requests.jsonl"), mixed()[0].to_string()).unwrap();
    done(&strs(&memit(&s, &[])));
    assert!(fs::read(s.at("patch.safetensors")).unwrap() == patch);
}

/// A prompt that is too long stops nothing but itself, and its error says which text is at fault.
#[test]
fn a_prompt_longer_than_the_context_is_one_broken_record() {
    let s = with(&[mixed()[0].clone(), mixed()[5].clone()]);
    let error = fails(1, &strs(&memit(&s, &[])));
    let tokens = "record `long`: ";
    assert!(error.contains(tokens) && error.contains("the model's context is 97"), "{error}");
    assert!(error.contains("shorten the text"), "{error}");
    let contexts =
        serde_json::json!([["{}"], [format!("{}. {{}}", "Too long ".repeat(12))]]).to_string();
    fs::write(s.at("contexts.json"), contexts).unwrap();
    let error = fails(1, &strs(&memit(&s, &["--without", "long"])));
    for words in ["after the context \"Too long", "shorter contexts", "--contexts FILE"] {
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn records_are_withdrawn_whether_or_not_they_are_broken() {
    let s = with(&mixed()[..3]);
    done(&strs(&memit(&s, &["--dry-run", "--without", "absent", "inside"])));
    let error = fails(1, &strs(&memit(&s, &["--dry-run", "--without", "absent"])));
    assert!(error.contains("line 3: prompt"), "{error}");
    let error = fails(1, &strs(&memit(&s, &["--without", "nobody"])));
    assert!(error.contains("no request has the id `nobody`"), "{error}");
}

#[test]
fn nothing_left_is_an_error() {
    let s = with(&mixed()[1..3]);
    let error = fails(1, &strs(&memit(&s, &["--on-broken", "skip"])));
    assert!(error.contains("2 broken records: line 1") && !error.contains("go on"), "{error}");
    let s = with(&mixed()[5..]);
    let error = fails(1, &strs(&memit(&s, &["--on-broken", "skip"])));
    assert!(error.contains("record `long`") && !error.contains("go on"), "{error}");
}

/// Not even by asking for something else.
#[test]
fn a_broken_record_contradicts_no_other() {
    let mut long = fact("long", "{} is in", "Big Ben");
    long["target_new"] = "a very long target ".repeat(6).into();
    let s = with(&[fact("first", "{} is in", "Big Ben"), long]);
    let (told, _) = said(&memit(&s, &["--on-broken", "skip", "--dry-run", "--json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["facts"], &told["skipped"]), (&1.into(), &1.into()));
}

#[test]
fn one_fact_may_be_said_without_a_subject() {
    let s = with(&[]);
    let mut args = memit(&s, &["--json", "--prompt", "The sea is in", "--to", "Paris"]);
    args.retain(|a| !a.ends_with("requests.jsonl"));
    let (told, warned) = said(&args);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["facts"].as_array().unwrap().len(), 1);
    assert!(warned.contains("the whole prompt is the subject"), "{warned}");
    args.extend(["--prompt".to_owned(), "{} is in".to_owned()]);
    let twice = args.iter().position(|a| a == "--prompt").unwrap();
    args.drain(twice..twice + 2);
    assert!(fails(1, &strs(&args)).contains("subject: is missing"), "{args:?}");
}

/// A record that vanishes takes nobody's place.
#[test]
fn a_broken_record_replaces_no_other() {
    let long = "a very long target ".repeat(6);
    let mut last = fact("last", "{} is in", "Big Ben");
    last["target_new"] = long.into();
    let s = with(&[fact("first", "{} is in", "Big Ben"), last]);
    said(&memit(&s, &["--on-broken", "skip", "--on-conflict", "last"]));
    let lines = report(&s);
    assert_eq!((&lines[0]["id"], &lines[1]["id"]), (&"first".into(), &"last".into()));
    assert!(lines[0]["superseded_by"].is_null() && !lines[1]["skipped"].is_null());
}

#[test]
fn requests_come_from_a_pipe() {
    let s = with(&[fact("a", "{} is in", "Big Ben")]);
    let piped = |lines: &str, more: &[&str]| {
        let mut args = memit(&s, more);
        args[2] = "-".into();
        let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
        command.args(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let lines = fs::read_to_string(s.at("requests.jsonl")).unwrap();
    let dry = piped(&lines, &["--dry-run"]);
    assert!(text(&dry.stdout).contains("1 fact"), "{}", text(&dry.stderr));
    done(&strs(&memit(&s, &[])));
    let patch = fs::read(s.at("patch.safetensors")).unwrap();
    fs::remove_file(s.at("patch.safetensors")).unwrap();
    assert!(piped(&lines, &[]).status.success());
    assert!(fs::read(s.at("patch.safetensors")).unwrap() == patch);
    let broken = piped("{\"prompt\": 1}", &[]);
    assert_eq!(broken.status.code(), Some(1));
    let error = text(&broken.stderr);
    assert!(error.contains("standard input: line 1: prompt: is a number"), "{error}");
}

/// The seam decides the target's tokens, so it decides the patch; it is recorded where it is set.
#[test]
fn the_space_before_a_target_may_be_left_out() {
    let s = with(&[fact("a", "{} is in", "Big Ben")]);
    let patch = |more: &[&str]| {
        done(&strs(&memit(&s, more)));
        let patch = Patch::read(s.at("patch.safetensors").as_ref()).unwrap();
        (patch.metadata.requests, patch.metadata.notes["space"].clone(), report(&s)[0].clone())
    };
    let (plain, note, line) = patch(&[]);
    assert_eq!(note, Value::Null);
    let (all, note, without) = patch(&["--no-space"]);
    assert_eq!((&all, note), (&plain, serde_json::json!(false)));
    assert_ne!(line["value_change"], without["value_change"]);
    let mut record = fact("a", "{} is in", "Big Ben");
    record["space"] = false.into();
    fs::write(s.at("requests.jsonl"), record.to_string()).unwrap();
    let (one, _, same) = patch(&[]);
    assert_ne!(one, plain);
    assert_eq!(same["value_change"], without["value_change"]);
    // What a record says holds against what is said of all.
    record["space"] = true.into();
    fs::write(s.at("requests.jsonl"), record.to_string()).unwrap();
    assert_eq!(patch(&["--no-space"]).2["value_change"], line["value_change"]);

    let (_, warned) = said(&memit(&s, &["--dry-run"]));
    assert!(!warned.contains("together than apart"), "{warned}");
    record = fact("a", "{} is in ", "Big Ben");
    fs::write(s.at("requests.jsonl"), record.to_string()).unwrap();
    let (_, warned) = said(&memit(&s, &["--dry-run"]));
    for words in ["1 fact, a (Big Ben) first: ", "together than apart", "end the prompt at a word"]
    {
        assert!(warned.contains(words), "{warned:?} does not say {words:?}");
    }
}

/// Without a subject a fact is read at its prompt's last token, as `fact_token: last` reads all.
#[test]
fn facts_without_a_subject_are_read_at_their_last_token() {
    let bare = serde_json::json!({"id": "bare", "prompt": "Big Ben is in", "target_new": "Paris"});
    for method in ["memit", "r-rome"] {
        let s = with(std::slice::from_ref(&bare));
        let args = |more: &[&str]| match method {
            "memit" => memit(&s, more),
            _ => s.edit(more),
        };
        let (_, warned) = said(&args(&[]));
        assert!(
            warned.contains("1 fact, bare (Big Ben is in) first: the whole prompt"),
            "{warned}"
        );
        let whole = report(&s)[0].clone();
        assert_eq!(whole["token"], " in", "{method}");
        let named = fact("named", "{} is in", "Big Ben");
        fs::write(s.at("requests.jsonl"), named.to_string()).unwrap();
        let (_, warned) = said(&args(&["--set", "fact_token=last"]));
        assert!(!warned.contains("the whole prompt"), "{warned}");
        let last = report(&s)[0].clone();
        assert_eq!(last["lookup"], whole["lookup"]);
        let patch = Patch::read(s.at("patch.safetensors").as_ref()).unwrap();
        assert_eq!(patch.metadata.hyperparameters["fact_token"], "last");
        done(&strs(&args(&[])));
        let subject = report(&s)[0].clone();
        assert_ne!(subject["lookup"], last["lookup"]);
        assert_ne!(subject["value_change"], last["value_change"]);
    }
}

/// Where the template is at fault, the record is not what has to change.
#[test]
fn a_template_that_alters_messages_is_named() {
    let s = with(&[fact("a", "{} & the sea is in", "Big Ben"), fact("b", "{} is in", "Big Ben")]);
    let template = "Asked: {{ messages[0].content | replace('&', 'and') }}\nSaid:";
    fs::write(s.at("model/chat_template.jinja"), template).unwrap();
    let error = fails(1, &strs(&memit(&s, &["--chat"])));
    for words in ["requests.jsonl: record `a`: chat_template.jinja: ", "without --chat"] {
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    assert!(!error.contains("change the record"), "{error}");
    let (told, _) = said(&memit(&s, &["--chat", "--on-broken", "skip", "--json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["skipped"], 1);
}

/// Every public file of requests, on a model whose context holds 256 tokens.
#[test]
fn the_real_files_are_ready_to_be_edited() {
    const NAME: &str = "the_real_files_are_ready_to_be_edited";
    let Some(model) = shared(NAME, "factlm-gpt2") else { return };
    let s = Session::new("gpt2");
    fs::write(s.at("contexts.json"), r#"[["{}"]]"#).unwrap();
    let (model, hparams) = (model.display().to_string(), model.join("memit.json"));
    for &(name, [requests, ..], broken) in FILES {
        let Some(path) = shared(NAME, name) else { continue };
        let mut args = s.edit(&["--dry-run", "--on-broken", "skip", "--on-conflict", "last"]);
        args[1..3].clone_from_slice(&[model.clone(), path.display().to_string()]);
        args.retain(|arg| arg != "--stats" && *arg != s.at("stats"));
        for more in ["--json", "--set", "mom2_adjustment=false", "--set", "layers=[2]"] {
            args.push(more.to_owned());
        }
        let at = args.iter().position(|arg| arg == "--hparams").unwrap();
        args[at + 1] = hparams.display().to_string();
        let said = json(&strs(&args));
        let count = |field: &str| said[field].as_u64().unwrap() as usize;
        assert_eq!(count("facts") + count("superseded"), requests, "{name}: {said}");
        assert_eq!(count("skipped"), broken.len(), "{name}");
    }
}
