//! Settings by name, for callers that have no types of ours: a JSON document, keyword arguments.
//!
//! | name | value | is |
//! | --- | --- | --- |
//! | `method` | text | [`Editor::method`] |
//! | `stats`, `contexts`, `state`, `cache`, `output` | text, a path | the methods of [`Editor`] |
//! | `editor` | text, a path | [`Editor::trained_editor`] |
//! | `hparams` | text, a path or a preset's name | [`Editor::hparams`] |
//! | `hyperparameters` | object, values by name | [`Editor::set`] |
//! | `seed`, `memory` (bytes), `sequential` (facts) | whole number | the methods of [`Editor`] |
//! | `rounds` | whole number from 1 | [`Editor::rounds`] |
//! | `chat` | true, or an object with `system` and `variables` | [`Editor::chat_with`] |
//! | `no_space`, `no_check` | true or false | the methods of [`Editor`] |
//! | `on_broken` | `error`, `skip` | [`Editor::on_broken`] |
//! | `on_conflict` | `error`, `last`, `first` | [`Editor::on_conflict`] |
//! | `precision` | `exact`, `fast` | [`Editor::fast_search`] |
//! | `without`, `values` | list of texts | the methods of [`Editor`] |
//!
//! `null` leaves a setting as it is, and so do false, `exact` and empty lists: what the editor has
//! already is not turned off, and `without` and `values` add to it.
//!
//! A document has these and `requests`: a list of records in any form that a file of requests may
//! have, one such record, or the path of such a file.

use serde_json::{Map, Value};

use super::Editor;
use super::prepared::Prepared;
use crate::base::json::UniqueKeys;
use crate::base::{Error, Result};
use crate::data::broken::OnBroken;
use crate::data::conflicts::OnConflict;
use crate::model::SearchPrecision;
use crate::text::ChatSettings;

/// The names that [`Editor::option`] knows.
pub const OPTIONS: [&str; 21] = [
    "cache",
    "chat",
    "contexts",
    "editor",
    "hparams",
    "hyperparameters",
    "memory",
    "method",
    "no_check",
    "no_space",
    "on_broken",
    "on_conflict",
    "output",
    "precision",
    "rounds",
    "seed",
    "sequential",
    "state",
    "stats",
    "values",
    "without",
];

/// Where a setting comes from, in errors.
const CALLER: &str = "settings";

impl Editor {
    /// Sets what has a name, one of [`OPTIONS`].
    ///
    /// # Errors
    ///
    /// A name that is none; a value of another kind; what the method of [`Editor`] refuses.
    pub fn option(mut self, name: &str, value: &Value) -> Result<Editor> {
        let given = Given { name, value };
        if value.is_null() && OPTIONS.contains(&name) {
            return Ok(self);
        }
        match name {
            "method" => self.method(given.text()?),
            "hparams" => self.hparams(given.text()?),
            "stats" => self.statistics(given.text()?),
            "editor" => self.trained_editor(given.text()?),
            "contexts" => self.contexts(given.text()?),
            "state" => Ok(self.state(given.text()?)),
            "cache" => Ok(self.cache(given.text()?)),
            "output" => Ok(self.output(given.text()?)),
            "seed" => Ok(self.seed(given.whole()?)),
            "memory" => Ok(self.memory(given.whole()?)),
            "rounds" => Ok(self.rounds(given.positive()?)),
            "sequential" => Ok(self.sequential(given.whole()? as usize)),
            "without" => Ok(self.without(given.texts()?)),
            "values" => Ok(self.values(given.texts()?)),
            "no_space" => Ok(if given.yes()? { self.no_space() } else { self }),
            "no_check" => Ok(if given.yes()? { self.no_check() } else { self }),
            "hyperparameters" => {
                for (name, value) in given.object()? {
                    self = self.set(name, value.clone())?;
                }
                Ok(self)
            }
            "chat" => match chat(value)? {
                Some(settings) => self.chat_with(settings),
                None => Ok(self),
            },
            "on_broken" => Ok(self.on_broken(given.choice(&OnBroken::NAMED)?)),
            "on_conflict" => Ok(self.on_conflict(given.choice(&OnConflict::NAMED)?)),
            "precision" => match given.choice(&SearchPrecision::NAMED)? {
                SearchPrecision::Fast => self.fast_search(),
                SearchPrecision::Exact => Ok(self),
            },
            _ => {
                let remedy = format!("name one of {}", OPTIONS.join(", "));
                Err(Error::input(CALLER, name, "is no setting", remedy))
            }
        }
    }

    /// Makes an edit ready to be planned that is one JSON document: `requests` and settings, which
    /// come on top of the editor's. `name` says in errors where it is from.
    ///
    /// # Errors
    ///
    /// No JSON object, one without requests or with a field twice; as [`option`](Editor::option)
    /// and [`prepare`](Editor::prepare).
    pub fn prepare_json(&self, name: &str, json: &[u8]) -> Result<Prepared> {
        const FORM: &str = "write one JSON object: requests, and settings by name";
        let wrong = |field: &str, what: String| Error::input(name, field, what, FORM);
        let document = serde_json::from_slice(json);
        let UniqueKeys(document) =
            document.map_err(|e| wrong("JSON", format!("cannot be read: {e}")))?;
        let Value::Object(mut fields) = document else {
            return Err(wrong("JSON", format!("is no object: {}", shown(&document))));
        };
        let missing = || wrong("requests", "is missing".to_owned());
        let requests = fields.remove("requests").ok_or_else(missing)?;
        let mut editor = self.clone();
        for (field, value) in &fields {
            editor = editor.option(field, value)?;
        }
        match requests {
            Value::String(file) => editor.prepare_file(file),
            Value::Array(_) | Value::Object(_) => {
                editor.prepare_text("requests", requests.to_string().as_bytes())
            }
            other => {
                let what = format!("is no list, record or path: {}", shown(&other));
                Err(wrong("requests", what))
            }
        }
    }
}

/// A chat's settings, as [`Editor::option`] takes them; none where there is to be no chat.
///
/// # Errors
///
/// As there.
pub fn chat(value: &Value) -> Result<Option<ChatSettings>> {
    Given { name: "chat", value }.chat()
}

/// A setting's name and value.
struct Given<'a> {
    name: &'a str,
    value: &'a Value,
}

impl<'a> Given<'a> {
    fn wrong(&self, kind: &str) -> Error {
        let what = format!("is not {kind}: {}", shown(self.value));
        Error::input(CALLER, self.name, what, format!("give it {kind}"))
    }

    fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("a text"))
    }

    fn whole(&self) -> Result<u64> {
        self.value.as_u64().ok_or_else(|| self.wrong("a whole number from 0"))
    }

    fn positive(&self) -> Result<usize> {
        let positive = self.value.as_u64().filter(|&number| number > 0);
        let positive = positive.and_then(|number| usize::try_from(number).ok());
        positive.ok_or_else(|| self.wrong("a whole number from 1"))
    }

    fn yes(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    fn object(&self) -> Result<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.wrong("an object of values by name"))
    }

    fn texts(&self) -> Result<Vec<&'a str>> {
        let texts = self.value.as_array().map(|list| list.iter().map(Value::as_str).collect());
        texts.flatten().ok_or_else(|| self.wrong("a list of texts"))
    }

    fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let found = choices.iter().find(|(name, _)| self.value == name);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(&format!("one of {}", names.join(", ")))
        })
    }

    /// What a chat has, if there is to be one.
    fn chat(&self) -> Result<Option<ChatSettings>> {
        const KIND: &str = "true, false, or an object with system and variables";
        let Value::Object(fields) = self.value else {
            let yes = self.value.as_bool().ok_or_else(|| self.wrong(KIND))?;
            return Ok(yes.then(ChatSettings::default));
        };
        let mut settings = ChatSettings::default();
        for (field, value) in fields {
            match (&field[..], value) {
                ("system", Value::String(text)) => settings.system = Some(text.clone()),
                ("variables", Value::Object(variables)) => {
                    settings.variables = variables.clone().into_iter().collect();
                }
                _ => return Err(self.wrong(KIND)),
            }
        }
        Ok(Some(settings))
    }
}

/// The beginning of a value, for errors.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
