//! Keywords as settings of the engine.

use incise::editor::text_model::Generation;
use incise::model::generate::Sampling;
use incise::{ChatSettings, Editor, Error, Remedy, Result};
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
    chat: bool,
    system: Option<String>,
    /// As a JSON object.
    template_vars: String,
}

/// An editor with settings by name, a JSON object of what [`Editor::option`] knows.
///
/// # Errors
///
/// As [`Editor::option`].
pub fn with_settings(editor: Editor, settings: &str) -> Result<Editor> {
    let settings = object("settings", settings)?;
    settings.iter().try_fold(editor, |editor, (name, value)| editor.option(name, value))
}

impl Choice {
    /// For the engine.
    ///
    /// # Errors
    ///
    /// Template variables that are no JSON.
    pub fn generation(self) -> Result<Generation> {
        let Choice { max_tokens, temperature, top_k, top_p, seed, .. } = self;
        let chat = chat(self.chat, self.system, &self.template_vars)?;
        Ok(Generation { max_tokens, sampling: Sampling { temperature, top_k, top_p }, seed, chat })
    }
}

/// Of a chat, if it is one.
fn chat(chat: bool, system: Option<String>, variables: &str) -> Result<Option<ChatSettings>> {
    let variables = object("template_vars", variables)?;
    if !chat && (system.is_some() || !variables.is_empty()) {
        let remedy = Remedy::from("take prompts for messages of a chat, or leave them out");
        let what = "system or template_vars without a chat";
        return Err(Error::refused(what, remedy.option("chat", Some("true"))));
    }
    let variables = variables.into_iter().collect();
    Ok(chat.then_some(ChatSettings { system, variables }))
}

/// A JSON object.
fn object(name: &str, text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|e| {
        let remedy = "give numbers that are finite, texts, booleans, None, and lists of them";
        Error::refused(format!("{name}: {e}"), remedy)
    })
}
