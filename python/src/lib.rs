//! `incise._incise`: the front door of the engine, as the package `incise` around it calls it.
//!
//! ```text
//! lib.rs      functions and classes of the module
//! editor.rs   a model that is open: plan, generate, measure, tune, statistics
//! edit.rs     a planned edit: facts, write, apply, tensors
//! files.rs    what long work reads, and where it writes → the engine's
//! options.rs  settings by name → those of the engine
//! run.rs      long work on a thread of its own, while the caller's looks for signals
//! errors.rs   errors and what helps → incise.Error
//! ```
//!
//! Nothing is decided here: names and values go in, texts, numbers and JSON come out. What belongs
//! to Python (dataclasses, NumPy, PyTorch, tqdm) is Python, beside this crate in `incise/`.

mod edit;
mod editor;
mod errors;
mod files;
mod options;
mod run;

use pyo3::prelude::pymodule;

/// The module.
#[pymodule]
mod _incise {
    use std::path::PathBuf;

    use incise::edit::methods::METHODS;
    use incise::store::record::LogEntry;
    use pyo3::prelude::*;
    use serde_json::{Value, json};

    use crate::errors::raise;

    #[pymodule_export]
    use crate::edit::Edit;
    #[pymodule_export]
    use crate::editor::Editor;

    /// The version of the engine.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// Every method's name, and those of its hyperparameters.
    #[pyfunction]
    fn methods() -> Vec<(&'static str, Vec<&'static str>)> {
        let names = |m: &dyn incise::edit::method::Method| {
            m.params().iter().map(|param| param.name).collect()
        };
        METHODS.into_iter().map(|method| (method.about().name, names(method))).collect()
    }

    /// Undoes the newest change of a folder; what it was, as JSON.
    #[pyfunction]
    fn undo(py: Python, dir: PathBuf) -> PyResult<String> {
        let undone = py.detach(|| incise::undo(dir)).map_err(|e| raise(py, &e))?;
        let changes: Vec<Value> = undone.changes.iter().map(entry).collect();
        Ok(json!({"changes": changes, "rolled_back": undone.rolled_back}).to_string())
    }

    /// The changes that were applied in place, as JSON, oldest first.
    #[pyfunction]
    fn log(py: Python, dir: PathBuf) -> PyResult<String> {
        let log = py.detach(|| incise::log(dir)).map_err(|e| raise(py, &e))?;
        Ok(Value::from_iter(log.iter().map(entry)).to_string())
    }

    fn entry(e: &LogEntry) -> Value {
        json!({
            "number": e.number, "time": e.time, "method": e.method, "facts": e.facts,
            "tensors": e.tensors,
        })
    }
}
