//! Fields of `config.json` by name. Every error names the file and the field.

use std::path::PathBuf;

use serde_json::Value;

use crate::base::{Error, Result};

/// A configuration and the file it came from.
pub struct Config<'a> {
    /// The parsed file.
    pub value: &'a Value,
    /// For messages.
    pub path: PathBuf,
}

impl<'a> Config<'a> {
    /// The field, unless it is absent or null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    /// An error about `field`.
    pub fn error(&self, field: &str, what: impl Into<String>) -> Error {
        let remedy = "compare it with the config.json that the model was published with";
        Error::input(&self.path, field, what, remedy)
    }

    /// A size: a whole number above 0.
    pub fn size(&self, field: &str) -> Result<usize> {
        self.size_or(field, None)
    }

    /// A size, or `default` where the field is absent or null.
    pub fn size_or(&self, field: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(field), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.error(field, "is missing")),
            (Some(v), _) => match v.as_u64() {
                // 2³¹ is far above any real size, and small enough that products do not overflow.
                Some(n) if n > 0 && n < 1 << 31 => Ok(n as usize),
                _ => Err(self.error(field, format!("{v} is not a size"))),
            },
        }
    }

    /// A size that has several names, all of which the framework reads.
    ///
    /// # Errors
    ///
    /// None of them is there, or two that differ.
    pub fn aliased(&self, names: &[&str]) -> Result<usize> {
        let mut there = names.iter().filter(|name| self.get(name).is_some());
        let first = there.next().unwrap_or(&names[0]);
        let size = self.size(first)?;
        for name in there {
            if self.size(name)? != size {
                let what = format!("is {size}, and {name}, the same size, is {}", self.size(name)?);
                return Err(self.error(first, what));
            }
        }
        Ok(size)
    }

    /// A finite number, or `default`.
    pub fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.error(field, format!("{v} is not a number"))),
        }
    }

    /// A number above 0, or `default`.
    pub fn positive_or(&self, field: &str, default: f64) -> Result<f64> {
        match self.number_or(field, default)? {
            // What f32 holds in full.
            x if (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&x) => Ok(x),
            x => Err(self.error(field, format!("{x} is not a number above 0"))),
        }
    }

    /// A boolean, or `default`.
    pub fn bool_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => {
                v.as_bool().ok_or_else(|| self.error(field, format!("{v} is not true or false")))
            }
        }
    }

    /// A string, or `default`.
    pub fn string_or(&self, field: &str, default: &'a str) -> Result<&'a str> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_str().ok_or_else(|| self.error(field, format!("{v} is not a string"))),
        }
    }

    /// An object inside this one, with the same file for messages.
    pub fn object(&self, field: &str) -> Result<Option<Config<'a>>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) if value.is_object() => Ok(Some(Config { value, path: self.path.clone() })),
            Some(v) => Err(self.error(field, format!("{v} is not an object"))),
        }
    }
}
