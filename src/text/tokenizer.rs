//! A checkpoint's tokenizer: text in, ids and byte spans out, and back.
//!
//! The `tokenizers` crate does the work. Decided here:
//!
//! * truncation, padding and BPE dropout stored in a `tokenizer.json` are switched off: an edit
//!   needs every token of its text, the same ones each time;
//! * `trim_offsets` is switched off too, so that a span covers all bytes of its token, leading
//!   space included;
//! * a folder's `tokenizer.json` is its tokenizer; other files of the folder add the tokens that it
//!   lacks, and where they contradict it the folder is refused (`added.rs`, `class.rs`);
//! * targets are encoded, and partial targets decoded, as text that follows other text. A
//!   SentencePiece-style tokenizer inserts a space at the start of a text when it encodes and
//!   removes it when it decodes, which would add a lone `▁` to a target or join it to its prompt.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::PostProcessorWrapper;

use super::added;
use super::class::{rules, rules_of_two_files, steps};
use super::sources::{MAX_BYTES, RESAVE, Sources, TOKENIZER_CONFIG};
use super::{seam, two_files};
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// Text put before a target while it is encoded or decoded.
const BEFORE: &str = "a";

/// A tokenizer, ready to use from several threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The ids it adds before a text: the beginning-of-sequence token, or none.
    pub bos: Vec<u32>,
    /// The ids it adds after a text; language models rarely have any, and edits refuse them.
    pub eos: Vec<u32>,
    /// The token that ends a text, by the files beside the vocabulary: their `eos_token`.
    pub end: Option<u32>,
    /// Why the reference framework gives some texts other ids, if it does: a warning to show.
    pub difference: Option<String>,
    before: Vec<u32>,
    before_text: String,
}

/// The id of the token that ends a text, of special tokens by name.
fn end(inner: &tokenizers::Tokenizer, special: &BTreeMap<String, String>) -> Option<u32> {
    special.get("eos_token").and_then(|token| inner.token_to_id(token))
}

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// One id a token, special tokens included.
    pub ids: Vec<u32>,
    /// The bytes `start..end` of the text that each token covers. Tokens that share a character
    /// each cover all of it; special tokens that are not in the text have an empty span.
    pub spans: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Opens the tokenizer of a checkpoint folder: `tokenizer.json`, or a vocabulary and merges
    /// in two files under either of their names (`two_files.rs`), with the tokens and flags that
    /// the files beside them name.
    ///
    /// # Errors
    /// No such file, or one that is broken; files that contradict each other, a class whose rules
    /// for two files are not implemented, by name.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let sources = Sources::read(dir)?;
        let path = dir.join("tokenizer.json");
        if path.exists() {
            check_versions(&sources)?;
            let description = parse(&path, &read_file(&path, MAX_BYTES)?)?;
            check_prefix(&sources, &description["pre_tokenizer"])?;
            let own = description["added_tokens"].clone();
            let rules = rules(&sources, &description);
            let difference = rules.map(|rules| rules.difference(&description, &sources));
            let difference = difference.transpose()?.flatten();
            let mut inner = plain(&path, description)?;
            let special = added::add(&mut inner, &sources, rules, &own)?;
            let end = end(&inner, &special);
            return Ok(Tokenizer { difference, end, ..Self::of(inner, &sources)? });
        }
        let Some(paths) = two_files::find(dir) else {
            let what = "is missing, and so are vocab.json with merges.txt";
            return Err(Error::input(dir, "tokenizer.json", what, RESAVE));
        };
        let rules = rules_of_two_files(&sources)?;
        let description = two_files::describe(&paths, rules, &sources)?;
        let mut inner = plain(&paths[0], description)?;
        let special = added::add(&mut inner, &sources, Some(rules), &Value::Null)?;
        let around = |flag: &str, name: &str| {
            let set = sources.flag(flag)?.unwrap_or(false);
            let token = special.get(name).filter(|_| set);
            Ok(token.and_then(|token| Some((&**token, inner.token_to_id(token)?))))
        };
        let (before, after) =
            (around("add_bos_token", "bos_token")?, around("add_eos_token", "eos_token")?);
        let processor =
            serde_json::from_value::<PostProcessorWrapper>(two_files::surround(before, after));
        let processor =
            processor.map_err(|e| sources.wrong(TOKENIZER_CONFIG, "bos_token", e.to_string()))?;
        inner.with_post_processor(Some(processor));
        let end = end(&inner, &special);
        Ok(Tokenizer { end, ..Self::of(inner, &sources)? })
    }

    /// From the contents of a `tokenizer.json`; errors name the file `name`.
    ///
    /// # Errors
    /// Not JSON, or not a tokenizer.
    pub fn from_json(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let name = name.as_ref();
        Self::around(plain(name, parse(name, bytes)?)?)
    }

    /// With the flags of the folder.
    fn of(mut inner: tokenizers::Tokenizer, sources: &Sources) -> Result<Self> {
        inner.set_encode_special_tokens(sources.flag("split_special_tokens")?.unwrap_or(false));
        Self::around(inner)
    }

    fn around(inner: tokenizers::Tokenizer) -> Result<Self> {
        let mut tok = Tokenizer {
            inner,
            bos: vec![],
            eos: vec![],
            end: None,
            difference: None,
            before: vec![],
            before_text: String::new(),
        };
        let sample = tok.run(BEFORE, true)?;
        let added = |mask: &u32| *mask == 1;
        let mask = sample.get_special_tokens_mask();
        let first = mask.iter().take_while(|m| added(m)).count();
        let last = mask.iter().rposition(|m| !added(m)).map_or(mask.len(), |i| i + 1);
        tok.bos = sample.get_ids()[..first].to_vec();
        tok.eos = sample.get_ids()[last..].to_vec();
        tok.before = tok.run(BEFORE, false)?.get_ids().to_vec();
        tok.before_text = tok.decode(&tok.before)?;
        Ok(tok)
    }

    fn run(&self, text: &str, special: bool) -> Result<tokenizers::Encoding> {
        self.inner.encode(text, special).map_err(|e| {
            Error::refused(format!("the tokenizer fails on {text:?}: {e}"), "change the text")
        })
    }

    /// The ids of a text, with the special tokens the tokenizer adds.
    ///
    /// # Errors
    /// A tokenizer that fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.run(text, true)?.get_ids().to_vec())
    }

    /// The ids of a text and the bytes each covers, with the special tokens the tokenizer adds.
    ///
    /// # Errors
    /// A tokenizer that fails on the text.
    pub fn encode_spans(&self, text: &str) -> Result<Encoded> {
        let encoding = self.run(text, true)?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// As [`encode_spans`](Self::encode_spans), for a text that contains its special tokens, as a
    /// rendered chat does: none are added.
    ///
    /// # Errors
    /// A tokenizer that fails on the text.
    pub fn encode_bare(&self, text: &str) -> Result<Encoded> {
        let encoding = self.run(text, false)?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// The ids of a target that follows a prompt, with the space between them if there is one
    /// ([`seam`]): no special tokens are added.
    ///
    /// # Errors
    /// A target without tokens.
    pub fn encode_target(
        &self,
        prompt: &str,
        target: &str,
        space: Option<bool>,
    ) -> Result<Vec<u32>> {
        let text = seam::joined(prompt, target, space);
        // White space begins a token of its own after a word, and so does any text after a line.
        // After white space it may not: an edit warns where prompt and target share a token.
        let before = if text.starts_with(char::is_whitespace) {
            BEFORE
        } else if self.follows(prompt, &text)? {
            prompt
        } else {
            "\n"
        };
        self.encode_after(before, &text)
    }

    /// Whether a text's tokens stay the same when another text follows.
    fn follows(&self, before: &str, text: &str) -> Result<bool> {
        let joint = self.encode_bare(&[before, text].concat())?.ids;
        Ok(joint.starts_with(&self.encode_bare(before)?.ids))
    }

    /// The ids of a text that follows another one: no special tokens are added.
    ///
    /// # Errors
    /// A text without tokens.
    pub fn encode_after(&self, before: &str, text: &str) -> Result<Vec<u32>> {
        let ahead = self.encode_bare(before)?.ids;
        let joint = self.encode_bare(&[before, text].concat())?.ids;
        let ids = match joint.strip_prefix(&ahead[..]) {
            Some(ids) => ids.to_vec(),
            None => self.encode_bare(text)?.ids,
        };
        // A normaliser may drop everything but the space before it.
        if text.trim().is_empty() || self.decode_after(&ids)?.trim().is_empty() {
            let what = format!("the tokenizer leaves nothing of the target {text:?}");
            return Err(Error::refused(what, "give a target it has tokens for"));
        }
        Ok(ids)
    }

    /// The text of ids at the start of a text, special tokens included. An id outside the
    /// vocabulary adds nothing: heads are often padded beyond it.
    ///
    /// # Errors
    /// A tokenizer that fails on the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|e| {
            Error::refused(format!("the tokenizer cannot decode {ids:?}: {e}"), "check the ids")
        })
    }

    /// The text of ids that follow other text: as [`decode`](Self::decode), but with its leading
    /// space. Bytes that form no whole character become U+FFFD.
    ///
    /// # Errors
    /// A tokenizer that fails on the ids.
    pub fn decode_after(&self, ids: &[u32]) -> Result<String> {
        let text = self.decode(&[&self.before, ids].concat())?;
        match text.strip_prefix(&self.before_text) {
            Some(text) => Ok(text.to_string()),
            None => self.decode(ids),
        }
    }

    /// A token's name in the vocabulary, if the id is in it.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One token for display: its text, with what is no whole character as bytes, `<0xE6>`.
    pub fn token_text(&self, id: u32) -> String {
        let Some(name) = self.piece(id) else { return format!("<{id}>") };
        match self.decode_after(&[id]) {
            Ok(text) if !text.is_empty() && !text.contains('\u{FFFD}') => text,
            _ => bytes_of(&name).map_or(name, |bytes| shown(&bytes)),
        }
    }

    /// The largest id plus one: the least number of embedding rows of a model that it fits.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }
}

const REMEDY: &str = "copy the file again from the model's source";

fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::input(path, format!("line {}", e.line()), format!("is not JSON: {e}"), REMEDY)
    })
}

/// A tokenizer without what this file's head says is switched off.
fn plain(path: &Path, mut description: Value) -> Result<tokenizers::Tokenizer> {
    check_merges(path, &description["model"])?;
    if let Value::Object(fields) = &mut description {
        fields.remove("truncation");
        fields.remove("padding");
    }
    if let Some(model) = description.get_mut("model").and_then(Value::as_object_mut) {
        model.remove("dropout");
    }
    if let Some(processor) = description.get_mut("post_processor") {
        check_template(path, processor)?;
        keep_spaces_in_spans(processor);
    }
    let built = serde_json::from_value(description);
    built.map_err(|e| Error::input(path, "tokenizer", e.to_string(), REMEDY))
}

/// Refuses a folder that has a `tokenizer.json` for each release of the framework.
fn check_versions(sources: &Sources) -> Result<()> {
    let files = sources.config["fast_tokenizer_files"].as_array().into_iter().flatten();
    match files.filter_map(Value::as_str).find(|&file| file != "tokenizer.json") {
        None => Ok(()),
        Some(file) => {
            let what = format!("by it some releases of transformers read {file:?} instead");
            let path = sources.dir.join(TOKENIZER_CONFIG);
            Err(Error::input(path, "fast_tokenizer_files", what, RESAVE))
        }
    }
}

/// Refuses a configuration by which a byte-level tokenizer puts a space before a text, or none,
/// where `tokenizer.json` says otherwise: releases of the framework differ in whom they follow.
fn check_prefix(sources: &Sources, pre_tokenizer: &Value) -> Result<()> {
    let Some(said) = sources.flag("add_prefix_space")? else { return Ok(()) };
    for step in steps(pre_tokenizer) {
        if step["type"] == "ByteLevel" && step["add_prefix_space"] == !said {
            let what = format!("is {said}, and in tokenizer.json it is {}", !said);
            let path = sources.dir.join(TOKENIZER_CONFIG);
            let remedy = "make both say what the model was trained with, as its source has it";
            return Err(Error::input(path, "add_prefix_space", what, remedy));
        }
    }
    Ok(())
}

/// The bytes that a name of a byte-level vocabulary stands for: those that are printable in Latin-1
/// are their own letters, and the others, in order, those from U+0100 on.
fn bytes_of(name: &str) -> Option<Vec<u8>> {
    let is_letter = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
    let others = (0..=u8::MAX).filter(|byte| !is_letter(byte));
    let byte = |c: char| match u8::try_from(u32::from(c)) {
        Ok(byte) => Some(byte).filter(is_letter),
        Err(_) => others.clone().nth(u32::from(c).checked_sub(0x100)? as usize),
    };
    name.chars().map(byte).collect()
}

/// Bytes as text, those of no whole character as `<0xE6>`.
fn shown(bytes: &[u8]) -> String {
    let chunk = |chunk: std::str::Utf8Chunk| {
        let rest: String = chunk.invalid().iter().map(|byte| format!("<0x{byte:02X}>")).collect();
        format!("{}{rest}", chunk.valid())
    };
    bytes.utf8_chunks().map(chunk).collect()
}

fn keep_spaces_in_spans(processor: &mut Value) {
    if let Some(trim) = processor.get_mut("trim_offsets") {
        *trim = false.into();
    }
    for inner in processor.get_mut("processors").and_then(Value::as_array_mut).into_iter().flatten()
    {
        keep_spaces_in_spans(inner);
    }
}

/// Refuses a template that names an undefined token, on which the crate panics.
fn check_template(path: &Path, processor: &Value) -> Result<()> {
    let pieces = ["single", "pair"].iter().filter_map(|field| processor[field].as_array());
    for piece in pieces.flatten() {
        if let Some(token) = piece["SpecialToken"]["id"].as_str()
            && processor["special_tokens"].get(token).is_none()
        {
            let what = format!("the template names {token:?}, which is not in special_tokens");
            return Err(Error::input(path, "post_processor", what, REMEDY));
        }
    }
    let inner = processor["processors"].as_array();
    inner.into_iter().flatten().try_for_each(|inner| check_template(path, inner))
}

/// Refuses a merge whose result is not in the vocabulary, on which the crate panics.
fn check_merges(path: &Path, model: &Value) -> Result<()> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
    else {
        return Ok(());
    };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("");
    for (i, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(line) => line.split_once(' '),
            _ => merge[0].as_str().zip(merge[1].as_str()),
        };
        let joined = pair.and_then(|(a, b)| Some(format!("{a}{}", b.strip_prefix(prefix)?)));
        if !joined.is_some_and(|word| vocab.contains_key(&word)) {
            return Err(Error::input(
                path,
                format!("merge {i}"),
                format!("the result of {merge} is not in the vocabulary"),
                "take vocabulary and merges from the same tokenizer",
            ));
        }
    }
    Ok(())
}
