//! The pairs of a GGUF file by name. Every error names the file and the key.

use serde_json::{Value, json};

use crate::base::{Error, Result};
use crate::store::gguf::{GgufFile, MetadataValue};

/// The pairs of a file.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub file: &'a GgufFile,
    /// `general.architecture`, before every key of the model's own.
    pub architecture: &'a str,
}

const OTHER_FILE: &str = "compare the file with the one that the model was published with";

impl<'a> Keys<'a> {
    /// Those of a file of a whole model.
    pub fn of(file: &'a GgufFile) -> Result<Keys<'a>> {
        let keys = Keys { file, architecture: "" };
        let whole = |key| Ok(keys.text(key)?.filter(|text| *text != "model"));
        if let Some(kind) = whole("general.type")? {
            let what = format!("the file holds a `{kind}`, not a model");
            return Err(Error::input(file.path(), "general.type", what, "name the model's file"));
        }
        if let Some(parts) = keys.whole("split.count")?.filter(|parts| *parts > 1) {
            let what = format!("this is one of {parts} files of a model");
            let remedy = "put them together first, as llama.cpp's gguf-split does";
            return Err(Error::input(file.path(), "split.count", what, remedy));
        }
        let architecture = keys.text("general.architecture")?;
        let architecture =
            architecture.ok_or_else(|| keys.wrong("general.architecture", "is missing"))?;
        Ok(Keys { file, architecture })
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, what: impl Into<String>) -> Error {
        Error::input(self.file.path(), key, what, OTHER_FILE)
    }

    /// The name of one of the model's own keys.
    pub fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub fn get(&self, key: &str) -> Option<&'a MetadataValue> {
        self.file.header().metadata.get(key)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(MetadataValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "is no text")),
        }
    }

    /// On or off.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(MetadataValue::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "is neither on nor off")),
        }
    }

    /// A whole number from 0 on; or one a layer, all the same.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        let several = || {
            let what = "differs from layer to layer, which no family has that is implemented";
            self.wrong(key, what)
        };
        let sign = |n: i64| u64::try_from(n).map_err(|_| self.wrong(key, "is below 0"));
        match self.get(key) {
            None => Ok(None),
            Some(MetadataValue::Unsigned(n)) => Ok(Some(*n)),
            Some(MetadataValue::Signed(n)) => sign(*n).map(Some),
            Some(MetadataValue::Unsigneds(each)) => one(each).map(Some).ok_or_else(several),
            Some(MetadataValue::Signeds(each)) => {
                one(each).ok_or_else(several).and_then(sign).map(Some)
            }
            Some(_) => Err(self.wrong(key, "is no whole number")),
        }
    }

    /// A whole number, which must be there.
    pub fn required(&self, key: &str) -> Result<u64> {
        self.whole(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    /// A number of any type as a configuration writes it: with the digits that tell it from its
    /// neighbours in its own precision.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let x = match self.get(key) {
            None => return Ok(None),
            Some(MetadataValue::Float(x)) => digits(*x),
            Some(MetadataValue::Double(x)) => *x,
            Some(_) => return Ok(self.whole(key)?.map(|n| n as f64)),
        };
        if x.is_finite() { Ok(Some(x)) } else { Err(self.wrong(key, format!("is {x}"))) }
    }

    /// A value as JSON: a flag, a text or a number.
    pub fn json(&self, key: &str) -> Result<Option<Value>> {
        Ok(match self.get(key) {
            None => None,
            Some(MetadataValue::Bool(flag)) => Some(json!(flag)),
            Some(MetadataValue::Text(text)) => Some(json!(text)),
            Some(MetadataValue::Float(_) | MetadataValue::Double(_)) => {
                self.number(key)?.map(|x| json!(x))
            }
            Some(_) => self.whole(key)?.map(|n| json!(n)),
        })
    }

    /// Texts; none where there is no such key.
    pub fn texts(&self, key: &str) -> Result<Option<&'a [String]>> {
        match self.get(key) {
            None => Ok(None),
            Some(MetadataValue::Texts(texts)) => Ok(Some(texts)),
            Some(_) => Err(self.wrong(key, "is no list of texts")),
        }
    }
}

/// What all of some values are.
fn one<T: Copy + PartialEq>(each: &[T]) -> Option<T> {
    let first = *each.first()?;
    each.iter().all(|x| *x == first).then_some(first)
}

/// The double with the decimal digits of a float.
pub(super) fn digits(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
