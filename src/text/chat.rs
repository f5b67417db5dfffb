//! Chats: a message as the model's own template shows it to the model.
//!
//! The template is Jinja, from `chat_template.jinja`, `chat_template.json` or
//! `tokenizer_config.json`, in this order; of several the one named `default`. Its surroundings are
//! those of the transformers library: blocks trimmed, `messages`, `tools` and `documents` (none),
//! `add_generation_prompt`, the special tokens by name, `raise_exception`, `strftime_now`,
//! `tojson` without HTML escapes, Python's string methods, `break` and `continue`, and the tags
//! `generation`, which mark what training needs and are passed over.
//!
//! A rendered chat holds its special tokens as text, so none are added when it is tokenised.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value as Jinja, context};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::base::{Error, Result};

const NAME: &str = "chat";
const REMEDY: &str = "take the template from the model's source, or leave --chat out";
/// Stands for a message where its place is looked for: a character for private use.
const MARK: &str = "\u{E000}";
/// Steps a template may take; the longest in use take some ten thousand.
const FUEL: u64 = 10_000_000;

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
        let mut env = environment();
        let found = env.add_template_owned(NAME, without_generation(&template));
        let tokens = tokens(&config);
        found.map_err(|e| failed(&place, &e))?;
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
        let shown = template.render(context! { ..said, ..tokens });
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
        Err(Error::input(&self.place.0, "chat_template", what, "edit without --chat"))
    }
}

/// The file with the template, what stands before the line in errors, and the template.
fn find(dir: &Path, config: &Value) -> Result<((PathBuf, &'static str), String)> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
        return Ok(((path, ""), text));
    }
    let path = dir.join("chat_template.json");
    let own = json(&path)?;
    let (path, value) = match &own {
        Some(value) => (path, value),
        None => (dir.join("tokenizer_config.json"), config),
    };
    let wrong = |what: &str| Err(Error::input(&path, "chat_template", what, REMEDY));
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
    let text = text.to_owned();
    Ok(((path, "chat_template, "), text))
}

/// A JSON file, if it is there.
fn json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        let what = format!("is not JSON: {e}");
        Error::input(path, format!("line {}", e.line()), what, REMEDY)
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
    Error::input(path, format!("{before}{line}"), what, REMEDY)
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the standard delimiters"));
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(pycompat::unknown_method_callback);
    env.add_filter("tojson", tojson);
    let refuse = |why: String| Err::<String, _>(refused(format!("the template says: {why}")));
    env.add_function("raise_exception", refuse);
    let now = Zoned::now(); // once, so that all chats of a run are of one time
    env.add_function("strftime_now", move |format: String| {
        jiff::fmt::strtime::format(&format, &now).map_err(|e| refused(e.to_string()))
    });
    env
}

fn refused(why: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, why)
}

/// Python's `json.dumps`: a space after commas and colons, or lines with an indent.
fn tojson(value: Jinja, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let indent = indent.map(|n| " ".repeat(n.min(64)));
    let written = match &indent {
        Some(indent) => {
            let lines = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, lines))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    written.map_err(|e| refused(e.to_string()))?;
    String::from_utf8(out).map_err(|e| refused(e.to_string()))
}

/// JSON on one line, with spaces.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
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
