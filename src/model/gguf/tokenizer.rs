//! The pairs of a GGUF file that describe its vocabulary.

use super::keys::Keys;
use crate::base::{Error, Result};
use crate::store::gguf::MetadataValue;
use crate::text::{Spaces, Vocabulary};

/// The vocabulary of a file.
///
/// # Errors
///
/// A key that is missing, or of another type.
pub(super) fn vocabulary(keys: Keys, spaces: Spaces) -> Result<Vocabulary> {
    let own = |key: &str| format!("tokenizer.ggml.{key}");
    let missing = |key: &str| keys.wrong(&own(key), "is missing");
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let mut special = Vec::new();
    for (name, key) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        special.extend(keys.whole(&own(key))?.map(|id| (name, id)));
    }
    Ok(Vocabulary {
        model: owned(keys.text(&own("model"))?).ok_or_else(|| missing("model"))?,
        pre: owned(keys.text(&own("pre"))?),
        spaces,
        tokens: keys.texts(&own("tokens"))?.ok_or_else(|| missing("tokens"))?.to_vec(),
        scores: match keys.get(&own("scores")) {
            None => Vec::new(),
            Some(MetadataValue::Floats(scores)) => scores.clone(),
            Some(_) => return Err(keys.wrong(&own("scores"), "is no list of single precision")),
        },
        types: match keys.get(&own("token_type")) {
            None => Vec::new(),
            Some(MetadataValue::Signeds(types)) => types.clone(),
            Some(MetadataValue::Unsigneds(types)) => types.iter().map(|&n| n as i64).collect(),
            Some(_) => return Err(keys.wrong(&own("token_type"), "is no list of whole numbers")),
        },
        merges: keys.texts(&own("merges"))?.map(<[String]>::to_vec),
        special,
        add_bos: keys.flag(&own("add_bos_token"))?,
        add_eos: keys.flag(&own("add_eos_token"))?.unwrap_or(false),
        add_space: keys.flag(&own("add_space_prefix"))?,
        chat_template: owned(keys.text("tokenizer.chat_template")?),
        longest: keys.whole(&keys.own("context_length"))?,
    })
}

/// An error about a vocabulary's key.
pub(super) fn fault(keys: Keys, (key, what): (&str, String)) -> Error {
    keys.wrong(&format!("tokenizer.ggml.{key}"), what)
}
