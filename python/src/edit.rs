//! A planned edit.

use std::path::PathBuf;

use incise::edit::apply::{Changed, Report};
use incise::editor::report::change_json;
use incise::{Artifact, Edit as Planned, MatrixChange, TensorBytes};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use serde_json::{Value, json};

use crate::editor::{Logits, generate, logits};
use crate::options::Choice;
use crate::run::{Reporter, run};

/// A planned edit. Calls on one take turns.
#[pyclass(frozen)]
pub struct Edit {
    pub edit: Planned,
    /// The one that was planned with: the engine tells it of later work too.
    pub reporter: Reporter,
}

/// A tensor: name, type as safetensors names it, sizes, bytes.
type Tensor<'py> = (String, &'static str, Vec<usize>, Bound<'py, PyByteArray>);

#[pymethods]
impl Edit {
    /// The lines of the report, one a request, as a JSON array.
    fn lines(&self) -> String {
        Value::from(self.edit.lines()).to_string()
    }

    /// What was done to each matrix, as a JSON array.
    fn changes(&self) -> String {
        let change = |c: &MatrixChange| change_json(self.edit.tensor(c.id), c);
        Value::from_iter(self.edit.changes().iter().map(change)).to_string()
    }

    /// Hyperparameters by name, and where each is from, as a JSON array of the two.
    fn hyperparameters(&self) -> String {
        Value::from_iter(self.edit.hyperparameters()).to_string()
    }

    /// The contexts, as JSON.
    fn contexts(&self) -> String {
        self.edit.contexts().to_json().to_string()
    }

    /// Whether it lives beside the weights.
    #[getter]
    fn is_memory(&self) -> bool {
        matches!(self.edit.artifact(), Artifact::Memory(_))
    }

    /// Writes the patch or the memory, and the report beside it.
    fn save(&self, py: Python, file: PathBuf, listener: &Bound<PyAny>) -> PyResult<()> {
        run(py, &self.reporter, listener, || self.edit.write(file))
    }

    /// Writes the edited checkpoint into a new folder; what was done to the weights, as JSON.
    fn apply(&self, py: Python, dir: PathBuf, listener: &Bound<PyAny>) -> PyResult<String> {
        run(py, &self.reporter, listener, || self.edit.apply(dir)).map(|report| json(&report))
    }

    /// Changes the checkpoint itself; what was done, as JSON.
    fn apply_in_place(&self, py: Python, listener: &Bound<PyAny>) -> PyResult<String> {
        run(py, &self.reporter, listener, || self.edit.apply_in_place()).map(|report| json(&report))
    }

    /// Writes a LoRA adapter, and says its rank.
    fn lora(
        &self,
        py: Python,
        dir: PathBuf,
        rank: Option<usize>,
        listener: &Bound<PyAny>,
    ) -> PyResult<usize> {
        let export = || self.edit.export_lora(dir, rank);
        Ok(run(py, &self.reporter, listener, export)?.rank)
    }

    /// Writes the changed tensors in full; what was done, as JSON.
    fn save_tensors(&self, py: Python, file: PathBuf, listener: &Bound<PyAny>) -> PyResult<String> {
        let export = || self.edit.export_tensors(file);
        run(py, &self.reporter, listener, export).map(|report| json(&report))
    }

    /// The changed tensors.
    fn tensors<'py>(&self, py: Python<'py>, listener: &Bound<PyAny>) -> PyResult<Vec<Tensor<'py>>> {
        let tensors = run(py, &self.reporter, listener, || self.edit.tensors())?;
        handed_over(py, tensors)
    }

    /// The same tensors as the checkpoint holds them.
    fn tensors_before<'py>(
        &self,
        py: Python<'py>,
        listener: &Bound<PyAny>,
    ) -> PyResult<Vec<Tensor<'py>>> {
        let tensors = run(py, &self.reporter, listener, || self.edit.tensors_before())?;
        handed_over(py, tensors)
    }

    /// How the edited model goes on from a prompt.
    fn generate(
        &self,
        py: Python,
        prompt: &str,
        choice: Choice,
        listener: &Bound<PyAny>,
    ) -> PyResult<String> {
        generate(py, &self.reporter, || self.edit.model(), (prompt, choice), listener)
    }

    /// Logits of the edited model after every token of a text.
    fn logits<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        listener: &Bound<PyAny>,
    ) -> PyResult<Logits<'py>> {
        logits(py, &self.reporter, || self.edit.model(), text, listener)
    }
}

/// As arrays of Python's own: its stable interface lets nobody else's bytes be written through.
fn handed_over(py: Python, tensors: Vec<TensorBytes>) -> PyResult<Vec<Tensor>> {
    let handed = |TensorBytes { name, dtype, shape, bytes }| {
        (name, dtype.name(), shape, PyByteArray::new(py, &bytes))
    };
    Ok(tensors.into_iter().map(handed).collect())
}

fn json(report: &Report) -> String {
    let tensor = |t: &Changed| -> Value {
        let Changed { name, weight, change, lost } = t;
        json!({"tensor": name, "weight": weight, "change": change, "lost": lost})
    };
    Value::from_iter(report.tensors.iter().map(tensor)).to_string()
}
