//! Tiny tokenizers of the kinds that checkpoints have, as `tokenizer.json` texts.

use std::collections::BTreeMap;

use incise::text::Tokenizer;
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// GPT-2's kind: every byte a piece, and the merges that make each of `words` one token. A word is
/// written in the piece alphabet: "Ġis" for " is".
pub fn byte_level_json(words: &[&str]) -> Value {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort();
    let pieces = alphabet.into_iter().map(String::from);
    let (vocab, merges) = vocabulary(pieces.chain(["<|endoftext|>".to_string()]), words);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(256, "<|endoftext|>")],
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

/// Llama 2's kind: a normaliser that puts "▁" before the text, no pre-tokeniser, byte fallback, and
/// a post-processor that adds a beginning of sequence.
pub fn sentencepiece_json(words: &[&str]) -> Value {
    let bytes = (0..=255).map(|b| format!("<0x{b:02X}>"));
    let letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,'é".chars();
    let pieces = ["<unk>", "<s>", "</s>"].map(String::from).into_iter();
    let (vocab, merges) = vocabulary(pieces.chain(bytes).chain(letters.map(String::from)), words);
    let replace = |from: &str, to: &str| -> Value {
        json!({"type": "Replace", "pattern": {"String": from}, "content": to})
    };
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers":
            [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text("A")],
            "pair": [bos, text("A"), text("B")],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": merges},
    })
}

/// Newer SentencePiece conversions: the same, with a Metaspace pre-tokeniser for the normaliser.
pub fn metaspace_json(words: &[&str]) -> Value {
    let mut json = sentencepiece_json(words);
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
        "prepend_scheme": "first", "split": false});
    json
}

pub fn byte_level(words: &[&str]) -> Tokenizer {
    build(&byte_level_json(words))
}

pub fn sentencepiece(words: &[&str]) -> Tokenizer {
    build(&sentencepiece_json(words))
}

pub fn metaspace(words: &[&str]) -> Tokenizer {
    build(&metaspace_json(words))
}

pub fn build(json: &Value) -> Tokenizer {
    Tokenizer::from_json("toy.json", json.to_string().as_bytes()).unwrap()
}

fn special(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

type Vocabulary = (BTreeMap<String, usize>, Vec<(String, String)>);

/// Ids in the order of `pieces`, then those that merging each word letter by letter makes.
fn vocabulary(pieces: impl Iterator<Item = String>, words: &[&str]) -> Vocabulary {
    let mut vocab: BTreeMap<String, usize> = pieces.enumerate().map(|(i, p)| (p, i)).collect();
    let mut merges = vec![];
    for word in words {
        let mut left = String::new();
        for letter in word.chars() {
            let next = format!("{left}{letter}");
            if !vocab.contains_key(&next) {
                vocab.insert(next.clone(), vocab.len());
                merges.push((left, letter.to_string()));
            }
            left = next;
        }
    }
    (vocab, merges)
}
