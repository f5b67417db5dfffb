//! Chats: a message as the model's own template shows it to the model.
//!
//! The template is Jinja, from `chat_template.jinja`, `chat_template.json` or
//! `tokenizer_config.json`, in this order; of several the one named `default`. Its surroundings are
//! those of the transformers library (`jinja.rs` says what it may cost): `messages`, `tools`
//! and `documents` (none), `add_generation_prompt`, the special tokens by name (from
//! `special_tokens_map.json` those that `tokenizer_config.json` does not name), and the tags
//! `generation`, which mark what training needs and are passed over.
//!
//! A rendered chat holds its special tokens as text, so none are added when it is tokenised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Environment, Value as Jinja, context};
use serde_json::Value;

use super::jinja;
use crate::base::file::{read_file, read_text};
use crate::base::{Error, Remedy, Result};

const NAME: &str = "chat";
const OWN: &str = "take the template from the model's source, or edit without it";
/// Stands for a message where its place is looked for: a character for private use.
const MARK: &str = "\u{E000}";
/// Bytes a template may have; the longest in use have some twenty thousand.
const LONGEST: usize = 256 << 10;
/// Bytes of a JSON file beside it.
const CONFIG: u64 = 64 << 20;

/// What a template puts around the one message of a user, the answer's opening included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Before the message.
    pub head: String,
    /// After it: the answer follows.
    pub tail: String,
}

/// A model's chat template.
pub struct Chat {
    env: Environment<'static>,
    /// The file, and what stands before the line in errors.
    place: (PathBuf, &'static str),
    /// The special tokens by name.
    tokens: BTreeMap<String, String>,
    /// The template, as the checkpoint has it.
    pub template: String,
}

impl Chat {
    /// Opens the template of a checkpoint folder.
    ///
    /// # Errors
    /// No template, or a broken one; file and line are named.
    pub fn open(dir: impl AsRef<Path>) -> Result<Chat> {
        let dir = dir.as_ref();
        let config = json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let (place, template) = find(dir, &config)?;
        let mut env = jinja::environment();
        let source = without_generation(&template);
        let found = jinja::deep(|| env.add_template_owned(NAME, source));
        found.map_err(|e| failed(&place, &e))?;
        let others = json(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
        let mut tokens = tokens(&others);
        tokens.extend(self::tokens(&config));
        Ok(Chat { env, place, tokens, template })
    }

    /// The chat of one message of a user, up to where the answer begins.
    ///
    /// # Errors
    /// A template that fails, or refuses the message; file and line are named.
    pub fn render(&self, message: &str) -> Result<String> {
        let message = context! { role => "user", content => message };
        let said = context! {
            messages => vec![message],
            tools => (),
            documents => (),
            add_generation_prompt => true,
        };
        let tokens = Jinja::from_pairs(self.tokens.clone());
        let template = self.env.get_template(NAME).map_err(|e| failed(&self.place, &e))?;
        let shown = jinja::render(&template, context! { ..said, ..tokens });
        shown.map_err(|e| failed(&self.place, &e))
    }

    /// What the template puts around a message. White space around the message is not part of
    /// it: many templates drop it.
    ///
    /// # Errors
    /// As [`render`](Chat::render); a template that does not show the message once, as it is.
    pub fn frame(&self, message: &str) -> Result<Frame> {
        let (marked, message) = (self.render(MARK)?, message.trim());
        if let Some((head, tail)) = marked.split_once(MARK)
            && self.render(message)? == [head, message, tail].concat()
        {
            return Ok(Frame { head: head.to_owned(), tail: tail.to_owned() });
        }
        let what = format!("does not show the message {message:?} once and as it is");
        Err(Error::input(
            &self.place.0,
            "chat_template",
            what,
            without("edit without the template"),
        ))
    }
}

fn without(text: &str) -> Remedy {
    Remedy::from(text).option("chat", Some("false"))
}

/// The file with the template, what stands before the line in errors, and the template.
fn find(dir: &Path, config: &Value) -> Result<((PathBuf, &'static str), String)> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let text = read_text(&path, LONGEST as u64)?;
        return Ok(((path, ""), text));
    }
    let path = dir.join("chat_template.json");
    let own = json(&path)?;
    let (path, value) = match &own {
        Some(value) => (path, value),
        None => (dir.join("tokenizer_config.json"), config),
    };
    let wrong = |what: &str| Err(Error::input(&path, "chat_template", what, without(OWN)));
    let text = match &value["chat_template"] {
        Value::String(text) => text,
        Value::Null => {
            let what = "is missing, and there is no chat_template.jinja: the model has no chat";
            return wrong(what);
        }
        Value::Array(all) => match all.iter().find(|t| t["name"] == "default") {
            Some(Value::Object(one)) if one.get("template").is_some_and(Value::is_string) => {
                one["template"].as_str().unwrap_or_default()
            }
            _ => return wrong("has no template named `default`"),
        },
        _ => return wrong("is neither a text nor a list of named texts"),
    };
    if text.len() > LONGEST {
        return wrong(&format!("has more than {LONGEST} bytes"));
    }
    let text = text.to_owned();
    Ok(((path, "chat_template, "), text))
}

/// A JSON file, if it is there.
fn json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_file(path, CONFIG)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        let what = format!("is not JSON: {e}");
        Error::input(path, format!("line {}", e.line()), what, without(OWN))
    })
}

/// `bos_token` and the like: texts, or objects with the text as their `content`.
fn tokens(config: &Value) -> BTreeMap<String, String> {
    let named = config.as_object().into_iter().flatten().filter(|(n, _)| n.ends_with("_token"));
    let text = |v: &Value| v.as_str().or_else(|| v["content"].as_str()).map(String::from);
    named.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

fn failed((path, before): &(PathBuf, &'static str), e: &minijinja::Error) -> Error {
    let line = e.line().map_or("the template".to_owned(), |n| format!("line {n}"));
    let what = e.detail().map_or(e.kind().to_string(), |detail| format!("{}: {detail}", e.kind()));
    Error::input(path, format!("{before}{line}"), what, without(OWN))
}

/// The template with `{% generation %}` … `{% endgeneration %}` as a condition that holds, lines
/// and trimming kept.
fn without_generation(template: &str) -> String {
    let (mut out, mut rest) = (String::new(), template);
    while let Some(at) = rest.find("{%") {
        let tag = rest[at + 2..].trim_start_matches(['-', '+']).trim_start();
        out.push_str(&rest[..rest.len() - tag.len()]);
        rest = tag;
        for (word, by) in [("generation", "if true"), ("endgeneration", "endif")] {
            if let Some(after) = tag.strip_prefix(word)
                && after.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            {
                out.push_str(by);
                rest = after;
            }
        }
    }
    out + rest
}
