//! Keywords as settings of the engine.

use std::path::PathBuf;

use incise::editor::text_model::Generation;
use incise::model::generate::Sampling;
use incise::{ChatSettings, Editor, Error, OnBroken, OnConflict, Remedy, Result};
use pyo3::FromPyObject;
use serde_json::{Map, Value};

/// How facts are edited; the keys of a dict. `None` where the engine's default holds.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options {
    method: Option<String>,
    stats: Option<PathBuf>,
    hparams: Option<PathBuf>,
    /// Hyperparameters over those of file and preset, as a JSON object.
    set: String,
    contexts: Option<PathBuf>,
    chat: bool,
    system: Option<String>,
    /// Variables of the chat template, as a JSON object.
    template_vars: String,
    no_space: bool,
    on_broken: String,
    on_conflict: String,
    precision: String,
    no_check: bool,
    memory: Option<u64>,
    seed: u64,
    sequential: usize,
    state: Option<PathBuf>,
    cache: Option<PathBuf>,
    output: Option<PathBuf>,
    values: Vec<PathBuf>,
    without: Vec<String>,
}

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

impl Options {
    /// An editor with these settings.
    ///
    /// # Errors
    ///
    /// A value that none is; what the engine says.
    pub fn of(self, editor: Editor) -> Result<Editor> {
        let mut editor = editor.seed(self.seed).sequential(self.sequential);
        editor = editor.without(self.without).values(self.values);
        if let Some(method) = &self.method {
            editor = editor.method(method)?;
        }
        if let Some(dir) = self.stats {
            editor = editor.statistics(dir)?;
        }
        if let Some(hparams) = self.hparams {
            editor = editor.hparams(hparams)?;
        }
        for (name, value) in object("settings", &self.set)? {
            editor = editor.set_from(&name, value, "keyword")?;
        }
        if let Some(file) = self.contexts {
            editor = editor.contexts(file)?;
        }
        if let Some(settings) = chat(self.chat, self.system, &self.template_vars)? {
            editor = editor.chat_with(settings)?;
        }
        if self.no_space {
            editor = editor.no_space();
        }
        editor = match &self.on_broken[..] {
            "error" => editor.on_broken(OnBroken::Error),
            "skip" => editor.on_broken(OnBroken::Skip),
            other => return Err(no_choice("on_broken", other, &["error", "skip"])),
        };
        editor = match &self.on_conflict[..] {
            "error" => editor.on_conflict(OnConflict::Error),
            "last" => editor.on_conflict(OnConflict::Last),
            "first" => editor.on_conflict(OnConflict::First),
            other => return Err(no_choice("on_conflict", other, &["error", "last", "first"])),
        };
        editor = match &self.precision[..] {
            "exact" => editor,
            "fast" => editor.fast_search()?,
            other => return Err(no_choice("precision", other, &["exact", "fast"])),
        };
        if self.no_check {
            editor = editor.no_check();
        }
        if let Some(bytes) = self.memory {
            editor = editor.memory(bytes);
        }
        if let Some(file) = self.state {
            editor = editor.state(file);
        }
        if let Some(dir) = self.cache {
            editor = editor.cache(dir);
        }
        if let Some(file) = self.output {
            editor = editor.output(file);
        }
        Ok(editor)
    }
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

fn no_choice(name: &str, given: &str, values: &[&str]) -> Error {
    let remedy = Remedy::from(format!("say one of {}", values.join(", ")));
    Error::refused(format!("{name}: there is no {given:?}"), remedy.option(name, Some(values[0])))
}
