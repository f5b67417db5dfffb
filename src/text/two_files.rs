//! A vocabulary and its merges in two files, converted to a `tokenizer.json`.
//!
//! `vocab.json` (or `encoder.json`) maps pieces to ids, `merges.txt` (or `vocab.bpe`) lists pairs
//! in the order in which they merge: byte-level BPE (Radford et al. 2019). How a text is parted
//! before that is the class's ([`super::class`]); `added.rs` adds the tokens of other files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::class::Rules;
use super::sources::{MAX_BYTES, Sources, object};
use crate::base::file::read_text;
use crate::base::{Error, Result};

const NAMES: [(&str, &str); 2] = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];

/// The paths of the two files, if the folder holds them.
pub(super) fn find(dir: &Path) -> Option<[PathBuf; 2]> {
    let paths = NAMES.map(|(vocab, merges)| [dir.join(vocab), dir.join(merges)]);
    paths.into_iter().find(|both| both.iter().all(|path| path.is_file()))
}

/// The two files as a `tokenizer.json` without added tokens.
///
/// # Errors
/// One of the files cannot be read, or has another format.
pub(super) fn describe(
    [vocab, merges]: &[PathBuf; 2],
    rules: &Rules,
    sources: &Sources,
) -> Result<Value> {
    let (vocab, merges) = (object(vocab)?, pairs(merges)?);
    let (normalizer, pre_tokenizer) = rules.pipeline(sources)?;
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                       "use_regex": true});
    Ok(json!({
        "version": "1.0", "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

/// A post-processor that puts these tokens around every text.
pub(super) fn surround(before: Option<(&str, u32)>, after: Option<(&str, u32)>) -> Value {
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let around = |id: &str| {
        let before = before.map(|(token, _)| special(token));
        let after = after.map(|(token, _)| special(token));
        before.into_iter().chain([text(id)]).chain(after).collect::<Vec<_>>()
    };
    let mut tokens = serde_json::Map::new();
    for (token, id) in before.into_iter().chain(after) {
        tokens.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    let (single, pair) = (around("A"), [around("A"), around("B")].concat());
    json!({"type": "TemplateProcessing", "single": single, "pair": pair,
           "special_tokens": tokens})
}

fn pairs(path: &Path) -> Result<Vec<(String, String)>> {
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
