//! Errors of the engine as `incise.Error`, and what helps against them as Python data.

use incise::base::remedy::{Operation, SettingKind};
use incise::{Error, Remedy};
use pyo3::prelude::*;

/// A setting that helps: whether it is a hyperparameter, its name, and a value.
pub type Setting = (bool, String, Option<String>);

/// The exception of an error. Its class is Python's, as its words are: keywords where the program
/// says flags.
pub fn raise(py: Python, e: &Error) -> PyErr {
    let file = e.file().map(|path| path.display().to_string());
    let remedy = e.remedy();
    let (settings, operation) = remedy.as_ref().map(advice).unwrap_or_default();
    let remedy = remedy.map(|remedy| remedy.text);
    let told = (e.line(), e.code(), file, e.field(), remedy, settings, operation);
    let made = || py.import("incise._error")?.getattr("from_engine")?.call1(told);
    made().map_or_else(|e| e, PyErr::from_value)
}

/// The settings of a remedy, and what else to run.
pub fn advice(remedy: &Remedy) -> (Vec<Setting>, Option<&'static str>) {
    let setting = |s: &incise::base::remedy::Setting| {
        (s.kind == SettingKind::Hyperparameter, s.name.clone(), s.value.clone())
    };
    let settings = remedy.settings.iter().map(setting).collect();
    (settings, remedy.operation.map(Operation::command))
}
