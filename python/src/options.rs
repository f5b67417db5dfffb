//! Keywords as settings of the engine.

use incise::editor::options::chat;
use incise::editor::text_model::Generation;
use incise::model::generate::Sampling;
use incise::{Editor, Error, Result};
use pyo3::FromPyObject;
use serde_json::{Map, Value};

/// How a text goes on; the keys of a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Choice {
    max_tokens: usize,
    temperature: f64,
    top_k: usize,
    top_p: f64,
    seed: u64,
    /// As JSON.
    chat: String,
}

/// An editor with settings by name, a JSON object of what [`Editor::option`] knows.
///
/// # Errors
///
/// As [`Editor::option`].
pub fn with_settings(editor: Editor, settings: &str) -> Result<Editor> {
    let settings: Map<String, Value> =
        serde_json::from_str(settings).map_err(broken("settings"))?;
    settings.iter().try_fold(editor, |editor, (name, value)| editor.option(name, value))
}

impl Choice {
    /// For the engine.
    ///
    /// # Errors
    ///
    /// A chat that is none.
    pub fn generation(self) -> Result<Generation> {
        let Choice { max_tokens, temperature, top_k, top_p, seed, .. } = self;
        let chat = chat(&self.chat.parse().map_err(broken("chat"))?)?;
        Ok(Generation { max_tokens, sampling: Sampling { temperature, top_k, top_p }, seed, chat })
    }
}

/// JSON that the package wrote, and cannot be read.
fn broken(name: &'static str) -> impl Fn(serde_json::Error) -> Error {
    move |e| Error::refused(format!("{name}: {e}"), "report it")
}
