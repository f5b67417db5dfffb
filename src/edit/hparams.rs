//! Hyperparameters by the field's names: a JSON file, then `--set name=value` on top.
//!
//! A value that a method needs and nothing gives is an error that names it; a name that no method
//! knows is a warning.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::rome::Keys;
use super::value::{ENOUGH, Search};
use crate::base::{Error, Result};
use crate::model::Model;

/// The methods of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// ROME as published: two keys.
    Rome,
    /// ROME with one consistent key.
    RRome,
}

impl Method {
    /// By the name users give.
    pub fn parse(name: &str) -> Result<Method> {
        match name {
            "rome" => Ok(Method::Rome),
            "r-rome" => Ok(Method::RRome),
            _ => Err(Error::refused(
                format!("--method {name}: not a method of this version"),
                "use rome or r-rome",
            )),
        }
    }

    /// The name users give.
    pub fn name(self) -> &'static str {
        match self {
            Method::Rome => "rome",
            Method::RRome => "r-rome",
        }
    }

    /// Its choice of keys.
    pub fn keys(self) -> Keys {
        match self {
            Method::Rome => Keys::Mixed,
            Method::RRome => Keys::Consistent,
        }
    }
}

/// What ROME and R-ROME need.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// The edited layer (`layers`).
    pub layer: usize,
    /// The value search.
    pub search: Search,
    /// Whether the key statistics C shape the change (`mom2_adjustment`).
    pub mom2_adjustment: bool,
}

/// Names that are understood or that say nothing a method here needs to know.
const KNOWN: [&str; 10] = [
    "layers",
    "fact_token",
    "v_num_grad_steps",
    "v_lr",
    "v_loss_layer",
    "v_weight_decay",
    "clamp_norm_factor",
    "kl_factor",
    "mom2_adjustment",
    "alg_name",
];

/// Values by name, and where they come from.
#[derive(Clone, Debug)]
pub struct Values {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Values {
    /// From a JSON file, or from nothing.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is no JSON object.
    pub fn read(file: Option<&Path>) -> Result<Values> {
        let Some(path) = file else {
            return Ok(Values { path: "--hparams".into(), map: Map::new() });
        };
        let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        Values::parse(path, &bytes)
    }

    /// From the bytes of a JSON object; `path` stands for it in errors.
    ///
    /// # Errors
    ///
    /// Bytes that are no JSON object.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Values> {
        let remedy = "give a JSON object such as {\"layers\": [5], \"v_lr\": 0.5}";
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Values { path: path.to_path_buf(), map }),
            Ok(_) => Err(Error::input(path, "hyperparameters", "is not an object", remedy)),
            Err(e) => {
                let line = format!("line {}", e.line());
                Err(Error::input(path, line, e.to_string(), remedy))
            }
        }
    }

    /// Puts `name=value` over what is there.
    ///
    /// # Errors
    ///
    /// A text without `=`.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((name, value)) = assignment.split_once('=') else {
            let what = format!("--set {assignment}: no `=`");
            return Err(Error::refused(what, "say --set v_lr=0.5"));
        };
        // A bare word is a text; anything else is JSON.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        self.put(name, value);
        Ok(())
    }

    /// Puts a value over what is there.
    pub fn put(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Names that no method of this version knows.
    pub fn unknown(&self) -> Vec<&str> {
        self.map.keys().map(String::as_str).filter(|name| !KNOWN.contains(name)).collect()
    }

    /// All values, for the record.
    pub fn to_json(&self) -> Value {
        Value::Object(self.map.clone())
    }

    /// What ROME and R-ROME need, checked against the model.
    ///
    /// # Errors
    ///
    /// A value that is missing, of the wrong kind or out of range.
    pub fn rome(&self, model: &Model) -> Result<Hparams> {
        let layers = model.arch.layers;
        let layer = match self.need("layers")?.as_array().map(Vec::as_slice) {
            Some([one]) => self.count("layers", one)?,
            _ => return Err(self.bad("layers", "is not a list of one layer, as in [5]")),
        };
        if layer >= layers {
            let what = format!("{layer} is not one of the model's layers 0 to {}", layers - 1);
            return Err(self.bad("layers", what));
        }
        let token = self.map.get("fact_token").and_then(Value::as_str).unwrap_or("subject_last");
        if token != "subject_last" {
            return Err(self.bad("fact_token", format!("`{token}`; only subject_last works here")));
        }
        let search = Search {
            steps: self.steps()?,
            lr: self.number("v_lr")?,
            decay: self.number("v_weight_decay")?,
            clamp: self.number("clamp_norm_factor")?,
            kl_factor: self.number("kl_factor")?,
            loss_layer: layers - 1, // ROME reads the model's own logits, whatever v_loss_layer says
            enough: ENOUGH,
        };
        let mom2 = self.need("mom2_adjustment")?;
        let mom2_adjustment = mom2
            .as_bool()
            .ok_or_else(|| self.bad("mom2_adjustment", format!("{mom2} is not true or false")))?;
        Ok(Hparams { layer, search, mom2_adjustment })
    }

    fn need(&self, name: &str) -> Result<&Value> {
        self.map.get(name).ok_or_else(|| self.bad(name, "is given nowhere"))
    }

    fn number(&self, name: &str) -> Result<f64> {
        let value = self.need(name)?;
        match value.as_f64() {
            Some(x) if x.is_finite() && x >= 0.0 => Ok(x),
            _ => Err(self.bad(name, format!("{value} is not a number from 0"))),
        }
    }

    fn steps(&self) -> Result<usize> {
        let name = "v_num_grad_steps";
        match self.count(name, self.need(name)?)? {
            0 => Err(self.bad(name, "is 0, so no value is searched")),
            steps => Ok(steps),
        }
    }

    fn count(&self, name: &str, value: &Value) -> Result<usize> {
        let count = value.as_u64().filter(|&n| n < 1 << 31);
        count.map(|n| n as usize).ok_or_else(|| self.bad(name, format!("{value} is not a count")))
    }

    fn bad(&self, name: &str, what: impl Into<String>) -> Error {
        let remedy = format!("put \"{name}\" into the file of --hparams, or say --set {name}=…");
        Error::input(&self.path, name, what, remedy)
    }
}
