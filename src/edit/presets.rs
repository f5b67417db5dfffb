//! Published hyperparameters: the table is `presets.yaml`, and a model finds its row by its sizes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::method::Method;
use crate::model::arch::Arch;

#[derive(Deserialize)]
struct Table {
    models: BTreeMap<String, Sizes>,
    methods: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
}

#[derive(Deserialize)]
struct Sizes {
    family: String,
    layers: usize,
    width: usize,
    vocabulary: Option<usize>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// The model it was published for.
    pub model: String,
    /// Values by the field's names.
    pub values: Map<String, Value>,
}

fn table() -> Table {
    let table = serde_saphyr::from_str(include_str!("presets.yaml"));
    table.expect("the program's own file, held by a test")
}

/// All presets of a method, by the names of their models: those of the method whose numbers it
/// shares where it has none of its own.
pub fn all(method: &dyn Method) -> Vec<Preset> {
    let (mut methods, about) = (table().methods, method.about());
    let mut rows = methods.remove(about.presets).unwrap_or_default();
    rows.extend(methods.remove(about.name).unwrap_or_default());
    rows.into_iter().map(|(model, values)| Preset { model, values }).collect()
}

/// The preset for a model of these sizes.
pub fn of(method: &dyn Method, arch: &Arch) -> Option<Preset> {
    let models = table().models;
    let fits = |s: &Sizes| {
        (s.family.as_str(), s.layers, s.width) == (arch.family, arch.layers, arch.width)
            && s.vocabulary.is_none_or(|v| v == arch.vocabulary)
    };
    all(method).into_iter().find(|preset| models.get(&preset.model).is_some_and(fits))
}
