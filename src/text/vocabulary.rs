//! A vocabulary as GGUF files have it, to the `tokenizer.json` and `tokenizer_config.json` of a
//! checkpoint folder.
//!
//! ```text
//! byte-level      pieces in the letters of bytes, and the merges in their order
//! SentencePiece   pieces with ▁ for a space, bytes as <0x0A>, and a score each; merges follow:
//!                 (a, b) for every cut of a piece into two pieces, the better score first, of one
//!                 score the longer a, then the longer b
//! ```
//!
//! Which of a text's pieces merge first is by rank in one and by score in the other, so both are
//! byte-pair merging (Sennrich, Haddow and Birch 2016). Gemma's scores do not follow its merges and
//! its ids do, so its pieces are ranked by these. Control tokens and those a user defined are added
//! tokens: they are found in a text before it is parted.
//!
//! Source: the reference framework's reading of GGUF files (transformers 5.23), and llama.cpp.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::pre_tokenizers;
use super::two_files::surround;

/// What a file says of its vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level, `llama` SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`, of a byte-level one.
    pub pre: Option<String>,
    /// How spaces become `▁`, of a SentencePiece one.
    pub spaces: Spaces,
    /// The pieces by their ids.
    pub tokens: Vec<String>,
    /// A score a piece, of a SentencePiece one.
    pub scores: Vec<f32>,
    /// A type a piece; none is like all normal.
    pub types: Vec<i64>,
    /// Pairs with a space between them.
    pub merges: Option<Vec<String>>,
    /// Special tokens by their names in a configuration, `bos_token` and the like.
    pub special: Vec<(&'static str, u64)>,
    /// Whether a text begins with `bos_token`, if the file says it.
    pub add_bos: Option<bool>,
    /// Whether it ends with `eos_token`.
    pub add_eos: bool,
    /// Whether a SentencePiece text begins with a space, if the file says it.
    pub add_space: Option<bool>,
    /// Jinja.
    pub chat_template: Option<String>,
    /// The longest text, in tokens.
    pub longest: Option<u64>,
}

/// How spaces become `▁`, and which pieces merge first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spaces {
    /// One before a text; by score.
    #[default]
    Llama,
    /// The same, put before what is there already.
    Phi3,
    /// None before a text; by id.
    Gemma,
}

/// Types of pieces, as `tokenizer.ggml.token_type` numbers them.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What is wrong with a vocabulary: the key, without `tokenizer.ggml.`, and what.
pub type VocabularyFault = (&'static str, String);

type Parts = std::result::Result<Value, VocabularyFault>;

impl Vocabulary {
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// A kind of vocabulary or of pre-tokenizer that is not implemented; lists of other lengths;
    /// merges that are none, ids outside of it.
    pub fn tokenizer_json(&self) -> Parts {
        self.check()?;
        let mut description = match &*self.model {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece()?,
            other => {
                let what = format!("`{other}` is not implemented, only gpt2 and llama are");
                return Err(("model", what));
            }
        };
        let around = |on: bool, name: &str| self.named(name).filter(|_| on);
        let bos = around(self.adds_bos(), "bos_token");
        let eos = around(self.add_eos, "eos_token");
        description["version"] = "1.0".into();
        description["truncation"] = Value::Null;
        description["padding"] = Value::Null;
        description["added_tokens"] = self.added().into();
        description["post_processor"] = surround(bos, eos);
        Ok(description)
    }

    /// `tokenizer_config.json`. The class is the one that takes `tokenizer.json` for what it is.
    pub fn tokenizer_config(&self) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.adds_bos() && self.named("bos_token").is_some(),
            "add_eos_token": self.add_eos && self.named("eos_token").is_some(),
            "clean_up_tokenization_spaces": false,
        });
        for (name, _) in &self.special {
            config[*name] = self.named(name).map(|(token, _)| token).into();
        }
        if let Some(template) = &self.chat_template {
            config["chat_template"] = (&**template).into();
        }
        if let Some(longest) = self.longest {
            config["model_max_length"] = longest.into();
        }
        config
    }

    fn check(&self) -> std::result::Result<(), VocabularyFault> {
        let n = self.tokens.len();
        for (key, len) in [("scores", self.scores.len()), ("token_type", self.types.len())] {
            if len != 0 && len != n {
                return Err((key, format!("has {len} values for {n} tokens")));
            }
        }
        // Others that are outside are of no use, and nobody asks for them.
        let added = |name: &str| match name {
            "bos_token" => self.adds_bos(),
            "eos_token" => self.add_eos,
            _ => false,
        };
        let outside = |(name, id): &&(&str, u64)| added(name) && *id >= n as u64;
        match self.special.iter().find(outside) {
            Some((name, id)) => Err(("tokens", format!("{name} is {id}, and there are {n}"))),
            None if n == 0 => Err(("tokens", "are none".into())),
            None => Ok(()),
        }
    }

    /// A special token and its id.
    fn named(&self, name: &str) -> Option<(&str, u32)> {
        let &(_, id) = self.special.iter().find(|(own, _)| *own == name)?;
        Some((self.tokens.get(id as usize)?, u32::try_from(id).ok()?))
    }

    /// llama.cpp's default depends on the vocabulary.
    fn adds_bos(&self) -> bool {
        let pre = self.pre.as_deref().and_then(pre_tokenizers::named);
        let default = match &*self.model {
            "llama" => true,
            _ => pre.is_some_and(|pre| pre.adds_bos),
        };
        self.add_bos.unwrap_or(default)
    }

    /// The tokens that are found before a text is parted.
    fn added(&self) -> Vec<Value> {
        let each = self.spelled().zip(&self.types).enumerate();
        let added = each.filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(*kind));
        // A run of spaces is a piece like others once it is spelled with ▁.
        let added = added.filter(|(id, (spelled, _))| *spelled == self.tokens[*id]);
        let token = |(id, (content, kind)): (usize, (String, &i64))| {
            json!({"id": id, "content": content, "special": *kind == CONTROL, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        };
        added.map(token).collect()
    }

    /// The pieces as the merges spell them: Gemma's files have runs of spaces as they are.
    fn spelled(&self) -> impl Iterator<Item = String> {
        let respelled = self.model == "llama" && self.spaces == Spaces::Gemma;
        self.tokens.iter().map(move |token| {
            let spaces = respelled && token.contains(' ') && token.trim().is_empty();
            if spaces { "▁".repeat(token.chars().count()) } else { token.clone() }
        })
    }

    fn byte_level(&self) -> Parts {
        let name = self.pre.as_deref().unwrap_or("default");
        let pre = pre_tokenizers::named(name).ok_or_else(|| {
            let known: Vec<&str> = pre_tokenizers::names().collect();
            ("pre", format!("`{name}` is not implemented; there are {}", known.join(", ")))
        })?;
        let merges = self.merges.as_ref();
        let merges = pairs(merges.ok_or_else(|| ("merges", "is missing".to_owned()))?)?;
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                           "use_regex": true});
        Ok(json!({
            "normalizer": if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": pre.json(),
            "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.ignore_merges,
                "vocab": self.vocab(), "merges": merges,
            },
        }))
    }

    fn sentence_piece(&self) -> Parts {
        let merges = match &self.merges {
            Some(merges) => pairs(merges)?,
            None => self.merges_of_scores()?,
        };
        let space = self.add_space.unwrap_or(true);
        let replace = |from: &str, to: &str| {
            let pattern = json!({"String": from});
            json!({"type": "Replace", "pattern": pattern, "content": to})
        };
        let steps = |kind: &str, list: &str, steps: Vec<Value>| json!({"type": kind, list: steps});
        let (normalizer, pre_tokenizer, strips) = match self.spaces {
            Spaces::Gemma => (replace(" ", "▁"), Value::Null, false),
            Spaces::Phi3 => {
                let prepend = json!({"type": "Prepend", "prepend": "▁"});
                let all = vec![prepend, replace(" ", "▁")];
                (steps("Sequence", "normalizers", all), Value::Null, true)
            }
            Spaces::Llama => {
                let scheme = if space { "first" } else { "never" };
                let metaspace = json!({"type": "Metaspace", "replacement": "▁",
                                       "prepend_scheme": scheme, "split": false});
                (Value::Null, metaspace, space)
            }
        };
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let decoders =
            [replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let decoders = decoders.into_iter().chain(strips.then_some(strip)).collect();
        let unknown = self.named("unk_token").map(|(token, _)| token);
        Ok(json!({
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "decoder": steps("Sequence", "decoders", decoders),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocab(), "merges": merges,
            },
        }))
    }

    /// Pieces to ids; of two ids of one piece the last.
    fn vocab(&self) -> Map<String, Value> {
        self.spelled().enumerate().map(|(id, piece)| (piece, id.into())).collect()
    }

    /// The merges that make each piece of two others, in their order.
    fn merges_of_scores(&self) -> std::result::Result<Vec<[String; 2]>, VocabularyFault> {
        let by_id = self.spaces == Spaces::Gemma;
        if !by_id && self.scores.is_empty() {
            return Err(("scores", "are missing, and so are merges".into()));
        }
        let pieces: Vec<String> = self.spelled().collect();
        let ids: HashMap<&str, usize> = pieces.iter().map(|p| &**p).zip(0..).collect();
        let mut found = Vec::new(); // (score, characters of a, of b, order), a, b
        for (&piece, &id) in &ids {
            // 0 is added so that −0 is 0.
            let score = if by_id { -(id as f64) } else { f64::from(self.scores[id]) + 0.0 };
            let characters = piece.chars().count();
            for (n, (cut, _)) in piece.char_indices().enumerate().skip(1) {
                let (a, b) = piece.split_at(cut);
                if let (Some(&first), Some(&second)) = (ids.get(a), ids.get(b)) {
                    let lengths = [n, characters - n].map(Reverse);
                    found.push((score, lengths, [id, first, second], [a, b]));
                }
            }
        }
        // Ids decide what scores and lengths leave open.
        found
            .sort_unstable_by(|x, y| y.0.total_cmp(&x.0).then_with(|| (x.1, x.2).cmp(&(y.1, y.2))));
        Ok(found.into_iter().map(|(.., pair)| pair.map(str::to_owned)).collect())
    }
}

/// Lines of two pieces.
fn pairs(lines: &[String]) -> std::result::Result<Vec<[String; 2]>, VocabularyFault> {
    let pair = |line: &String| match line.split_once(' ') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => {
            Ok([a.to_owned(), b.to_owned()])
        }
        _ => {
            let what = format!("{line:?} is not two pieces with a space between them");
            Err(("merges", what))
        }
    };
    lines.iter().map(pair).collect()
}
