//! `incise trace`: what it writes, and what it refuses.

use std::fs;

use serde_json::{Value, json as value};

use crate::support::session::{Session, done, fails, json};

const ASKED: [&str; 4] = ["--prompt", "Big Ben is in", "--subject", "Big Ben"];

#[test]
fn a_prompt_is_traced_into_numbers_and_heat_maps() {
    let s = Session::new("gpt2");
    let (model, dir) = (s.at("model"), s.at("traced"));
    let trace = |more: &[&str]| {
        let fixed = ["trace", &model, "--samples", "2", "--noise", "0.5", "--window", "2"];
        json(&[&fixed[..], &ASKED, more, &["--json"]].concat())
    };
    let printed = trace(&["-o", &dir]);
    let text = fs::read_to_string(format!("{dir}/trace.json")).unwrap();
    let mut kept: Value = serde_json::from_str(&text).unwrap();
    assert!(printed["seconds"].as_f64().unwrap() > 0.0);
    kept["seconds"] = printed["seconds"].clone();
    assert_eq!(kept, printed);
    let tokens = printed["tokens"].as_array().unwrap().len();
    let [start, end] = [0, 1].map(|i| printed["subject_tokens"][i].as_u64().unwrap());
    for kind in ["hidden", "mlp", "attention"] {
        assert_eq!(printed["ie"][kind].as_array().unwrap().len(), tokens);
        let svg = fs::read_to_string(format!("{dir}/{kind}.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("Effect on p("), "{svg}");
        assert_eq!(svg.matches("*\n</text>").count() as u64, end - start, "{svg}");
    }
    assert_eq!(printed["noise"], value!({"level": "0.5", "nu": 0.5, "seed": 1}));
    let other = trace(&["--seed", "1"]);
    assert_eq!((&other["p_high"], &other["noise"]["seed"]), (&printed["p_high"], &value!(2)));
    assert_ne!(other["p_low"], printed["p_low"]);
    assert_eq!(trace(&["-o", &dir])["ie"], printed["ie"]); // an older trace is replaced
}

#[test]
fn known_facts_are_averaged_and_others_skipped() {
    let s = Session::new("llama-tied");
    let (model, file, dir) = (s.at("model"), s.at("known.json"), s.at("traced"));
    let asked = [&["trace", &model][..], &ASKED, &["--noise", "0.5", "--json"]].concat();
    let says = json(&asked)["answer"]["text"].clone();
    let known = |attribute: &Value| {
        let prompt = "Big Ben is in";
        value!({"subject": "Big Ben", "attribute": attribute, "prompt": prompt})
    };
    let facts = value!([known(&says), known(&value!("Atlantis")), {"prompt": "?"}]);
    fs::write(&file, facts.to_string()).unwrap();
    let found = json(&["trace", &model, "--known", &file, "-o", &dir, "--json"]);
    assert_eq!([&found["facts"], &found["skipped"]], [1, 1], "{says}");
    assert_eq!(found["noise"]["level"], "s3");
    let first = &found["aie"]["mlp"]["subject_last"];
    assert_eq!((&first["n"], first["standard_error"][0].is_null()), (&value!(1), true));
    let lines = fs::read_to_string(format!("{dir}/facts.jsonl")).unwrap();
    let fact: Value = serde_json::from_str(lines.trim_end()).unwrap();
    let last = fact["subject_tokens"][1].as_u64().unwrap() as usize - 1;
    assert_eq!(first["mean"], fact["ie"]["mlp"][last]);
    assert!(done(&["trace", &model, "--known", &file]).contains("1 fact traced"));
    fs::write(&file, value!([known(&value!("Atlantis"))]).to_string()).unwrap();
    let error = fails(1, &["trace", &model, "--known", &file]);
    assert!(error.contains("after no prompt of the file"), "{error}");
}

#[test]
fn what_cannot_be_traced_is_refused() {
    let s = Session::new("gpt2");
    let (model, dir) = (s.at("model"), s.at("traced"));
    fails(2, &["trace", &model]);
    fails(2, &["trace", &model, "--prompt", "Big Ben is in"]);
    fails(2, &[&["trace", &model][..], &ASKED, &["--known", "f"]].concat());
    fails(2, &[&["trace", &model][..], &ASKED, &["--samples", "0"]].concat());
    fails(2, &[&["trace", &model][..], &ASKED, &["--noise", "s-1"]].concat());
    let other = ["trace", &model, "--prompt", "Big Ben is in", "--subject", "Paris"];
    assert!(fails(1, &other).contains("does not contain the subject"));
    fs::create_dir(&dir).unwrap();
    fs::write(format!("{dir}/trace.json"), "notes").unwrap();
    let error = fails(1, &[&["trace", &model][..], &ASKED, &["-o", &dir]].concat());
    assert!(error.contains("stands there already and is no trace"), "{error}");
}
