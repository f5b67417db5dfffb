//! Folders of every layout: the ids that transformers gives, recorded by `tools/layouts.py`, or a
//! refusal by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use incise::base::Rng;
use incise::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    vocab: Value,
    merges: Vec<(String, String)>,
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, String>,
    ids: Option<Vec<Vec<u32>>>,
    refused: Option<Vec<String>>,
    /// Why our ids are not the framework's.
    own: Option<String>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/layouts.json")).unwrap()
}

impl Golden {
    /// Writes the files of a case.
    fn write(&self, dir: &Path, files: &BTreeMap<String, String>) {
        for (name, text) in files {
            let text = match &text[..] {
                "(vocab)" => self.vocab.to_string(),
                "(merges)" => self.merges.iter().map(|(a, b)| format!("{a} {b}\n")).collect(),
                text => text
                    .replace("\"(vocab)\"", &self.vocab.to_string())
                    .replace("\"(merges)\"", &json!(self.merges).to_string()),
            };
            fs::write(dir.join(name), text).unwrap();
        }
    }

    /// The folder of two files with one more.
    fn open_with(&self, file: &str, text: &str) -> Result<Tokenizer, String> {
        let two = [("vocab.json", "(vocab)"), ("merges.txt", "(merges)"), (file, text)];
        self.open(&two.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
    }

    fn open(&self, files: &BTreeMap<String, String>) -> Result<Tokenizer, String> {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path(), files);
        Tokenizer::open(dir.path()).map_err(|e| e.to_string())
    }
}

#[test]
fn ids_are_the_frameworks_or_the_folder_is_refused_by_name() {
    let golden = golden();
    let mut wrong = vec![];
    for case in &golden.cases {
        let opened = golden.open(&case.files);
        let complaint = match (&case.refused, opened) {
            (Some(words), Err(error)) if words.iter().all(|word| error.contains(word)) => None,
            (Some(words), Err(error)) => Some(format!("{error} does not say {words:?}")),
            (Some(_), Ok(_)) => Some("is not refused".to_owned()),
            (None, Err(error)) => Some(error),
            (None, Ok(tok)) => {
                let ids: Vec<_> = golden.texts.iter().map(|t| tok.encode(t).unwrap()).collect();
                let same = Some(&ids) == case.ids.as_ref();
                let differs = golden.texts.iter().zip(&ids).zip(case.ids.iter().flatten());
                let first = differs.filter(|((_, a), b)| a != b).map(|x| format!("{x:?}")).next();
                let warned = tok.difference.is_some();
                let right = same == case.own.is_none() && warned == case.own.is_some();
                (!right).then(|| format!("same {same}, warned {warned}: {first:?}"))
            }
        };
        wrong.extend(complaint.map(|complaint| format!("{}: {complaint}", case.name)));
    }
    assert!(golden.cases.len() > 80);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn odd_files_are_refused_by_name_and_do_not_panic() {
    let golden = golden();
    for (file, text, words) in [
        ("tokenizer_config.json", "", "tokenizer_config.json: line"),
        ("tokenizer_config.json", "[]", "is not a JSON object"),
        ("tokenizer_config.json", r#"{"bos_token": 3}"#, "bos_token: 3 is no token"),
        ("tokenizer_config.json", r#"{"eos_token": {"lstrip": true}}"#, "eos_token"),
        ("tokenizer_config.json", r#"{"add_bos_token": "yes"}"#, "add_bos_token: \"yes\""),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": []}"#, "added_tokens_decoder"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {}}}"#, "x: {} is no token"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"5": "x"}}"#, "is no token"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"-1": {"content": "x"}}}"#, "-1"),
        ("tokenizer_config.json", r#"{"extra_special_tokens": 5}"#, "extra_special_tokens: 5"),
        ("tokenizer_config.json", r#"{"additional_special_tokens": [[]]}"#, "[] is no token"),
        ("tokenizer_config.json", r#"{"extra_special_tokens": {"a": 1}}"#, "1 is no token"),
        ("tokenizer_config.json", r#"{"add_prefix_space": 1}"#, "add_prefix_space"),
        ("added_tokens.json", r#"{"x": "y"}"#, "added_tokens.json: x"),
        ("added_tokens.json", r#"{"x": 99999999999}"#, "added_tokens.json: x"),
        ("added_tokens.json", r#"{"": 289}"#, "has no id"),
        ("special_tokens_map.json", r#"{"pad_token": []}"#, "special_tokens_map.json: pad_token"),
        ("config.json", "nothing", "config.json: line 1"),
    ] {
        let opened = golden.open_with(file, text);
        let error = opened.err().unwrap_or_else(|| panic!("{text} is not refused"));
        assert!(error.contains(words), "{text}: {error}");
    }
    for (file, text) in [
        ("tokenizer_config.json", r#"{"tokenizer_class": 7, "auto_map": null, "eos_token": ""}"#),
        ("tokenizer_config.json", r#"{"additional_special_tokens": ["a", "a", null, ""]}"#),
        ("tokenizer_config.json", r#"{"fast_tokenizer_files": {}, "added_tokens_decoder": null}"#),
        ("special_tokens_map.json", r#"{"other": 5, "unk_token": null}"#),
    ] {
        let tok = golden.open_with(file, text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(!tok.encode("a 2023").unwrap().is_empty());
    }
}

/// What stands in a folder that was cloned without its large files.
#[test]
fn pointers_to_large_files_are_named() {
    let golden = golden();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n";
    for file in ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        let opened = golden.open_with(file, pointer);
        let error = opened.err().unwrap_or_else(|| panic!("{file} is not refused"));
        assert!(error.contains(file) && error.contains("git lfs pull"), "{error}");
    }
}

/// Replaces a value of some depth by an odd one.
fn replace(value: &mut Value, draw: &mut impl FnMut(usize) -> usize) {
    let inner: Vec<&mut Value> = match value {
        Value::Object(fields) => fields.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => vec![],
    };
    let n = inner.len();
    if n > 0 && draw(4) > 0 {
        let at = draw(n);
        return replace(inner.into_iter().nth(at).unwrap(), draw);
    }
    let odd = [json!(null), json!(-1), json!(4e9), json!(""), json!("<x>"), json!([]), json!({})];
    *value = odd[draw(odd.len())].clone();
}

/// Values of JSON files replaced at random: a refusal or a tokenizer, and no panic.
#[test]
fn broken_values_are_refused_and_do_not_panic() {
    let golden = golden();
    let mut rng = Rng::new(14, "layouts");
    let mut draw = |n: usize| (rng.bits() % n as u64) as usize;
    let mut opened = 0;
    for i in 0..600 {
        let mut files = golden.cases[i % golden.cases.len()].files.clone();
        let mut json: Vec<_> = files.iter_mut().filter(|(_, text)| text.starts_with('{')).collect();
        let at = draw(json.len());
        let text = &mut *json[at].1;
        let mut value: Value = serde_json::from_str(text).unwrap();
        replace(&mut value, &mut draw);
        *text = value.to_string();
        if let Ok(tok) = golden.open(&files) {
            opened += usize::from(tok.encode("a <x> 2023").is_ok());
        }
    }
    assert!((50..600).contains(&opened), "{opened} of 600 opened: the rest is refused");
}
