//! Broken files, one test a delta: each is refused by name, and nothing is written.

use std::fs;
use std::path::Path;

use incise::store::{Delta, Patch};
use serde_json::{Value, json};

use crate::support::session::{Session, done, fails, incise, strs, text};

/// The command fails in these words, and with no panic.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let error = fails(1, args);
    assert!(error.lines().last().unwrap().starts_with("incise: "), "{error}");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn a_truncated_or_empty_checkpoint() {
    let s = Session::new("gpt2");
    let whole = s.weights("model");
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(s.at("model/model.safetensors"), &whole[..len]).unwrap();
        let model = s.at("model");
        refused(&["inspect", &model], &["model.safetensors: ", "fetch or write it again"]);
        refused(&["generate", &model, "--prompt", "a"], &["model.safetensors: "]);
    }
    fs::write(s.at("model/config.json"), "").unwrap();
    refused(&["inspect", &s.at("model")], &["config.json: JSON", "fetch or write"]);
    fs::remove_file(s.at("model/config.json")).unwrap();
    refused(&["inspect", &s.at("model")], &["config.json: cannot read"]);
}

#[test]
fn an_index_that_names_a_missing_shard() {
    let s = Session::new("gpt2-bf16");
    fs::remove_file(s.at("model/model-00002-of-00002.safetensors")).unwrap();
    refused(&["inspect", &s.at("model")], &["model-00002-of-00002.safetensors", "fetch that file"]);
}

/// A tokenizer of another model: its ids are beyond the embedding.
/// A token that every text begins with, and the model does not have.
#[test]
fn a_beginning_that_is_not_in_the_vocabulary() {
    let s = Session::new("gpt2");
    let path = s.at("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut token = tokenizer["added_tokens"][0].clone();
    (token["id"], token["content"]) = (json!(307), json!("<new>"));
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single = json!([{"SpecialToken": {"id": "<new>", "type_id": 0}}, text]);
    let special = json!({"<new>": {"id": "<new>", "ids": [307], "tokens": ["<new>"]}});
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": single,
        "pair": single, "special_tokens": special});
    fs::write(&path, tokenizer.to_string()).unwrap();
    let words = ["tokenizer: puts \"<new>\" around every text", "307", "vocabulary of 307"];
    refused(&["generate", &s.at("model"), "--prompt", "The sea"], &words);
    refused(&strs(&s.edit(&[])), &words);
}

#[test]
fn a_tokenizer_that_does_not_match_the_vocabulary() {
    let s = Session::new("gpt2");
    s.stats();
    let path = s.at("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for id in tokenizer["model"]["vocab"].as_object_mut().unwrap().values_mut() {
        *id = json!(id.as_u64().unwrap() + 1000);
    }
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        token["id"] = json!(token["id"].as_u64().unwrap() + 1000);
    }
    fs::write(&path, tokenizer.to_string()).unwrap();
    let (model, corpus, out) = (s.at("model"), s.at("corpus.txt"), s.at("out"));
    let words = ["is not in the model's vocabulary of 307", "use the tokenizer.json that belongs"];
    refused(&["generate", &model, "--prompt", "The sea"], &words);
    refused(&["logits", &model, "--prompts", &corpus, "-o", &out], &words);
    assert!(!Path::new(&out).exists());
    refused(&["stats", &model, "--layers", "0", "--corpus", &corpus, "-o", &out], &words);
    refused(&strs(&s.edit(&[])), &words);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "no statistics, whole or in progress");
    assert!(!Path::new(&s.at("patch.safetensors")).exists());
    fs::write(&path, "{").unwrap();
    refused(&["generate", &model, "--prompt", "The sea"], &["tokenizer.json: line 1", "JSON"]);
}

#[test]
fn request_files_with_broken_lines() {
    let s = Session::new("gpt2");
    s.stats();
    let good = fs::read_to_string(s.at("requests.jsonl")).unwrap();
    for (line, words) in [
        ("{\"prompt\": \"{} is", "line 2: is not JSON"),
        ("7", "line 2: is a number"),
        (r#"{"prompt": "It is", "subject": "x", "target_new": "y"}"#, "line 2: prompt"),
        (r#"{"prompt": "{} or {}", "subject": "x", "target_new": "y"}"#, "has 2 places {}"),
        (r#"{"prompt": "{} is", "subject": " ", "target_new": "y"}"#, "line 2: subject"),
        (r#"{"prompt": "{} is", "subject": "x"}"#, "line 2: target_new: is missing"),
    ] {
        fs::write(s.at("requests.jsonl"), format!("{good}{line}\n")).unwrap();
        refused(&strs(&s.edit(&[])), &["requests.jsonl", words]);
    }
    fs::write(s.at("requests.jsonl"), "").unwrap();
    refused(&strs(&s.edit(&[])), &["requests.jsonl", "holds no request"]);
    assert!(!Path::new(&s.at("patch.safetensors")).exists());
}

/// The normaliser takes the subject's characters away.
#[test]
fn a_subject_that_vanishes_in_tokenisation() {
    let s = Session::new("gpt2");
    s.stats();
    let path = s.at("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["normalizer"] =
        json!({"type": "Replace", "pattern": {"Regex": "[★☆]"}, "content": ""});
    fs::write(&path, tokenizer.to_string()).unwrap();
    let record = |subject: &str, target: &str| {
        let record = json!({"id": "s7", "prompt": "{} is", "subject": subject,
                            "target_new": target});
        fs::write(s.at("requests.jsonl"), record.to_string()).unwrap();
    };
    record("★☆★", "red");
    refused(&strs(&s.edit(&[])), &["record `s7`", "leaves nothing of the subject"]);
    record("Mars", "☆");
    refused(&strs(&s.edit(&[])), &["record `s7`", "leaves nothing of the target"]);
    assert!(!Path::new(&s.at("patch.safetensors")).exists());
}

#[test]
fn statistics_of_another_model() {
    let (s, other) = (Session::new("gpt2"), Session::new("gpt2"));
    let path = other.at("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["layer_norm_epsilon"] = json!(1e-3);
    fs::write(&path, config.to_string()).unwrap();
    other.stats();
    let stats = other.at("stats");
    fs::create_dir(s.at("stats")).unwrap();
    refused(&strs(&s.edit(&["--set", "layers=[1]"])), &["layer-1.safetensors", "incise stats"]);
    let mut args = s.edit(&[]);
    let at = args.iter().position(|a| a == "--stats").unwrap();
    args[at + 1] = stats;
    refused(&strs(&args), &["layer-1.safetensors: model: is of the model"]);
}

/// OPT's ReLU neurons that never fire: C is singular whatever the number of tokens, the ridge is
/// said, and the edit is made of numbers.
#[test]
fn dead_relu_neurons() {
    let s = Session::new("opt");
    let path = s.at("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let checkpoint = incise::store::Checkpoint::open(Path::new(&s.at("model"))).unwrap();
    let name = checkpoint.names().find(|n| n.ends_with("layers.1.fc1.bias")).unwrap();
    let (_, entry) = checkpoint.entry(name).unwrap();
    let range = entry.range.start as usize..entry.range.end as usize;
    for bias in bytes[range].chunks_exact_mut(2).step_by(3) {
        bias.copy_from_slice(&half::f16::from_f32(-6e4).to_le_bytes());
    }
    drop(checkpoint);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    s.stats();
    let edited = incise(&strs(&s.edit(&[])));
    let warned = text(&edited.stderr);
    assert!(edited.status.success(), "{warned}");
    assert!(warned.contains("is singular, so ") && warned.contains("never fire"), "{warned}");
    let patch = Patch::read(Path::new(&s.at("patch.safetensors"))).unwrap();
    let Delta::LowRank { right, .. } = &patch.changes[0].delta else { panic!("no low rank") };
    assert!(right.iter().all(|x| x.is_finite()) && right.iter().any(|&x| x != 0.0));
    assert!(right.iter().step_by(3).all(|&x| x == 0.0), "a dead neuron takes no part");
}

/// Weights with a NaN that the search meets: no patch.
#[test]
fn not_a_number_in_the_weights() {
    let s = Session::new("gpt2");
    s.stats();
    let path = s.at("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let checkpoint = incise::store::Checkpoint::open(Path::new(&s.at("model"))).unwrap();
    let names: Vec<_> = checkpoint.names().filter(|n| n.ends_with("ln_f.weight")).collect();
    let (_, entry) = checkpoint.entry(names[0]).unwrap();
    let at = entry.range.start as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    drop(checkpoint);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    // Statistics know nothing of the last norm, but the model is another one by its fingerprint.
    refused(&strs(&s.edit(&["--set", "mom2_adjustment=false"])), &["NaN", "step 0"]);
    refused(&["generate", &s.at("model"), "--prompt", "a"], &["not finite", "NaN"]);
    let (model, prompts, out) = (s.at("model"), s.at("corpus.txt"), s.at("logits.safetensors"));
    let logits = ["logits", &model, "--prompts", &prompts, "-o", &out];
    refused(&logits, &["corpus.txt: the logits of line 1 are not finite", "NaN"]);
    assert!(!Path::new(&out).exists());
    assert!(!Path::new(&s.at("patch.safetensors")).exists());
}

#[test]
fn a_patch_that_is_broken() {
    let s = Session::new("gpt2");
    s.stats();
    done(&strs(&s.edit(&[])));
    let (model, patch) = (s.at("model"), s.at("patch.safetensors"));
    let (whole, weights) = (fs::read(&patch).unwrap(), s.weights("model"));
    for len in [0, 8, whole.len() / 2, whole.len() - 1] {
        fs::write(&patch, &whole[..len]).unwrap();
        refused(&["apply", &model, &patch, "--in-place"], &["patch.safetensors: "]);
        refused(&["apply", &model, &patch, "-o", &s.at("copy")], &["patch.safetensors: "]);
    }
    refused(&["apply", &model, &s.at("corpus.txt"), "--in-place"], &["corpus.txt: "]);
    assert_eq!(s.weights("model"), weights);
    assert!(!Path::new(&s.at("copy")).exists());
}

/// Opening a pipe would wait for its writer for ever.
#[test]
fn a_pipe_in_the_place_of_the_weights() {
    let s = Session::new("gpt2");
    let path = s.at("model/model.safetensors");
    fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success(), "mkfifo: {made}");
    refused(&["inspect", &s.at("model")], &["model.safetensors: file: is a folder, a pipe"]);
}

/// The same of every file that is read whole; and a file that no one wrote by hand ends somewhere.
#[test]
fn a_pipe_or_an_endless_file_in_the_place_of_an_input() {
    let s = Session::new("gpt2");
    s.stats();
    let inputs = ["requests.jsonl", "contexts.json", "hparams.json", "model/tokenizer.json"];
    for name in inputs.into_iter().chain(["model/config.json"]) {
        let (path, kept) = (s.at(name), s.at("kept"));
        fs::rename(&path, &kept).unwrap();
        if name != "model/tokenizer.json" {
            let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success(), "mkfifo: {made}");
            refused(&strs(&s.edit(&[])), &[name, "file: is a folder, a pipe"]);
            fs::remove_file(&path).unwrap();
        }
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(); // no block of it is there
        refused(&strs(&s.edit(&[])), &[name, "size: has more than"]);
        fs::rename(&kept, &path).unwrap();
    }
    fs::remove_file(s.at("contexts.json")).unwrap();
    refused(&strs(&s.edit(&[])), &["contexts.json: cannot read", "check the name"]);
}

/// Two models with one journal would each undo what was changed in the other.
#[test]
fn a_journal_that_is_a_link() {
    let (s, other) = (Session::new("gpt2"), Session::new("gpt2"));
    s.stats();
    done(&strs(&s.edit(&[])));
    fs::create_dir(other.at("model/.incise")).unwrap();
    std::os::unix::fs::symlink(other.at("model/.incise"), s.at("model/.incise")).unwrap();
    let (model, patch) = (s.at("model"), s.at("patch.safetensors"));
    for args in [
        vec!["apply", &model, &patch, "--in-place"],
        vec!["undo", &model],
        vec!["log", &model],
        vec!["inspect", &model],
    ] {
        refused(&args, &[".incise: journal: is no folder of its own"]);
    }
    assert_eq!(fs::read_dir(other.at("model/.incise")).unwrap().count(), 0);
}

#[test]
fn no_token_to_count() {
    let s = Session::new("gpt2");
    let (model, corpus, out) = (s.at("model"), s.at("corpus.txt"), s.at("out"));
    let args = ["stats", &model, "--layers", "1", "--corpus", &corpus, "-o", &out];
    let error = fails(2, &[&args[..], &["--max-tokens", "0"]].concat());
    assert!(error.contains("--max-tokens"), "{error}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_layer_out_of_range() {
    let s = Session::new("gpt2");
    s.stats();
    refused(&strs(&s.edit(&["--set", "layers=[3]"])), &["layers", "3"]);
    let (model, corpus, out) = (s.at("model"), s.at("corpus.txt"), s.at("out"));
    let args = ["stats", &model, "--layers", "2-3", "--corpus", &corpus, "-o", &out];
    refused(&args, &["no layer 3", "0 to 2"]);
    assert!(!Path::new(&out).exists());
}
