//! Patches into GGUF files on the command line.

use std::fs;

use crate::model::gguf::small;
use crate::support::session::{Session, done, fails, json, strs, text, with};

/// A session whose model is an import of a file in a folder of its own, and that file.
fn imported() -> (Session, String) {
    let s = Session::new("llama");
    fs::remove_dir_all(s.at("model")).unwrap();
    fs::create_dir(s.at("served")).unwrap();
    let file = s.at("served/x.gguf");
    fs::write(&file, small().bytes()).unwrap();
    done(&["import", &file, "-o", &s.at("model")]);
    s.stats();
    done(&strs(&s.edit(&[])));
    (s, file)
}

#[test]
fn an_edit_goes_into_the_file_and_out_again() {
    let (s, file) = imported();
    let (patch, stats) = (s.at("patch.safetensors"), s.at("stats"));
    let before = fs::read(&file).unwrap();
    let words = ["apply", &file, &patch, "--stats", &stats];
    let out = s.at("copy.gguf");
    let said = done(&[&words[..], &["-o", &out]].concat());
    for part in ["blk.1.ffn_down.weight (F32): ‖Δ‖/‖W‖ ", "text pays ", " of 1 fact taken"]
    {
        assert!(said.contains(part), "{said}");
    }
    let shown = json(&[&words[..], &["--in-place", "--json"]].concat());
    let fact = &shown["facts"][0];
    assert_eq!((&fact["prompt"], &fact["target_new"]), (&"Big Ben is in".into(), &"Paris".into()));
    assert!(fact["p_target"].as_f64().is_some() && fact["taken"].is_boolean(), "{fact}");
    assert_eq!(shown["tensors"][0]["keys"], 1);
    let edited = fs::read(&file).unwrap();
    assert!(edited != before && edited == fs::read(&out).unwrap());
    assert!(done(&["log", &file]).contains("1 fact by r-rome  model.layers.1.mlp.down_proj"));
    // The target of the report, or of a file that is named.
    fs::remove_file(s.at("patch.safetensors.report.jsonl")).unwrap();
    let why = fails(1, &[&words[..], &["-o", &s.at("other.gguf")]].concat());
    assert!(why.contains("report: is not there") && why.contains("--requests FILE"), "{why}");
    assert!(done(&["undo", &file]).contains("undone 1: 1 fact by r-rome"));
    assert_eq!(fs::read(&file).unwrap(), before);
    let asked = ["-o", &s.at("other.gguf"), "--requests", &s.at("requests.jsonl")];
    assert!(done(&[&words[..], &asked].concat()).contains(" of 1 fact taken"));
}

#[test]
fn what_is_given_to_the_wrong_model() {
    let (s, file) = imported();
    let (patch, model) = (s.at("patch.safetensors"), s.at("model"));
    let why = fails(1, &["apply", &model, &patch, "--in-place", "--other-base"]);
    assert!(why.contains("other_base is for GGUF files alone"), "{why}");
    let stats = s.at("stats");
    let on_input = ["apply", &file, &patch, "--stats", &stats, "-o", &file];
    assert!(fails(1, &on_input).contains("would be written over what the command reads"));
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 2000..].iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
    fs::write(&file, &bytes).unwrap();
    done(&["apply", &file, &patch, "--stats", &stats, "--in-place", "--other-base"]);
}

/// What keeps the file from being asked is found before a byte is written; and nobody has to ask.
#[test]
fn what_cannot_be_asked_is_not_written() {
    let (s, file) = imported();
    let (patch, stats) = (s.at("patch.safetensors"), s.at("stats"));
    let before = fs::read(&file).unwrap();
    let words = ["apply", &file, &patch, "--stats", &stats, "--in-place"];
    let nowhere = [("TMPDIR", "/nonexistent")];
    let out = with(&nowhere, &words);
    assert!(text(&out.stderr).contains("cannot make a folder in"), "{}", text(&out.stderr));
    assert_eq!(fs::read(&file).unwrap(), before);
    let out = with(&nowhere, &[&words[..], &["--no-ask"]].concat());
    assert!(out.status.success() && !text(&out.stdout).contains(" taken"));
    assert_ne!(fs::read(&file).unwrap(), before);
}
