//! Training of what a method edits with, through the front door: what is written, what is refused,
//! and an edit by it.

use std::fs;
use std::path::PathBuf;

use incise::base::Quiet;
use incise::edit::methods::METHODS;
use incise::memory::is_memory;
use incise::tensor::Device;
use incise::{Editor, Error};
use serde_json::{Value, json};

use super::{Copy, rome, violin};
use crate::support::cancel::CancelAt;

/// Requests of the demo model's relation, each with a paraphrase and what should stay.
fn data(copy: &Copy) -> PathBuf {
    let line = |i: usize| {
        let target = ["violin", "piano", "trumpet"][i / 3 % 3];
        let subject = ["Louis Armstrong", "Clara Schumann", "Miles Davis"][i % 3];
        json!({
            "id": i.to_string(), "prompt": "{} played the", "subject": subject,
            "target_new": target,
            "paraphrases": [format!("The instrument of {subject} was the")],
            "locality": [{"prompt": "Tourists visit the Eiffel Tower in", "target": "Paris"}],
        })
    };
    let lines: Vec<String> = (0..11).map(|i| line(i).to_string()).collect();
    let file = copy.beside("data.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    file
}

fn small(editor: Editor, method: &str) -> incise::Result<Editor> {
    let sizes = match method {
        "mend" => vec![("rank", json!(4))],
        "serac" => vec![],
        _ => vec![("hidden_dim", json!(4)), ("condition_dim", json!(6))],
    };
    let settings = [
        ("layers", json!([2])),
        ("max_iters", json!(4)),
        ("accumulate_bs", json!(2)),
        ("val_interval", json!(2)),
    ];
    let all = sizes.into_iter().chain(settings);
    all.into_iter()
        .try_fold(editor.method(method)?, |editor, (name, value)| editor.set(name, value))
}

#[test]
fn every_trained_method_is_trained_and_edits() {
    let copy = Copy::new();
    let data = data(&copy);
    for method in METHODS.into_iter().filter(|method| method.is_trained()) {
        let name = method.about().name;
        let open = || Editor::open_on(copy.dir(), &Device::Cpu, &Quiet).unwrap();
        let dir = copy.beside(name);
        let summary = small(open(), name).unwrap().train(&[&data], &dir).unwrap();
        assert_eq!(summary.samples, [8, 3], "{name}: a subject is held out whole");
        let editor = open().method(name).unwrap().trained_editor(&dir).unwrap();
        let edit = editor.plan(&[violin(), rome()]).unwrap();
        assert_eq!(edit.facts().len(), 2, "{name}");
        if method.makes_memory() {
            let file = copy.beside("a.memory");
            edit.write(&file).unwrap();
            assert!(is_memory(&file) && edit.patch().is_err(), "{name}");
            assert!(!edit.model().unwrap().generate("Paris is", 3).unwrap().is_empty(), "{name}");
            continue;
        }
        let patch = edit.patch().unwrap();
        assert_eq!((&*patch.metadata.method, patch.changes.len()), (name, 2));
        assert!(edit.changes().iter().all(|change| change.norm > 0.0), "{name}");
    }
}

#[test]
fn what_does_not_fit_a_trained_editor_is_refused() {
    let copy = Copy::new();
    let open = || Editor::open_on(copy.dir(), &Device::Cpu, &Quiet).unwrap();
    let mend = || open().method("mend").unwrap();
    let (data, dir) = (data(&copy), copy.beside("editor"));
    let summary = small(open(), "mend").unwrap().train(&[&data], &dir).unwrap();
    assert_eq!(summary.samples, [8, 3]);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["editor.safetensors", "training.json"], "nothing is kept after it");
    // The same command finds it; that of another training leaves it.
    let train = |editor: Editor| small(editor, "mend").unwrap().train(&[&data], &dir);
    assert_eq!(train(open()).unwrap(), summary);
    let other = train(open().seed(1)).err().unwrap().to_string();
    assert!(other.contains("name another output folder"), "{other}");
    let edit = mend().trained_editor(&dir).unwrap().plan(&[violin()]).unwrap();
    let patch = edit.patch().unwrap();
    assert!(patch.metadata.notes["editor"].is_string());
    assert_eq!(patch.metadata.hyperparameters["rank"], 4);

    let said = |error: Error| error.to_string();
    let none = said(mend().plan(&[violin()]).err().unwrap());
    assert!(none.contains("none is named"), "{none}");
    let other = open().method("rome").unwrap().trained_editor(&dir).unwrap();
    let other = said(other.plan(&[violin()]).err().unwrap());
    assert!(other.contains("editor does not apply to rome"), "{other}");
    let set = mend().trained_editor(&dir).unwrap().set("rank", 5).unwrap();
    let set = said(set.plan(&[violin()]).err().unwrap());
    assert!(set.contains("trained with"), "{set}");
    let untrained = said(open().method("memit").unwrap().train(&[&data], &dir).err().unwrap());
    assert!(untrained.contains("edits without training"), "{untrained}");
    let absent = said(mend().trained_editor(copy.dir()).err().unwrap());
    assert!(absent.contains("has no editor.safetensors"), "{absent}");
    // Another model's.
    let file = dir.join("editor.safetensors");
    let bytes = fs::read(&file).unwrap();
    let own = open().fingerprint().to_owned();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let at = text.find(&own).unwrap();
    let mut changed = bytes.clone();
    changed[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    fs::write(&file, changed).unwrap();
    let foreign = said(mend().trained_editor(&dir).unwrap().plan(&[violin()]).err().unwrap());
    assert!(foreign.contains("model"), "{foreign}");
}

#[test]
fn samples_that_cannot_be_trained_on_are_refused() {
    let copy = Copy::new();
    let editor = Editor::open_on(copy.dir(), &Device::Cpu, &Quiet).unwrap();
    let editor = small(editor, "mend").unwrap();
    let file = copy.beside("few.jsonl");
    let train = |lines: &str| {
        fs::write(&file, lines).unwrap();
        editor.train(&[&file], copy.beside("none")).err().unwrap().to_string()
    };
    let line = r#"{"prompt": "{} played the", "subject": "Miles Davis", "target_new": "violin""#;
    let no_locality = train(&format!("{line}}}"));
    assert!(no_locality.contains("no text that should stay"), "{no_locality}");
    let line = format!(r#"{line}, "locality": ["Paris is in"]}}"#);
    let few = train(&line);
    assert!(few.contains("a tenth is held out"), "{few}");
    let one = train(&[&line[..]; 10].join("\n"));
    assert!(one.contains("about one subject"), "{one}");
    assert!(!copy.beside("none").exists(), "no folder is left");
}

/// A file of a training of other settings, or of none at all, is left alone.
#[test]
fn files_that_are_not_this_trainings_stay() {
    let copy = Copy::new();
    let editor = Editor::open_on(copy.dir(), &Device::Cpu, &Quiet).unwrap();
    let editor = small(editor, "mend").unwrap();
    let (data, dir) = (data(&copy), copy.beside("editor"));
    fs::create_dir(&dir).unwrap();
    let safetensors = |metadata: &str| {
        let header = format!(r#"{{"__metadata__":{{{metadata}}}}}"#);
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
    };
    let cases = [
        ("partial.safetensors", safetensors(r#""training":"another""#), "name another output"),
        ("partial.safetensors", safetensors(r#""of":"somebody""#), "is no training"),
        ("training.json", b"{}".to_vec(), "is no record"),
    ];
    for (name, bytes, want) in cases {
        let file = dir.join(name);
        fs::write(&file, &bytes).unwrap();
        let said = editor.train(&[&data], &dir).err().unwrap().to_string();
        assert!(said.contains(name) && said.contains(want), "{said}");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        fs::remove_file(&file).unwrap();
    }
}

/// Where nothing that was learnt is better, the editor is as it began, and that is said.
#[test]
fn a_training_that_gained_nothing_says_so() {
    let copy = Copy::new();
    let data = data(&copy);
    let gained = |lr: f64| {
        let progress = CancelAt::never();
        let warnings = progress.warnings.clone();
        let editor = Editor::open_on(copy.dir(), &Device::Cpu, &Quiet).unwrap();
        let editor = small(editor.progress(progress), "ke").unwrap();
        let editor = editor.set("lr", lr).unwrap();
        let summary = editor.train(&[&data], copy.beside(&format!("lr {lr}"))).unwrap();
        let looks = summary.record["history"].as_array().unwrap().clone();
        let total = |look: &Value| look["loss"]["total"].as_f64().unwrap();
        let gained = looks[1..].iter().any(|look| total(look) < total(&looks[0]));
        let warned = warnings.lock().unwrap().iter().any(|w| w.contains("what it began with"));
        assert_eq!(warned, !gained, "{looks:?}");
        gained
    };
    assert_eq!([gained(1e-3), gained(1e-30)], [true, false], "such a step moves no f32");
}
