//! How a byte-level vocabulary of a GGUF file parts a text before it merges: a row for each way,
//! with the names that `tokenizer.ggml.pre` may have for it.
//!
//! llama.cpp has the names, and the patterns in its own dialect (`llama-vocab.cpp`); here are the
//! steps of the tokenizers that the models were published with, which give the same ids, but where
//! those compose characters first and llama.cpp does not. Of its names those of the families that
//! are implemented are here. `default` is of files that do not say how: the reference framework
//! parts by GPT-2's pattern then, and so do we, while llama.cpp has a pattern of its own.

use serde_json::{Value, json};

/// A way of parting texts.
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    split: Split,
    /// Whether characters are composed first (NFC).
    pub nfc: bool,
    /// Whether a piece that is in the vocabulary is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether a text begins with the token for it where the file does not say.
    pub adds_bos: bool,
}

enum Split {
    /// By GPT-2's pattern.
    Gpt2,
    /// Each digit, then by GPT-2's pattern.
    DigitsThenGpt2,
    /// Punctuation, then by GPT-2's pattern, then three digits at a time.
    Falcon,
    /// By this pattern.
    Pattern(&'static str),
}

const PLAIN: PreTokenizer = PreTokenizer {
    names: &["default", "gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "exaone4"],
    split: Split::Gpt2,
    nfc: false,
    ignore_merges: false,
    adds_bos: false,
};

/// Words with their contractions apart, numbers of up to three digits.
const THREES: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

static WAYS: [PreTokenizer; 8] = [
    PLAIN,
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"],
        split: Split::DigitsThenGpt2,
        ..PLAIN
    },
    PreTokenizer { names: &["command-r"], split: Split::DigitsThenGpt2, nfc: true, ..PLAIN },
    PreTokenizer { names: &["falcon"], split: Split::Falcon, ..PLAIN },
    PreTokenizer {
        names: &["llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"],
        split: Split::Pattern(THREES),
        ignore_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        split: Split::Pattern(THREES),
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"],
        split: Split::Pattern(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )),
        nfc: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["tekken"],
        split: Split::Pattern(concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )),
        ignore_merges: true,
        adds_bos: true,
        ..PLAIN
    },
];

/// The way of that name.
pub(super) fn named(name: &str) -> Option<&'static PreTokenizer> {
    WAYS.iter().find(|way| way.names.contains(&name))
}

/// The names there are.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    WAYS.iter().flat_map(|way| way.names).copied()
}

impl PreTokenizer {
    /// As `tokenizer.json` writes it.
    pub fn json(&self) -> Value {
        let bytes = |pattern: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": pattern})
        };
        let split = |pattern: &str| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                   "invert": false})
        };
        let steps = match self.split {
            Split::Gpt2 => return bytes(true),
            Split::DigitsThenGpt2 => {
                vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)]
            }
            Split::Falcon => vec![
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                bytes(true),
                split("[0-9][0-9][0-9]"),
            ],
            Split::Pattern(pattern) => vec![split(pattern), bytes(false)],
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}
