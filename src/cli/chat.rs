//! `--system` and `--template-var`, beside `--chat`.

use clap::Args;
use serde_json::Value;

use crate::base::{Error, Result};
use crate::text::ChatSettings;

/// What a chat has beside the user's message.
#[derive(Args)]
pub struct ChatFlags {
    /// The chat's system message [default: the template's]
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// A variable of the chat template, as JSON or a text, as in enable_thinking=false
    #[arg(long = "template-var", value_name = "NAME=VALUE", requires = "chat")]
    variables: Vec<String>,
}

impl ChatFlags {
    /// The settings.
    pub fn settings(&self) -> Result<ChatSettings> {
        let mut settings = ChatSettings { system: self.system.clone(), ..ChatSettings::default() };
        for given in &self.variables {
            let (name, value) = assignment("--template-var", given, "enable_thinking=false")?;
            settings.variables.insert(name, value);
        }
        Ok(settings)
    }
}

/// `NAME=VALUE`; a value that is neither JSON, nor a list of words, as in `[up, down]`, nor one of
/// Python's three words is a text.
pub fn assignment(flag: &str, given: &str, example: &str) -> Result<(String, Value)> {
    let Some((name, value)) = given.split_once('=') else {
        let remedy = format!("say {flag} {example}");
        return Err(Error::refused(format!("{flag} {given}: no `=`"), remedy));
    };
    let value = match value {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        value => serde_json::from_str(value)
            .ok()
            .or_else(|| serde_saphyr::from_str(value).ok().filter(|_| value.starts_with('[')))
            .unwrap_or_else(|| Value::from(value)),
    };
    Ok((name.trim().to_owned(), value))
}
