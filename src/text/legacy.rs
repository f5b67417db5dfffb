//! GPT-2's two tokenizer files, converted to a `tokenizer.json`.
//!
//! `vocab.json` (or `encoder.json`) maps pieces to ids, `merges.txt` (or `vocab.bpe`) lists pairs
//! in the order in which they merge: byte-level BPE (Radford et al. 2019). Special tokens,
//! `add_bos_token` (OPT) and `add_prefix_space` come from `tokenizer_config.json`; without that
//! file, the special token is GPT-2's `<|endoftext|>`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::base::file::{read_file, read_text};
use crate::base::{Error, Result};

/// Maximum size of a tokenizer's file; the largest have some thirty million bytes.
pub(super) const MAX_BYTES: u64 = 1 << 28;
const NAMES: [(&str, &str); 2] = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];

/// The vocabulary's path and the whole tokenizer as JSON, if the folder holds the two files.
///
/// # Errors
/// One of the files cannot be read, or has another format.
pub fn describe(dir: &Path) -> Result<Option<(PathBuf, Value)>> {
    let paths = NAMES.map(|(vocab, merges)| (dir.join(vocab), dir.join(merges)));
    let Some((vocab_path, merges_path)) =
        paths.into_iter().find(|(vocab, merges)| vocab.is_file() && merges.is_file())
    else {
        return Ok(None);
    };
    let vocab = object(&vocab_path)?;
    let merges = merges(&merges_path)?;
    let config_path = dir.join("tokenizer_config.json");
    let config = if config_path.is_file() { object(&config_path)? } else { json!({}) };

    let name = |field: &str| {
        let token = &config[field];
        token.as_str().or(token["content"].as_str()).map(str::to_string)
    };
    let mut special: Vec<String> =
        ["bos_token", "eos_token", "unk_token", "pad_token"].into_iter().filter_map(name).collect();
    if special.is_empty() {
        special.push("<|endoftext|>".to_string());
    }
    special.sort();
    special.dedup();
    let added: Vec<Value> = special
        .iter()
        .filter(|token| vocab[token.as_str()].is_u64())
        .map(|token| {
            json!({"id": vocab[token.as_str()], "content": token, "special": true,
                   "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let post_processor = if config["add_bos_token"] == true {
        let bos = name("bos_token").unwrap_or_else(|| "<|endoftext|>".to_string());
        if !vocab[bos.as_str()].is_u64() {
            return Err(Error::input(
                config_path,
                "bos_token",
                format!("{bos:?} is not in {}", vocab_path.display()),
                "take both files from the same tokenizer",
            ));
        }
        starts_with(&bos, &vocab[bos.as_str()])
    } else {
        Value::Null
    };
    let prefix = config["add_prefix_space"] == true;
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": false,
                       "use_regex": true});
    let description = json!({
        "version": "1.0", "added_tokens": added, "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": post_processor, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    Ok(Some((vocab_path, description)))
}

/// A post-processor that puts one token before every text.
fn starts_with(token: &str, id: &Value) -> Value {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let mut tokens = serde_json::Map::new();
    tokens.insert(token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
    json!({"type": "TemplateProcessing", "single": [special, text("A")],
           "pair": [special, text("A"), special, text("B")], "special_tokens": tokens})
}

fn object(path: &Path) -> Result<Value> {
    let bytes = read_file(path, MAX_BYTES)?;
    let remedy = "copy the file again from the model's source";
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| {
        Error::input(path, format!("line {}", e.line()), format!("is not JSON: {e}"), remedy)
    })?;
    if !value.is_object() {
        return Err(Error::input(path, "line 1", "is not a JSON object", remedy));
    }
    Ok(value)
}

fn merges(path: &Path) -> Result<Vec<(String, String)>> {
    let text = read_text(path, MAX_BYTES)?;
    let mut merges = vec![];
    for (i, line) in text.lines().enumerate() {
        if line.is_empty() || (i == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => merges.push((a.to_string(), b.to_string())),
            _ => {
                return Err(Error::input(
                    path,
                    format!("line {}", i + 1),
                    format!("{line:?} is not two pieces with a space between them"),
                    "copy the file again from the model's source",
                ));
            }
        }
    }
    Ok(merges)
}
