//! Tokens that the files beside a vocabulary name, added as the reference framework adds them.
//!
//! ```text
//! tokens with ids   added_tokens_decoder of tokenizer_config.json, or else added_tokens.json;
//!                   added_tokens of tokenizer.json
//! special tokens    bos_token and the like, any other *_token, extra_special_tokens (a list, or
//!                   by name) or else additional_special_tokens, of tokenizer_config.json; where
//!                   that has no added_tokens_decoder, special_tokens_map.json before it
//! ```
//!
//! The framework (transformers 5.23) adds the first in the order of their ids, then those of the
//! second that are new. A token that the vocabulary has keeps its id; another gets the next free
//! one, whatever its file says: where these differ, the folder is refused.

use std::collections::BTreeMap;
use std::iter;
use std::path::PathBuf;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::class::{Rules, rules};
use super::sources::{ADDED_TOKENS, DECODER, Sources, TOKENIZER_CONFIG};
use crate::base::{Error, Result};

/// The names under which every tokenizer may have a special token.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";
const TOKENIZER_JSON: &str = "tokenizer.json";
const TOKENS_MAP: &str = "special_tokens_map.json";

/// A token whose file says its id.
struct Stated {
    id: u32,
    token: AddedToken,
    file: &'static str,
    field: String,
}

/// The special tokens of a folder.
struct Special {
    /// By name, in the framework's order.
    named: Vec<(String, AddedToken)>,
    extra: Vec<AddedToken>,
}

/// Adds the tokens that the folder's files name to a tokenizer; `own` are those of its
/// `tokenizer.json`. Returns the special tokens by name.
///
/// # Errors
/// A file whose tokens are no tokens; ids that contradict each other, by name.
pub(super) fn add(
    inner: &mut tokenizers::Tokenizer,
    sources: &Sources,
    rules: Option<&Rules>,
    own: &Value,
) -> Result<BTreeMap<String, String>> {
    let decoder = match &sources.config[DECODER] {
        Value::Null => None,
        Value::Object(tokens) => Some(tokens),
        _ => return Err(sources.wrong(TOKENIZER_CONFIG, DECODER, "is no object")),
    };
    let special = special(sources, rules, inner)?;
    let stated = stated(sources, decoder, &special, own)?;
    let mut by_id: BTreeMap<u32, AddedToken> = BTreeMap::new();
    by_id.extend(stated.iter().map(|s| (s.id, s.token.clone())));
    let mut tokens: Vec<AddedToken> = by_id.into_values().collect();
    let listed: Vec<AddedToken> =
        special.named.iter().map(|(_, t)| t).chain(&special.extra).cloned().collect();
    for token in &listed {
        if !tokens.iter().any(|t| t.content == token.content) {
            tokens.push(token.clone());
        }
    }
    for token in &mut tokens {
        token.special |= special.named.iter().any(|(_, t)| t.content == token.content);
    }
    if rules.is_some_and(|rules| rules.plain_special) {
        tokens.extend(listed.iter().map(|t| AddedToken::from(&*t.content, true)));
    }
    inner.add_tokens(tokens).map_err(|e| {
        let what = format!("the tokens that it and its neighbours add cannot be: {e}");
        sources.wrong(TOKENIZER_CONFIG, "added tokens", what)
    })?;
    stated.iter().try_for_each(|stated| stated.check(inner, sources))?;
    Ok(special.named.into_iter().map(|(name, token)| (name, token.content)).collect())
}

impl Stated {
    /// Refuses an id that the token does not have.
    fn check(&self, inner: &tokenizers::Tokenizer, sources: &Sources) -> Result<()> {
        let token = &self.token.content;
        let has = inner.token_to_id(token);
        if has == Some(self.id) {
            return Ok(());
        }
        let has = has.map_or("no id".to_owned(), |id| format!("the id {id}"));
        let what = format!(
            "says {} for {token:?}, which has {has} by the vocabulary and the tokens before it",
            self.id
        );
        let path: PathBuf = sources.dir.join(self.file);
        let remedy = "take all of the tokenizer's files from one source, which numbers them alike";
        Err(Error::input(path, &*self.field, what, remedy))
    }
}

/// The tokens with ids, of later files last: a token of an id replaces one before it.
fn stated(
    sources: &Sources,
    decoder: Option<&Map<String, Value>>,
    special: &Special,
    own: &Value,
) -> Result<Vec<Stated>> {
    let mut stated = vec![];
    let own = own.as_array().into_iter().flatten();
    let of_tokenizer = own.map(|value| {
        let id = value["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let read = id.zip(token(value, false));
        let (id, token) = read.ok_or_else(|| {
            sources.wrong(TOKENIZER_JSON, "added_tokens", format!("{value} is no token"))
        })?;
        Ok(Stated { id, token, file: TOKENIZER_JSON, field: "added_tokens".into() })
    });
    if let Some(tokens) = decoder {
        stated = of_tokenizer.collect::<Result<_>>()?;
        for (id, value) in tokens {
            let read = id.parse().ok().zip(token(value, false).filter(|_| value.is_object()));
            let (id, token) = read.ok_or_else(|| {
                let what = format!("{id}: {value} is no token");
                sources.wrong(TOKENIZER_CONFIG, DECODER, what)
            })?;
            stated.push(Stated { id, token, file: TOKENIZER_CONFIG, field: DECODER.into() });
        }
        return Ok(stated);
    }
    for (content, id) in sources.added.as_object().into_iter().flatten() {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| sources.wrong(ADDED_TOKENS, content, "its id is no id"))?;
        let named = special.named.iter().filter(|(name, _)| NAMES.contains(&&**name));
        let mut all = named.map(|(_, token)| token).chain(&special.extra);
        let token = AddedToken::from(content.clone(), all.any(|t| t.content == *content));
        stated.push(Stated { id, token, file: ADDED_TOKENS, field: content.clone() });
    }
    for token in of_tokenizer {
        stated.push(token?);
    }
    Ok(stated)
}

/// The texts of the special tokens, as a chat template finds them under their names.
///
/// # Errors
/// As [`add`].
pub(super) fn names(sources: &Sources) -> Result<BTreeMap<String, String>> {
    let named = named(sources, rules(sources, &Value::Null), |_| true)?;
    Ok(named.into_iter().map(|(name, token)| (name, token.content)).collect())
}

/// The files that name special tokens: where the first says ids, the second is not read.
fn files(sources: &Sources) -> impl Iterator<Item = (&'static str, &Value)> {
    let map = sources.config[DECODER].is_null().then_some((TOKENS_MAP, &sources.map));
    iter::once((TOKENIZER_CONFIG, &sources.config)).chain(map)
}

/// The special tokens by name, in the framework's order, with those of the class that `counts`.
fn named(
    sources: &Sources,
    rules: Option<&Rules>,
    counts: impl Fn(&str) -> bool,
) -> Result<Vec<(String, AddedToken)>> {
    let mut named = Named::default();
    for (name, token) in rules.map_or(&[][..], |rules| rules.special) {
        if counts(token) {
            named.put(name, Rank::Flags, Some(AddedToken::from(*token, true)));
        }
    }
    for (file, value) in files(sources) {
        named.read(sources, file, value)?;
    }
    Ok(named.in_order(&sources.order))
}

/// All special tokens.
fn special(
    sources: &Sources,
    rules: Option<&Rules>,
    inner: &tokenizers::Tokenizer,
) -> Result<Special> {
    // The framework adds its class's even to a vocabulary without them, beyond the model's.
    let named = named(sources, rules, |token| inner.token_to_id(token).is_some())?;
    let mut extra = vec![];
    let mut is_said = false;
    for (file, value) in files(sources) {
        let more = list(sources, file, value, EXTRA)?;
        // The first file that has a list of either name has the last word on the second name.
        if more.is_empty() && !is_said {
            extra.extend(list(sources, file, value, ADDITIONAL)?);
        }
        extra.extend(more);
        is_said |= [EXTRA, ADDITIONAL].iter().any(|field| value[*field].is_array());
    }
    Ok(Special { named, extra })
}

/// Special tokens by name, and what decides their order.
#[derive(Default)]
struct Named(BTreeMap<String, (Rank, Option<AddedToken>)>);

/// Which names come first; within one, the order in the files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Tokens with flags, and all of `special_tokens_map.json`.
    Flags,
    /// Plain strings of `tokenizer_config.json`.
    Text,
    /// Those of `extra_special_tokens`.
    Extra,
}

impl Named {
    /// The names of one of the two files.
    fn read(&mut self, sources: &Sources, file: &str, value: &Value) -> Result<()> {
        for (name, value) in value.as_object().into_iter().flatten() {
            // `add_bos_token` is a flag.
            if name.ends_with("_token") && !value.is_boolean() {
                let text = value.is_string() && file == TOKENIZER_CONFIG;
                let rank = if text { Rank::Text } else { Rank::Flags };
                self.put(name, rank, some_token(sources, file, name, value)?);
            }
        }
        for (name, value) in value[EXTRA].as_object().into_iter().flatten() {
            self.put(name, Rank::Extra, some_token(sources, file, EXTRA, value)?);
        }
        Ok(())
    }

    /// A later file replaces an earlier one's, but among names of a model's own strings win.
    fn put(&mut self, name: &str, rank: Rank, token: Option<AddedToken>) {
        let before = self.0.get(name).map_or(Rank::Flags, |(rank, _)| *rank);
        if NAMES.contains(&name) || before <= rank {
            self.0.insert(name.to_owned(), (rank, token));
        }
    }

    fn in_order(self, order: &[String]) -> Vec<(String, AddedToken)> {
        let place = |name: &str| NAMES.iter().position(|n| *n == name).unwrap_or(NAMES.len());
        let in_file = |name: &str| order.iter().position(|n| n == name);
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_by_key(|(name, (rank, _))| match place(name) {
            known if known < NAMES.len() => (known, Rank::Flags, None),
            own => (own, *rank, in_file(name)),
        });
        all.into_iter().filter_map(|(name, (_, token))| Some((name, token?))).collect()
    }
}

/// A token, or none where the value is null.
fn some_token(
    sources: &Sources,
    file: &str,
    field: &str,
    value: &Value,
) -> Result<Option<AddedToken>> {
    if value.is_null() {
        return Ok(None);
    }
    let token = token(value, value.is_string() || file == TOKENS_MAP);
    token.map(Some).ok_or_else(|| sources.wrong(file, field, format!("{value} is no token")))
}

/// The tokens of a list; null, and what is no list, holds none.
fn list(sources: &Sources, file: &str, value: &Value, field: &str) -> Result<Vec<AddedToken>> {
    let items = match &value[field] {
        Value::Array(items) => &items[..],
        Value::Null | Value::Object(_) => &[],
        other => return Err(sources.wrong(file, field, format!("{other} is no list of tokens"))),
    };
    let token = |item| some_token(sources, file, field, item);
    Ok(items.iter().map(token).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// A string, or an object with the string as its `content` and flags beside it.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = value.as_str().or_else(|| value["content"].as_str())?;
    let flag = |name: &str, absent: bool| value[name].as_bool().unwrap_or(absent);
    let special = special || flag("special", false);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}
