//! Hyperparameters by the field's names: a preset, a file over it, `--set name=value` over both.
//!
//! The file is JSON, as the original code's, or YAML, as EasyEdit's. Every value remembers where
//! it comes from. A value that a method needs and nothing gives is an error that names it; so is
//! one that asks for what is not done here; a name that no method knows is a warning.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use serde_saphyr::UserMessageFormatter;

use super::presets::{self, Preset};
use super::rome::Keys;
use super::search::{LOSS_TOLERANCE, Push, Search};
use super::settings;
use crate::base::file::read_file;
use crate::base::json::UniqueKeys;
use crate::base::{Error, Result};
use crate::model::{At, Model, Site};

/// The methods of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// ROME as published: two keys.
    Rome,
    /// ROME with one consistent key.
    RRome,
    /// Many facts over a window of layers.
    Memit,
    /// The same, held exactly or nearly so, as a rule in one layer.
    Emmet,
    /// MEMIT with a search that may use the attention.
    Pmet,
    /// Many facts in directions that text does not use.
    AlphaEdit,
}

/// All methods, by the names users give.
pub const METHODS: [(&str, Method); 6] = [
    ("rome", Method::Rome),
    ("r-rome", Method::RRome),
    ("memit", Method::Memit),
    ("emmet", Method::Emmet),
    ("pmet", Method::Pmet),
    ("alphaedit", Method::AlphaEdit),
];

impl Method {
    /// By the name users give.
    pub fn parse(name: &str) -> Result<Method> {
        let found = METHODS.iter().find(|(known, _)| *known == name);
        found.map(|(_, method)| *method).ok_or_else(|| {
            let names = METHODS.map(|(name, _)| name).join(", ");
            let what = format!("--method {name}: not a method of this version");
            Error::refused(what, format!("use one of {names}"))
        })
    }

    /// The name users give.
    pub fn name(self) -> &'static str {
        METHODS.iter().find(|(_, method)| *method == self).expect("all are there").0
    }

    /// The choice of keys of ROME and R-ROME; `None` for methods of many facts.
    pub fn keys(self) -> Option<Keys> {
        match self {
            Method::Rome => Some(Keys::Mixed),
            Method::RRome => Some(Keys::Consistent),
            _ => None,
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

/// What a method takes its settings from.
const USED: [&str; 7] = [
    "layers",
    "v_num_grad_steps",
    "v_lr",
    "v_weight_decay",
    "clamp_norm_factor",
    "kl_factor",
    "mom2_adjustment",
];

/// Choices of the public code of which one is made here: its only value, as JSON.
const FIXED: [(&str, &str); 6] = [
    ("layer_selection", "\"all\""),
    ("fact_token", "\"subject_last\""),
    ("context_template_length_params", "[[5,10],[10,10]]"), // others come with --contexts
    ("enable_random_prefix_keys", "true"),
    ("enable_prompt_keys", "false"),
    ("original_implementation", "false"),
];

/// Held against the model.
const CHECKED: [&str; 2] = ["v_loss_layer", "rewrite_module_tmp"];

/// Said to the public code alone: where its files and modules are, and how it collects C.
const IDLE: [&str; 19] = [
    "P_loc",
    "alg_name",
    "attn_module_tmp",
    "batch_size",
    "device",
    "fp16",
    "keep_original_weight",
    "layer_module_tmp",
    "lm_head_module",
    "ln_f_module",
    "max_length",
    "mlp_module_tmp",
    "model_name",
    "model_parallel",
    "mom2_dataset",
    "mom2_dtype",
    "mom2_n_samples",
    "rewrite_module_tmps",
    "stats_dir",
];

const REMEDY: &str = "give names and values such as {\"layers\": [5], \"v_lr\": 0.5}";

/// Values by name, each with where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Values {
    map: BTreeMap<String, (Value, String)>,
    /// The file among them, if there is one.
    file: Option<String>,
}

/// Far above any hyperparameter in use; sums of its squares are still numbers.
const LARGEST: f64 = 1e12;
/// As a factor of what is added to KKᵀ: f64 resolves 2·10⁻¹⁶ of a sum.
const LEAST: f64 = 1e-10;
/// Far above any weight of a term of the loss in use.
const HEAVIEST: f64 = 1e6;

impl Values {
    /// What a user chose with `--hparams`: a file, over the preset of the model's sizes if there
    /// is one; a preset by name; or nothing, and then the preset of the model's sizes.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or as [`parse`](Values::parse); a name that is neither.
    pub fn choose(given: Option<&Path>, method: Method, model: &Model) -> Result<Values> {
        let fitting = presets::of(method, &model.arch);
        let fitting = fitting.map_or(Values::default(), Values::preset);
        let Some(path) = given else { return Ok(fitting) };
        if path.exists() && !path.is_dir() {
            let mut values = fitting;
            let read = Values::read(path)?;
            values.map.extend(read.map);
            values.file = read.file;
            return Ok(values);
        }
        let (named, others): (Vec<_>, Vec<_>) =
            presets::all(method).into_iter().partition(|p| path == Path::new(&p.model));
        named.into_iter().next().map(Values::preset).ok_or_else(|| {
            let names: Vec<_> = others.into_iter().map(|p| p.model).collect();
            let what = format!("is neither a file nor a preset of {}", method.name());
            let remedy = format!("name a file, or one of {}", names.join(", "));
            Error::input(path, "--hparams", what, remedy)
        })
    }

    /// From a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or as [`parse`](Values::parse).
    pub fn read(path: &Path) -> Result<Values> {
        let bytes = read_file(path, 1 << 20)?;
        Values::parse(path, &bytes)
    }

    /// From the bytes of a JSON object or a YAML mapping; `path` stands for the file in errors.
    ///
    /// # Errors
    ///
    /// Bytes that are neither; the line is named.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Values> {
        let bad =
            |line: u64, what: String| Error::input(path, format!("line {line}"), what, REMEDY);
        // A JSON file may be indented by tabs, which YAML forbids.
        let value: Value = if bytes.trim_ascii_start().starts_with(b"{") {
            let UniqueKeys(value) =
                serde_json::from_slice(bytes).map_err(|e| bad(e.line() as u64, e.to_string()))?;
            value
        } else {
            let read: std::result::Result<_, serde_saphyr::Error> = serde_saphyr::from_slice(bytes);
            read.map_err(|e| {
                let line = e.location().map_or(1, |at| at.line());
                // The other words are for programmers.
                let what = e.without_snippet().render_with_formatter(&UserMessageFormatter);
                bad(line, what.lines().next().unwrap_or_default().to_owned())
            })?
        };
        match value {
            Value::Object(map) => {
                let file = path.display().to_string();
                Ok(Values { file: Some(file.clone()), ..Values::from(map, &file) })
            }
            _ => Err(Error::input(path, "hyperparameters", "are not names with values", REMEDY)),
        }
    }

    fn preset(preset: Preset) -> Values {
        Values::from(preset.values, &format!("preset {}", preset.model))
    }

    fn from(map: Map<String, Value>, source: &str) -> Values {
        let with = |(name, value)| (name, (value, source.to_owned()));
        Values { map: map.into_iter().map(with).collect(), file: None }
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
        self.map.insert(name.to_owned(), (value, "--set".to_owned()));
    }

    /// Names that say nothing to a method.
    pub fn unknown(&self, method: Method) -> Vec<&str> {
        let fixed = FIXED.map(|(name, _)| name);
        let known = [&USED[..], settings::used(method), &fixed, &CHECKED, &IDLE].concat();
        self.map.keys().map(String::as_str).filter(|name| !known.contains(name)).collect()
    }

    /// All values, for the record.
    pub fn to_json(&self) -> Value {
        self.map.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect()
    }

    /// Where each value comes from, for the record: `preset NAME`, the file or `--set`.
    pub fn sources(&self) -> Value {
        self.map.iter().map(|(name, (_, source))| (name.clone(), json!(source))).collect()
    }

    /// What a method takes, by source, for people: `v_lr 0.5 (--set); layers [17] (preset …)`.
    pub fn said(&self, method: Method) -> String {
        let mut by_source: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for &name in USED.iter().chain(settings::used(method)) {
            if let Some((value, source)) = self.map.get(name) {
                by_source.entry(source).or_default().push(format!("{name} {value}"));
            }
        }
        let said = by_source.iter().map(|(source, said)| format!("{} ({source})", said.join(", ")));
        said.collect::<Vec<_>>().join("; ")
    }

    /// What ROME and R-ROME need, checked against the model.
    ///
    /// # Errors
    ///
    /// A value that is missing, of the wrong kind or out of range, or that asks for what these
    /// methods do not do.
    pub fn rome(&self, model: &Model) -> Result<Hparams> {
        let last = model.arch.layers - 1;
        let layer = match self.need("layers")?.as_array().map(Vec::as_slice) {
            Some([one]) => self.count("layers", one)?,
            _ => return Err(self.bad("layers", "is not a list of one layer, as in [5]")),
        };
        if layer > last {
            let what = format!("{layer} is not one of the model's layers 0 to {last}");
            return Err(self.bad("layers", what));
        }
        self.fixed(model, layer)?;
        // ROME reads the model's own logits: those after the last layer.
        self.only("v_loss_layer", &json!(last))?;
        let site = Site { layer, at: At::Value };
        let search = Search {
            push: Push { site, attention: false, loss_layer: last },
            steps: self.steps()?,
            lr: self.positive("v_lr")?,
            weight_decay: self.weight("v_weight_decay")?,
            clamp: self.positive("clamp_norm_factor")?,
            kl_factor: self.weight("kl_factor")?,
            nll_factor: 1.0,
            anneal_nll: false,
            loss_tolerance: LOSS_TOLERANCE,
        };
        let mom2 = self.need("mom2_adjustment")?;
        let mom2_adjustment = mom2
            .as_bool()
            .ok_or_else(|| self.bad("mom2_adjustment", format!("{mom2} is not true or false")))?;
        Ok(Hparams { layer, search, mom2_adjustment })
    }

    /// Refuses choices that are not made here; `layer` is any that is edited.
    pub(super) fn fixed(&self, model: &Model, layer: usize) -> Result<()> {
        for (name, only) in FIXED {
            let only: Value = serde_json::from_str(only).expect("JSON, held by a test");
            self.only(name, &only)?;
        }
        let down = &model.editable(layer).module;
        let template = down.replacen(&format!(".{layer}."), ".{}.", 1);
        self.only("rewrite_module_tmp", &json!(template))
    }

    /// A value, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).map(|(value, _)| value)
    }

    /// Refuses any value but one; none is fine.
    pub(super) fn only(&self, name: &str, only: &Value) -> Result<()> {
        match self.map.get(name) {
            Some((value, source)) if value != only => {
                let what = format!("is {value}, and only {only} is done here");
                let remedy = format!("take it out, or say --set '{name}={only}'");
                Err(Error::input(source, name, what, remedy))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn need(&self, name: &str) -> Result<&Value> {
        self.get(name)
            .ok_or_else(|| self.bad(name, "is given nowhere, and no preset fits the model"))
    }

    pub(super) fn number(&self, name: &str) -> Result<f64> {
        let value = self.need(name)?;
        // YAML readers disagree on 5e-1: some say it is a text.
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        match number {
            Some(x) if x > LARGEST => {
                Err(self.bad(name, format!("{x:e} is above {LARGEST:e}: sums would overflow")))
            }
            Some(x) if x >= 0.0 => Ok(x),
            _ => Err(self.bad(name, format!("{value} is not a number from 0"))),
        }
    }

    pub(super) fn positive(&self, name: &str) -> Result<f64> {
        match self.number(name)? {
            0.0 => Err(self.bad(name, "is 0 and has to be above it")),
            x => Ok(x),
        }
    }

    /// What is added to KKᵀ, and has to show beside it in f64.
    pub(super) fn above_rounding(&self, name: &str) -> Result<f64> {
        match self.positive(name)? {
            x if x < LEAST => {
                Err(self.bad(name, format!("{x:e} is below {LEAST:e} and would be lost")))
            }
            x => Ok(x),
        }
    }

    /// The weight of a term of the loss.
    pub(super) fn weight(&self, name: &str) -> Result<f64> {
        match self.number(name)? {
            x if x > HEAVIEST => {
                Err(self.bad(name, format!("{x} is above {HEAVIEST}: nothing else would count")))
            }
            x => Ok(x),
        }
    }

    pub(super) fn steps(&self) -> Result<usize> {
        let name = "v_num_grad_steps";
        match self.count(name, self.need(name)?)? {
            0 => Err(self.bad(name, "is 0, so no value is searched")),
            steps => Ok(steps),
        }
    }

    pub(super) fn count(&self, name: &str, value: &Value) -> Result<usize> {
        let count = value.as_u64().filter(|&n| n < 1 << 31);
        count.map(|n| n as usize).ok_or_else(|| self.bad(name, format!("{value} is not a count")))
    }

    pub(super) fn bad(&self, name: &str, what: impl Into<String>) -> Error {
        let remedy = format!("put \"{name}\" into the file of --hparams, or say --set {name}=…");
        let file = self.file.as_deref().unwrap_or("--hparams");
        let source = self.map.get(name).map_or(file, |(_, source)| source);
        Error::input(source, name, what, remedy)
    }
}
