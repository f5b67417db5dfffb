//! The small files of a folder that say what its tokenizer is, beside the vocabulary itself.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::base::file::read_file;
use crate::base::json::KeyOrder;
use crate::base::{Error, Result};

/// Maximum size of a tokenizer's file; the largest have some thirty million bytes.
pub(super) const MAX_BYTES: u64 = 1 << 28;
/// What makes one file of many, by the reference framework.
pub(super) const RESAVE: &str = "copy tokenizer.json from the model's source, or let transformers \
    write it: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
const AGAIN: &str = "copy the file again from the model's source";

/// The field of `tokenizer_config.json` that lists added tokens by their ids.
pub(super) const DECODER: &str = "added_tokens_decoder";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const ADDED_TOKENS: &str = "added_tokens.json";

/// What those files say; a file that is not there says nothing, as `{}` does.
pub(super) struct Sources {
    pub dir: PathBuf,
    /// `tokenizer_config.json`.
    pub config: Value,
    /// `special_tokens_map.json`.
    pub map: Value,
    /// `added_tokens.json`.
    pub added: Value,
    /// `config.json`; null where there is none.
    pub model: Value,
    /// The keys of `tokenizer_config.json` and `special_tokens_map.json` as they are written.
    pub order: Vec<String>,
}

impl Sources {
    /// Reads them.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no JSON object.
    pub fn read(dir: &Path) -> Result<Sources> {
        let mut order = vec![];
        let mut read = |name: &str| {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(json!({}));
            }
            let bytes = read_file(&path, MAX_BYTES)?;
            let value = parsed(&path, &bytes)?;
            if name != ADDED_TOKENS
                && let Ok(KeyOrder(keys)) = serde_json::from_slice(&bytes)
            {
                order.extend(keys);
            }
            Ok(value)
        };
        let (config, map) = (read(TOKENIZER_CONFIG)?, read("special_tokens_map.json")?);
        let added = read(ADDED_TOKENS)?;
        let model = dir.join("config.json");
        let model = if model.exists() { object(&model)? } else { Value::Null };
        Ok(Sources { dir: dir.to_owned(), config, map, added, model, order })
    }

    /// Whether a flag of `tokenizer_config.json` is set; absent and null are not.
    ///
    /// # Errors
    /// Another value.
    pub fn flag(&self, field: &str) -> Result<Option<bool>> {
        match &self.config[field] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            other => {
                let what = format!("{other} is not true or false");
                Err(self.wrong(TOKENIZER_CONFIG, field, what))
            }
        }
    }

    /// An error about a field of one of the files.
    pub fn wrong(&self, file: &str, field: &str, what: impl Into<String>) -> Error {
        Error::input(self.dir.join(file), field, what, AGAIN)
    }
}

/// A JSON object in a file.
///
/// # Errors
/// A file that cannot be read; anything else in it.
pub(super) fn object(path: &Path) -> Result<Value> {
    parsed(path, &read_file(path, MAX_BYTES)?)
}

fn parsed(path: &Path, bytes: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| {
        Error::input(path, format!("line {}", e.line()), format!("is not JSON: {e}"), AGAIN)
    })?;
    if !value.is_object() {
        return Err(Error::input(path, "line 1", "is not a JSON object", AGAIN));
    }
    Ok(value)
}
