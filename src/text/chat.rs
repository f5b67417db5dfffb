//! Chats: a user's message rendered by the model's own chat template.
//!
//! The template is Jinja, from `additional_chat_templates/default.jinja`, `chat_template.jinja`,
//! `tokenizer_config.json`, or a processor's `processor_config.json` or `chat_template.json`, in
//! this order, which is the transformers library's for a tokenizer and, of files that it does not
//! read for one, for a processor; of several, the one named `default`. It finds what the library
//! gives it (`jinja.rs` has its limits): `messages`, `tools` and `documents` (none),
//! `add_generation_prompt`, and the tokenizer's special tokens by name. The tags `generation`,
//! which mark what training needs, are ignored. A system message and variables of the template may
//! be set.
//!
//! A rendered chat contains its special tokens as text, so none are added when it is tokenised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, Value as Jinja, context};
use serde_json::Value;

use super::sources::Sources;
use super::{added, jinja};
use crate::base::file::{read_file, read_text};
use crate::base::{Error, Remedy, Result};

const NAME: &str = "chat";
const OWN: &str = "take the template from the model's source, or edit without it";
/// A stand-in for the message, to find where the template puts it: a private-use character.
pub(super) const MARK: &str = "\u{E000}";
/// The same for the system message.
const SYSTEM_MARK: &str = "\u{E001}";
/// What the library gives a template.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
/// Maximum size of a template; the longest in use have some twenty thousand bytes.
const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Maximum size of the JSON files.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// The text that a template puts around a user's message, the answer's opening included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Before the message.
    pub head: String,
    /// After it; the answer follows.
    pub tail: String,
}

/// What a chat has beside the user's message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatSettings {
    /// The system message.
    pub system: Option<String>,
    /// Variables that the template reads, by name, such as `enable_thinking`.
    pub variables: BTreeMap<String, Value>,
}

/// A model's chat template.
pub struct Chat {
    env: Environment<'static>,
    source: Source,
    /// The special tokens by name.
    tokens: BTreeMap<String, String>,
    /// What every chat has.
    pub settings: ChatSettings,
    /// The template, as the checkpoint has it.
    pub template: String,
}

/// Where a template comes from, for errors.
struct Source {
    file: PathBuf,
    /// The field in the file that holds it, followed by a comma and a space, or nothing.
    field: &'static str,
}

impl Chat {
    /// Opens the template of a checkpoint folder.
    ///
    /// # Errors
    /// No template, or a broken one; file and line are named.
    pub fn open(dir: impl AsRef<Path>) -> Result<Chat> {
        Chat::open_with(dir, ChatSettings::default())
    }

    /// The same, with a system message or variables of the template.
    ///
    /// # Errors
    /// As [`open`](Chat::open); a variable that the template does not read, or that is not for
    /// users to set; a system message that is blank, or that the template refuses or does not
    /// output once.
    pub fn open_with(dir: impl AsRef<Path>, settings: ChatSettings) -> Result<Chat> {
        let dir = dir.as_ref();
        let config = json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let (source, template) = find(dir, &config)?;
        let mut env = jinja::environment();
        let text = without_generation(&template);
        let parsed = jinja::with_large_stack(|| env.add_template_owned(NAME, text));
        parsed.map_err(|e| source.error(&e))?;
        let tokens = added::names(&Sources::read(dir)?)?;
        let chat = Chat { env, source, tokens, settings, template };
        chat.check()?;
        Ok(chat)
    }

    /// Refuses settings that would do nothing, or something else.
    fn check(&self) -> Result<()> {
        let given = &self.settings.variables;
        let read = if given.is_empty() { BTreeSet::new() } else { self.variables()? };
        for name in given.keys() {
            let what = match self.is_reserved(name) {
                true => format!("the template's variable `{name}` is not for users to set"),
                // A template may give a default to a variable that it then sets.
                false if !read.contains(name) && !has_word(&self.template, name) => {
                    format!("reads no variable `{name}`; it reads {}", listed(&read))
                }
                false => continue,
            };
            let remedy = Remedy::from("leave it out, or check its name");
            let remedy = remedy.option("template_var", None);
            return Err(Error::input(&self.source.file, "chat_template", what, remedy));
        }
        self.check_system()
    }

    /// Refuses a system message that the template drops, changes or repeats.
    fn check_system(&self) -> Result<()> {
        let Some(system) = &self.settings.system else { return Ok(()) };
        let text = system.trim();
        if text.is_empty() {
            let remedy = Remedy::from("leave it out, or say something in it");
            let remedy = remedy.option("system", None);
            return Err(Error::refused("a system message without text", remedy));
        }
        // Its own words may stand in the template too, so a mark takes their place.
        let marked = self.rendered(Some(SYSTEM_MARK), MARK, None, &self.settings.variables)?;
        let rendered = self.render(MARK)?;
        if let Some((head, tail)) = marked.split_once(SYSTEM_MARK)
            && [system, text].iter().any(|said| rendered == [head, said, tail].concat())
        {
            return Ok(());
        }
        let what = "does not output the system message exactly once and unchanged";
        let remedy = Remedy::from("leave it out, or write it into the prompts");
        let remedy = remedy.option("system", None);
        Err(Error::input(&self.source.file, "chat_template", what, remedy))
    }

    fn is_reserved(&self, name: &str) -> bool {
        let own = RESERVED.contains(&name) || name.ends_with("_token");
        own || self.tokens.contains_key(name) || self.env.globals().any(|(known, _)| known == name)
    }

    /// The variables that the template reads and users may set.
    pub(super) fn variables(&self) -> Result<BTreeSet<String>> {
        let template = self.env.get_template(NAME).map_err(|e| self.source.error(&e))?;
        let read = jinja::with_large_stack(|| Ok(template.undeclared_variables(false)));
        let read = read.map_err(|e| self.source.error(&e))?;
        Ok(read.into_iter().filter(|name| !self.is_reserved(name)).collect())
    }

    /// The chat of one user message, up to where the answer begins.
    ///
    /// # Errors
    /// A template that fails, or refuses the message; file and line are named.
    pub fn render(&self, message: &str) -> Result<String> {
        self.render_with(message, None, &self.settings.variables)
    }

    /// The chat of a user message, with some variables: up to where the answer begins, or with an
    /// answer.
    pub(super) fn render_with(
        &self,
        message: &str,
        answer: Option<&str>,
        variables: &BTreeMap<String, Value>,
    ) -> Result<String> {
        self.rendered(self.settings.system.as_deref(), message, answer, variables)
    }

    fn rendered(
        &self,
        system: Option<&str>,
        message: &str,
        answer: Option<&str>,
        variables: &BTreeMap<String, Value>,
    ) -> Result<String> {
        let said = [
            system.map(|text| ("system", text)),
            Some(("user", message)),
            answer.map(|text| ("assistant", text)),
        ];
        let said = said.into_iter().flatten();
        let messages: Vec<_> =
            said.map(|(role, content)| context! { role => role, content => content }).collect();
        let own = context! {
            messages => messages,
            tools => (),
            documents => (),
            add_generation_prompt => answer.is_none(),
        };
        let tokens = Jinja::from_pairs(self.tokens.clone());
        let variables = Jinja::from(Serde(variables));
        let template = self.env.get_template(NAME).map_err(|e| self.source.error(&e))?;
        let rendered = jinja::render(&template, context! { ..own, ..tokens, ..variables });
        rendered.map_err(|e| self.source.error(&e))
    }

    /// The text that the template puts around a message. White space around the message is not
    /// part of it: many templates drop it.
    ///
    /// # Errors
    /// As [`render`](Chat::render); a template that does not output the message exactly once and
    /// unchanged.
    pub fn frame(&self, message: &str) -> Result<Frame> {
        let marked = self.render(MARK)?;
        let message = message.trim();
        if let Some((head, tail)) = marked.split_once(MARK)
            && self.render(message)? == [head, message, tail].concat()
        {
            return Ok(Frame { head: head.to_owned(), tail: tail.to_owned() });
        }
        let what = format!("does not output the message {message:?} exactly once and unchanged");
        Err(Error::input(
            &self.source.file,
            "chat_template",
            what,
            without("edit without the template"),
        ))
    }
}

/// The template of a folder, and where it comes from.
fn find(dir: &Path, config: &Value) -> Result<(Source, String)> {
    if let Some(path) = jinja_file(dir)? {
        let text = read_text(&path, MAX_TEMPLATE_BYTES as u64)?;
        return Ok((Source { file: path, field: "" }, text));
    }
    let (mut path, mut value) = (dir.join("tokenizer_config.json"), &config["chat_template"]);
    let processor;
    for name in ["processor_config.json", "chat_template.json"] {
        let other = dir.join(name);
        if value.is_null()
            && let Some(read) = json(&other)?.filter(|read| !read["chat_template"].is_null())
        {
            processor = read;
            (path, value) = (other, &processor["chat_template"]);
            break;
        }
    }
    let wrong = |what: &str| Err(Error::input(&path, "chat_template", what, without(OWN)));
    let text = match value {
        Value::String(text) => text,
        Value::Null => {
            let what = "is missing, and there is no chat_template.jinja: the model has no chat";
            return wrong(what);
        }
        Value::Array(all) => match all.iter().rfind(|t| t["name"] == "default") {
            Some(Value::Object(one)) if one.get("template").is_some_and(Value::is_string) => {
                one["template"].as_str().unwrap_or_default()
            }
            _ => return wrong("has no template named `default`"),
        },
        _ => return wrong("is neither a string nor a list of named templates"),
    };
    if text.len() > MAX_TEMPLATE_BYTES {
        return wrong(&format!("has more than {MAX_TEMPLATE_BYTES} bytes"));
    }
    let text = text.to_owned();
    Ok((Source { file: path, field: "chat_template, " }, text))
}

/// The file of its own that holds the template, if there is one.
///
/// # Errors
/// Templates of other names in their folder and none for a plain chat: the library takes these in
/// place of all others, and so has none.
fn jinja_file(dir: &Path) -> Result<Option<PathBuf>> {
    let more = dir.join("additional_chat_templates");
    let own = [more.join("default.jinja"), dir.join("chat_template.jinja")];
    if let Some(path) = own.into_iter().find(|path| path.exists()) {
        return Ok(Some(path));
    }
    let files = std::fs::read_dir(&more).into_iter().flatten().flatten();
    if files.into_iter().any(|file| file.path().extension().is_some_and(|e| e == "jinja")) {
        let what = "has no default.jinja, and there is no chat_template.jinja";
        return Err(Error::input(more, "chat templates", what, without(OWN)));
    }
    Ok(None)
}

/// A JSON file, if it is there.
fn json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_file(path, MAX_JSON_BYTES)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        let what = format!("is not JSON: {e}");
        Error::input(path, format!("line {}", e.line()), what, without(OWN))
    })
}

impl Source {
    /// An error of the template, with file and line.
    fn error(&self, e: &minijinja::Error) -> Error {
        let line = e.line().map_or("the template".to_owned(), |n| format!("line {n}"));
        let what = match e.detail() {
            Some(detail) => format!("{}: {detail}", e.kind()),
            None => e.kind().to_string(),
        };
        Error::input(&self.file, format!("{}{line}", self.field), what, without(OWN))
    }
}

fn listed(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn without(text: &str) -> Remedy {
    Remedy::from(text).option("chat", Some("false"))
}

/// The template with `{% generation %}` … `{% endgeneration %}` as a condition that always holds,
/// so that lines and trimming stay the same.
fn without_generation(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let tag = rest[at + 2..].trim_start_matches(['-', '+']).trim_start();
        out.push_str(&rest[..rest.len() - tag.len()]);
        rest = tag;
        for (word, replacement) in [("generation", "if true"), ("endgeneration", "endif")] {
            if let Some(after) = tag.strip_prefix(word)
                && after.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            {
                out.push_str(replacement);
                rest = after;
            }
        }
    }
    out + rest
}

/// Whether a text has a word that is neither the beginning nor the end of another one.
fn has_word(text: &str, word: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !joins(before.chars().next_back()) && !joins(after.chars().next())
    })
}
