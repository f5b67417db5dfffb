//! A model that is open.

use std::path::PathBuf;

use incise::editor::text_model::TextLogits;
use incise::{Device, Editor as Engine, Progress, Result, TextModel};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use serde_json::json;

use crate::edit::Edit;
use crate::files::{Evaluating, Statistics, Tracing, Tuning};
use crate::options::{Choice, with_settings};
use crate::run::{Reporter, run};

/// A checkpoint folder that is open.
#[pyclass(frozen)]
pub struct Editor {
    engine: Engine,
}

/// A text's ids, V, and its logits (tokens, V) as little-endian f32.
pub type Logits<'py> = (Vec<u32>, usize, Bound<'py, PyByteArray>);

#[pymethods]
impl Editor {
    /// Opens a folder.
    #[new]
    fn new(
        py: Python,
        dir: PathBuf,
        device: &str,
        threads: Option<usize>,
        listener: &Bound<PyAny>,
    ) -> PyResult<Editor> {
        let reporter = Reporter::default();
        let open = || {
            let engine = Engine::open_on(dir, &Device::parse(device)?, &reporter)?;
            threads.map_or(Ok(engine.clone()), |threads| engine.threads(threads))
        };
        Ok(Editor { engine: run(py, &reporter, listener, open)? })
    }

    /// The folder.
    #[getter]
    fn dir(&self) -> PathBuf {
        self.engine.dir().to_owned()
    }

    /// A fingerprint of the weights but for the matrices that edits may change.
    #[getter]
    fn fingerprint(&self) -> &str {
        self.engine.fingerprint()
    }

    /// Plans the change of the facts of a file, or of a JSON text.
    fn plan(
        &self,
        py: Python,
        requests: Requests,
        settings: &str,
        listener: &Bound<PyAny>,
    ) -> PyResult<Edit> {
        let (engine, reporter) = (self.engine.clone(), Reporter::default());
        let progress = reporter.clone();
        let plan = || {
            let editor = with_settings(engine.progress(progress), settings)?;
            let prepared = match requests {
                Requests::Text { text } => editor.prepare_text("requests", text.as_bytes()),
                Requests::File { file } => editor.prepare_file(file),
            }?;
            let edit = prepared.plan()?;
            edit.warn(&reporter);
            Ok(edit)
        };
        let edit = run(py, &reporter, listener, plan)?;
        Ok(Edit { edit, reporter })
    }

    /// How the model goes on from a prompt.
    fn generate(
        &self,
        py: Python,
        prompt: &str,
        choice: Choice,
        beside: Beside,
        listener: &Bound<PyAny>,
    ) -> PyResult<String> {
        generate(
            py,
            &Reporter::default(),
            || beside.model(&self.engine),
            (prompt, choice),
            listener,
        )
    }

    /// Logits after every token of a text.
    fn logits<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        beside: Beside,
        listener: &Bound<PyAny>,
    ) -> PyResult<Logits<'py>> {
        logits(py, &Reporter::default(), || beside.model(&self.engine), text, listener)
    }

    /// Ids of a text, with the special tokens that the tokenizer adds.
    fn tokens(&self, py: Python, text: &str) -> PyResult<Vec<u32>> {
        let ids = py.detach(|| self.engine.model().tokenizer().encode(text));
        ids.map_err(|e| crate::errors::raise(py, &e))
    }

    /// Chooses hyperparameters by trials, and writes them; what was found, as JSON.
    fn tune(
        &self,
        py: Python,
        of: Tuning,
        settings: &str,
        listener: &Bound<PyAny>,
    ) -> PyResult<String> {
        let (engine, reporter) = (self.engine.clone(), Reporter::default());
        let progress = reporter.clone();
        let tune = || with_settings(engine.progress(progress), settings)?.tune_files(&of.into());
        Ok(json!(run(py, &reporter, listener, tune)?).to_string())
    }

    /// Edits records and measures what became of them, into a folder; the summary, as JSON.
    fn evaluate(
        &self,
        py: Python,
        of: Evaluating,
        settings: &str,
        listener: &Bound<PyAny>,
    ) -> PyResult<String> {
        let (engine, reporter) = (self.engine.clone(), Reporter::default());
        let progress = reporter.clone();
        let evaluate = || {
            let editor = with_settings(engine.progress(progress), settings)?;
            editor.evaluate_files(&of.files()?)
        };
        Ok(run(py, &reporter, listener, evaluate)?.to_string())
    }

    /// Traces a prompt or known facts, perhaps into a folder; what was found, as JSON.
    fn trace(
        &self,
        py: Python,
        of: Tracing,
        settings: &str,
        listener: &Bound<PyAny>,
    ) -> PyResult<String> {
        let (engine, reporter) = (self.engine.clone(), Reporter::default());
        let progress = reporter.clone();
        let trace = || {
            let editor = with_settings(engine.progress(progress), settings)?;
            editor.trace_files(&of.files()?)
        };
        Ok(run(py, &reporter, listener, trace)?.json.to_string())
    }

    /// Collects key statistics into a folder; says how many tokens were run, as JSON.
    fn stats(
        &self,
        py: Python,
        corpus: Vec<PathBuf>,
        of: Statistics,
        listener: &Bound<PyAny>,
    ) -> PyResult<String> {
        let reporter = Reporter::default();
        let engine = self.engine.clone().progress(reporter.clone());
        let collect = || {
            if let Some(difference) = &engine.model().tokenizer().difference {
                reporter.warn(difference);
            }
            let output = of.output.clone();
            engine.collect_statistics(&corpus, &of.gathering()?, output)
        };
        let done = run(py, &reporter, listener, collect)?;
        let files: Vec<String> = done.inputs.iter().map(|input| input.name()).collect();
        Ok(json!({"inputs": files, "tokens": done.tokens}).to_string())
    }
}

/// Where requests are; a dict with one of the two.
#[derive(FromPyObject)]
pub enum Requests {
    #[pyo3(from_item_all)]
    Text { text: String },
    #[pyo3(from_item_all)]
    File { file: PathBuf },
}

/// What a model has beside its weights, or in them; the keys of a dict. At most one has files.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Beside {
    memories: Vec<PathBuf>,
    patches: Vec<PathBuf>,
}

impl Beside {
    fn model(&self, editor: &Engine) -> Result<TextModel> {
        match self.patches.is_empty() {
            true => editor.model_with(&self.memories),
            false => editor.model_patched(&self.patches),
        }
    }
}

/// Generates from a model, until it is interrupted.
pub fn generate(
    py: Python,
    reporter: &Reporter,
    model: impl FnOnce() -> Result<TextModel> + Send,
    (prompt, choice): (&str, Choice),
    listener: &Bound<PyAny>,
) -> PyResult<String> {
    let going = reporter.clone();
    let generate = || {
        let (how, model) = (choice.generation()?, model()?);
        let said = model.generate_with(prompt, &how, &mut |_| Ok(!going.cancelled()))?;
        Ok(said.text)
    };
    run(py, reporter, listener, generate)
}

/// Logits of a model after every token of a text.
pub fn logits<'py>(
    py: Python<'py>,
    reporter: &Reporter,
    model: impl FnOnce() -> Result<TextModel> + Send,
    text: &str,
    listener: &Bound<PyAny>,
) -> PyResult<Logits<'py>> {
    let going = reporter.clone();
    let logits = || model()?.logits(text, &|| !going.cancelled());
    let TextLogits { tokens, vocabulary, values } = run(py, reporter, listener, logits)?;
    let bytes = PyByteArray::new_with(py, values.len() * size_of::<f32>(), |bytes| {
        for (four, value) in bytes.as_chunks_mut().0.iter_mut().zip(&values) {
            *four = value.to_le_bytes();
        }
        Ok(())
    })?;
    Ok((tokens, vocabulary, bytes))
}
