//! Hyperparameters by the names in ROME, MEMIT and EasyEdit config files: a preset, a file over it,
//! single settings over both.
//!
//! The file is JSON, as the original code's, or YAML, as EasyEdit's. Every value remembers where
//! it comes from. A value that a method needs and nothing gives is an error that names it; so is
//! one that asks for what is not done here; a name that no method knows is a warning.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};
use serde_saphyr::UserMessageFormatter;

use super::method::Method;
use super::params::{Absent, FIXED, LAYER, Param, ParamKind, Params, number, parsed};
use super::presets::{self, Preset};
use super::public_config;
use crate::base::file::read_file;
use crate::base::json::UniqueKeys;
use crate::base::ranges;
use crate::base::{Error, Remedy, Result};
use crate::model::families::FAMILIES;
use crate::model::{Matrix, MatrixId, Model};

const REMEDY: &str = "give names and values such as {\"layers\": [5], \"v_lr\": 0.5}";

/// Values by name, each with where it comes from.
#[derive(Clone, Debug, Default)]
pub struct HparamSet {
    map: BTreeMap<String, (Value, String)>,
    /// The file among them, if there is one.
    file: Option<String>,
}

impl HparamSet {
    /// What a user chose: a file, over the preset of the model's sizes if there is one; a preset by
    /// name; or nothing, and then the preset of the model's sizes.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or as [`parse`](HparamSet::parse); a name that is neither.
    pub fn choose(given: Option<&Path>, method: &dyn Method, model: &Model) -> Result<HparamSet> {
        let name = method.about().name;
        let fitting = presets::of(method, &model.arch);
        let fitting = fitting.map_or(HparamSet::default(), HparamSet::preset);
        let Some(path) = given else { return Ok(fitting) };
        if path.exists() && !path.is_dir() {
            let mut values = fitting;
            let read = HparamSet::read(path)?;
            values.map.extend(read.map);
            values.file = read.file;
            return Ok(values);
        }
        let (named, others): (Vec<_>, Vec<_>) =
            presets::all(method).into_iter().partition(|p| path == Path::new(&p.model));
        named.into_iter().next().map(HparamSet::preset).ok_or_else(|| {
            let names: Vec<_> = others.into_iter().map(|p| p.model).collect();
            let what = format!("is neither a file nor a preset of {name}");
            let remedy = match names.is_empty() {
                true => "name a file".to_owned(),
                false => format!("name a file, or one of {}", names.join(", ")),
            };
            Error::input(path, "hyperparameters", what, remedy)
        })
    }

    /// From a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or as [`parse`](HparamSet::parse).
    pub fn read(path: &Path) -> Result<HparamSet> {
        let bytes = read_file(path, 1 << 20)?;
        HparamSet::parse(path, &bytes)
    }

    /// From the bytes of a JSON object or a YAML mapping; `path` stands for the file in errors.
    ///
    /// # Errors
    ///
    /// Bytes that are neither; the line is named.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<HparamSet> {
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
                Ok(HparamSet { file: Some(file.clone()), ..HparamSet::from(map, &file) })
            }
            _ => Err(Error::input(path, "hyperparameters", "are not names with values", REMEDY)),
        }
    }

    fn preset(preset: Preset) -> HparamSet {
        HparamSet::from(preset.values, &format!("preset {}", preset.model))
    }

    fn from(map: Map<String, Value>, source: &str) -> HparamSet {
        let with_source = |(name, value): (String, Value)| {
            let value = listed(&name, value);
            (name, (value, source.to_owned()))
        };
        HparamSet { map: map.into_iter().map(with_source).collect(), file: None }
    }

    /// Puts a value over what is there; `source` says in errors and records who gave it.
    pub fn put(&mut self, name: &str, value: Value, source: &str) {
        self.map.insert(name.to_owned(), (listed(name, value), source.to_owned()));
    }

    /// Gives parameters that nothing gives the defaults they have for all models.
    pub fn fill(&mut self, method: &dyn Method) {
        for param in method.params() {
            // A module names matrices, so what is a default without it is none with it.
            let said = param.kind == ParamKind::Matrices && self.module_name().is_some();
            if let Absent::Default(value) = param.absent
                && !said
                && !self.map.contains_key(param.name)
            {
                let value = (parsed(value), "default".to_owned());
                self.map.insert(param.name.to_owned(), value);
            }
        }
    }

    /// Names that do not apply to a method.
    pub fn unknown(&self, method: &dyn Method) -> Vec<&str> {
        let known = |name: &str| {
            let listed = method.params().iter().copied().chain(&FIXED).any(|p| p.name == name);
            listed || public_config::knows(name)
        };
        self.map.keys().map(String::as_str).filter(|name| !known(name)).collect()
    }

    /// What the values say of the model and the method that is not so.
    pub fn contradictions(&self, method: &dyn Method, model: &Model) -> Vec<String> {
        let edited = edited_module(model, 0);
        let family = FAMILIES.iter().find(|family| family.name == model.arch.family);
        let said = |(name, (value, _)): (&String, &(Value, String))| {
            public_config::contradiction(name, value, method, (family, &edited))
        };
        self.map.iter().filter_map(said).collect()
    }

    /// All values, for the record.
    pub fn to_json(&self) -> Value {
        self.map.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect()
    }

    /// Where each value comes from, for the record: `preset NAME`, the file, who set it, or
    /// `default`.
    pub fn sources(&self) -> Value {
        self.map.iter().map(|(name, (_, source))| (name.clone(), json!(source))).collect()
    }

    /// What a method takes, by source, for people: `v_lr 0.5 (FILE); layers [17] (preset …)`.
    pub fn summary(&self, method: &dyn Method) -> String {
        let mut by_source: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for param in method.params() {
            let module = || self.module_name().filter(|_| param.kind == ParamKind::Matrices);
            let name = if self.map.contains_key(param.name) { Some(param.name) } else { module() };
            if let Some((name, (value, source))) = name.and_then(|n| self.map.get_key_value(n)) {
                by_source.entry(source).or_default().push(format!("{name} {value}"));
            }
        }
        let groups =
            by_source.iter().map(|(source, values)| format!("{} ({source})", values.join(", ")));
        groups.collect::<Vec<_>>().join("; ")
    }

    /// The values of a method's parameters, checked against their kinds and the model.
    ///
    /// # Errors
    ///
    /// A value that is missing, of the wrong kind or out of range, or that asks for what the method
    /// does not do.
    pub fn resolve(&self, method: &dyn Method, model: &Model) -> Result<Params> {
        let top = model.arch.layers - 1;
        let mut values = BTreeMap::new();
        let mut layers = Vec::new();
        for &param in method.params() {
            let Some(value) = self.value(param)? else { continue };
            match param.kind {
                ParamKind::Layer | ParamKind::Layers => layers = self.layers(param, &value, top)?,
                ParamKind::NumberOrOff(_) if matches!(value, Value::Null | Value::Bool(false)) => {
                    continue;
                }
                _ => self.check(param, &value, top)?,
            }
            // A number that YAML took for a text is a number all the same.
            let plain = match param.kind {
                ParamKind::Number(_) | ParamKind::NumberOrOff(_) | ParamKind::SwitchOrNumber(_) => {
                    number(&value).map_or(value, Value::from)
                }
                _ => value,
            };
            values.insert(param.name, plain);
        }
        for param in &FIXED {
            if let Some(value) = self.get(param.name) {
                self.check(param, value, top)?;
            }
        }
        let trains = method.params().iter().find(|param| param.kind == ParamKind::Matrices);
        let mut trained = Vec::new();
        match (trains, layers.first()) {
            (Some(param), Some(_)) => {
                trained = self.matrices(param, &layers, model)?;
                self.inner_params(&trained, model)?;
            }
            (None, Some(&first)) => {
                let edited = edited_module(model, first);
                public_config::MODULES.iter().try_for_each(|name| self.module(name, &edited))?;
            }
            _ => {}
        }
        let params = Params::new(values, layers, trained);
        method.check_model(&params, &model.arch)?;
        Ok(params)
    }

    /// A parameter's value, or its default; nothing where the method goes on without it.
    fn value(&self, param: &Param) -> Result<Option<Value>> {
        match (self.get(param.name), param.absent) {
            (Some(value), _) => Ok(Some(value.clone())),
            (None, Absent::Default(value)) => Ok(Some(parsed(value))),
            (None, Absent::Unused(_)) => Ok(None),
            (None, Absent::Needed) => {
                Err(self.bad(param.name, "is given nowhere, and no preset fits the model"))
            }
        }
    }

    fn check(&self, param: &Param, value: &Value, top: usize) -> Result<()> {
        let name = param.name;
        match param.kind {
            ParamKind::Layer | ParamKind::Layers => self.layers(param, value, top).map(drop),
            ParamKind::LossLayer => self.layer(name, value, top).map(drop),
            ParamKind::LastLayer => self.only(name, &json!(top)),
            ParamKind::Only(only) => self.only(name, &parsed(only)),
            ParamKind::Count => match self.count(name, value)? {
                0 => Err(self.bad(name, "is 0 and has to be 1 or more")),
                _ => Ok(()),
            },
            ParamKind::Switch | ParamKind::SwitchOrNumber(_) if value.is_boolean() => Ok(()),
            ParamKind::Switch => Err(self.bad(name, format!("{value} is not true or false"))),
            ParamKind::File if value.is_string() => Ok(()),
            ParamKind::File => Err(self.bad(name, format!("{value} is no file's path"))),
            ParamKind::Choice(words) => match value.as_str() {
                Some(word) if words.contains(&word) => Ok(()),
                _ => Err(self.bad(name, format!("is {value}, and takes {}", param.kind.words()))),
            },
            ParamKind::Matrices => self.named(name, value).map(drop),
            ParamKind::Number(range)
            | ParamKind::NumberOrOff(range)
            | ParamKind::SwitchOrNumber(range) => match number(value) {
                Some(x) if x >= 0.0 => {
                    range.complaint(x).map_or(Ok(()), |what| Err(self.bad(name, what)))
                }
                _ => Err(self.bad(name, format!("{value} is not {}", param.kind.words()))),
            },
        }
    }

    /// The matrices that are trained, ascending: by their own names, of every layer or of one each,
    /// or else by that of a module.
    fn matrices(&self, param: &Param, layers: &[usize], model: &Model) -> Result<Vec<MatrixId>> {
        let named = self.get(param.name).map(|value| self.named(param.name, value)).transpose()?;
        let of_module = self.module_name().map(|name| self.module_matrices(name, layers[0], model));
        let of_module = of_module.transpose()?;
        let named = match (named, of_module) {
            (Some(named), Some(of_module)) if named != of_module => {
                let names: Vec<&str> = of_module.iter().map(|(_, matrix)| matrix.name()).collect();
                let what = format!("are others than the module's, {}", names.join(", "));
                return Err(self.bad(param.name, what));
            }
            (Some(named), _) | (None, Some(named)) => named,
            (None, None) => vec![(None, Matrix::Down)],
        };
        let all = match named.iter().any(|(layer, _)| layer.is_some()) {
            true => self.of_layers(param, &named, layers)?,
            false => layers.iter().flat_map(|&l| named.iter().map(move |m| (l, m.1))).collect(),
        };
        for &(l, matrix) in &all {
            if !model.layers[l].matrices().any(|(own, _)| own == matrix) {
                let what = format!("{} is no matrix of layer {l} of this model", matrix.name());
                return Err(self.bad(param.name, what));
            }
        }
        Ok(all.into_iter().map(|(l, matrix)| MatrixId::new(l, matrix)).collect())
    }

    /// Refuses parameters named by the public code that are others than those trained; none is
    /// fine.
    fn inner_params(&self, trained: &[MatrixId], model: &Model) -> Result<()> {
        let name = "inner_params";
        let paths = self.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut named = BTreeSet::new();
        for path in paths {
            let Some(path) = path.as_str() else {
                return Err(self.bad(name, format!("{path} is no parameter's path")));
            };
            let found = model.matrices_named(path);
            named.extend(found.map_err(|e| self.bad(name, e.to_string()))?);
        }
        if named.is_empty() || named == trained.iter().copied().collect() {
            return Ok(());
        }
        let layers: BTreeSet<usize> = named.iter().map(|id| id.layer).collect();
        let matrices: BTreeSet<Matrix> = named.iter().map(|id| id.matrix).collect();
        let words: Vec<&str> = matrices.iter().map(|matrix| matrix.name()).collect();
        let what = "names other matrices than layers and matrices do, by which they are chosen";
        let remedy = Remedy::from("set both to what it names, and take it out")
            .hyperparameter("layers", Some(&json!(layers).to_string()))
            .hyperparameter("matrices", Some(&json!(words).to_string()));
        let (_, source) = &self.map[name];
        Err(Error::input(source, name, what, remedy))
    }

    /// Matrices of one layer each, of which every layer has one.
    fn of_layers(
        &self,
        param: &Param,
        named: &[NamedMatrix],
        layers: &[usize],
    ) -> Result<Vec<(usize, Matrix)>> {
        let all = named.iter().map(|&(layer, matrix)| Some((layer?, matrix)));
        let all: Vec<(usize, Matrix)> = all.collect::<Option<_>>().unwrap_or_default();
        let mut own: Vec<usize> = all.iter().map(|(layer, _)| *layer).collect();
        own.dedup();
        match own == layers {
            true => Ok(all),
            false => {
                let what = format!("are not each of one of the layers {layers:?}, and all of them");
                Err(self.bad(param.name, what))
            }
        }
    }

    /// Matrices by their own names, or as 5.up by layer and name; ascending.
    fn named(&self, name: &str, value: &Value) -> Result<Vec<NamedMatrix>> {
        let words = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let find = |word: &Value| {
            let text = word.as_str()?;
            let (layer, own) = match text.split_once('.') {
                Some((layer, own)) => (Some(layer.parse().ok()?), own),
                None => (None, text),
            };
            Some((layer, Matrix::ALL.into_iter().find(|matrix| matrix.name() == own)?))
        };
        let found = |word: &Value| {
            let takes = ParamKind::Matrices.words();
            let what = || format!("{word} is no matrix: it takes {takes}");
            find(word).ok_or_else(|| self.bad(name, what()))
        };
        let mut matrices = words.iter().map(found).collect::<Result<Vec<_>>>()?;
        matrices.sort_unstable();
        matrices.dedup();
        match matrices.is_empty() {
            true => Err(self.bad(name, "names no matrix")),
            false => Ok(matrices),
        }
    }

    /// The name by which a module is given, if one is.
    fn module_name(&self) -> Option<&'static str> {
        public_config::MODULES.into_iter().find(|name| self.map.contains_key(*name))
    }

    /// The matrices of a layer that modules hold, by their paths with `{}` for the layer.
    fn module_matrices(&self, name: &str, layer: usize, model: &Model) -> Result<Vec<NamedMatrix>> {
        let value = self.get(name).expect("is given");
        let paths = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut matrices = Vec::new();
        for path in paths {
            let Some(path) = path.as_str() else {
                return Err(self.bad(name, format!("{path} is no module's path")));
            };
            let found = model.matrices_named(&path.replace("{}", &layer.to_string()));
            let found = found.map_err(|e| self.bad(name, e.to_string()))?;
            if found.iter().any(|id| id.layer != layer) {
                return Err(self.bad(name, format!("{path} has no place for the layer")));
            }
            matrices.extend(found.into_iter().map(|id| (None, id.matrix)));
        }
        matrices.sort_unstable();
        matrices.dedup();
        Ok(matrices)
    }

    /// The edited layers, ascending.
    fn layers(&self, param: &Param, value: &Value, top: usize) -> Result<Vec<usize>> {
        let name = param.name;
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if param.kind == ParamKind::Layer && list.len() != 1 {
            return Err(self.bad(name, "is not a list of one layer, as in [5]"));
        }
        let counts = list.iter().map(|layer| self.count(name, layer));
        let layers = counts.collect::<Result<Vec<_>>>()?;
        if layers.is_empty() || !layers.is_sorted_by(|a, b| a < b) {
            return Err(self.bad(name, "is not a list of ascending layers, as in [3,4,5]"));
        }
        list.iter().try_for_each(|layer| self.layer(name, layer, top).map(drop))?;
        Ok(layers)
    }

    fn layer(&self, name: &str, value: &Value, top: usize) -> Result<usize> {
        match self.count(name, value)? {
            layer if layer > top => {
                let what = format!("{layer} is not one of the model's layers 0 to {top}");
                Err(self.bad(name, what))
            }
            layer => Ok(layer),
        }
    }

    fn count(&self, name: &str, value: &Value) -> Result<usize> {
        let count = value.as_u64().filter(|&n| n < 1 << 31);
        count.map(|n| n as usize).ok_or_else(|| self.bad(name, format!("{value} is not a count")))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).map(|(value, _)| value)
    }

    /// Refuses any value but one; none is fine.
    fn only(&self, name: &str, only: &Value) -> Result<()> {
        match self.map.get(name) {
            Some((value, source)) if value != only => {
                let what = format!("is {value}, and only {only} is done here");
                let remedy = Remedy::from(format!("take it out, or set it to {only}"))
                    .hyperparameter(name, Some(&only.to_string()));
                Err(Error::input(source, name, what, remedy))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a module that is not the edited one, alone or in a list.
    fn module(&self, name: &str, edited: &str) -> Result<()> {
        let value = self.get(name);
        let Some(other) = value.and_then(|all| public_config::other_module(all, edited)) else {
            return Ok(());
        };
        let what = format!("names {other}, and only {edited} is edited here");
        let remedy = Remedy::from("take it out, or name that module alone");
        let (_, source) = &self.map[name];
        Err(Error::input(source, name, what, remedy.hyperparameter(name, Some(edited))))
    }

    fn bad(&self, name: &str, what: impl Into<String>) -> Error {
        let remedy = Remedy::from(format!("set {name}, in the file of hyperparameters or alone"))
            .option("hparams", None)
            .hyperparameter(name, None);
        let file = self.file.as_deref().unwrap_or("hyperparameters");
        let source = self.map.get(name).map_or(file, |(_, source)| source);
        Error::input(source, name, what, remedy)
    }
}

/// A matrix by its name, of one layer or of every one.
type NamedMatrix = (Option<usize>, Matrix);

/// The edited module, with `{}` in place of the layer.
fn edited_module(model: &Model, layer: usize) -> String {
    model.matrix(MatrixId::down(layer)).stored.module.replacen(&format!(".{layer}."), ".{}.", 1)
}

/// Layers as a list: `5` is `[5]`, and `3-8` the layers from 3 to 8. Other values stay, and are
/// refused where they are read.
fn listed(name: &str, value: Value) -> Value {
    let layers = match &value {
        _ if name != LAYER.name => None,
        Value::Number(one) => one.as_u64().map(|l| json!([l])),
        Value::String(text) => ranges::parse(text).ok().map(|layers| json!(layers.0)),
        _ => None,
    };
    layers.unwrap_or(value)
}
