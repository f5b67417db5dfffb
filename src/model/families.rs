//! The families as data, a row each. [`super::family`] says what a row contains.
//!
//! A multimodal model has a text model inside: its configuration lies under `text_config`, and its
//! tensors behind another prefix.

mod gemma;
mod gpt;
mod llama;

use std::path::Path;

use serde_json::{Value, json};

use super::arch::Arch;
use super::config::Config;
use super::family::Family;
use crate::base::{Error, Result};
use gemma::{GEMMA, GEMMA2, GEMMA3};
use gpt::{FALCON, GPT_NEOX, GPT2, GPTJ, OPT, PHI, STABLELM, STARCODER2};
use llama::{
    COHERE, EXAONE4, GLM4, GRANITE, LLAMA, MINISTRAL3, MISTRAL, OLMO, OLMO2, OLMO3, PHI3, QWEN2,
    QWEN3, SEED_OSS, SMOLLM3,
};

/// The families that are implemented.
pub static FAMILIES: [Family; 26] = [
    GPT2, GPTJ, GPT_NEOX, OPT, LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA, GEMMA2, GEMMA3, PHI3,
    PHI, OLMO, OLMO3, SMOLLM3, GRANITE, STARCODER2, MINISTRAL3, GLM4, SEED_OSS, STABLELM, COHERE,
    EXAONE4, FALCON,
];

/// Models with a text model inside, and which it is where they do not say it.
const WRAPPERS: [(&str, &str); 2] = [("gemma3", "gemma3_text"), ("mistral3", "mistral")];

/// Prefixes of the names of a text model inside another: the framework's, and the older.
pub(super) const INNER_PREFIXES: [&str; 2] = ["model.language_model.", "language_model.model."];

/// A configuration, understood.
pub struct Described {
    /// Its row.
    pub family: &'static Family,
    /// What it describes.
    pub arch: Arch,
    /// Whether it is a text model inside another.
    pub inner: bool,
}

/// Understands a `config.json`.
///
/// # Errors
///
/// A `model_type` that is not in the table; as [`Family::arch`].
pub fn describe(config: &Value, path: &Path) -> Result<Described> {
    let outer = Config { value: config, path: path.to_owned() };
    let name = outer.string_or("model_type", "")?;
    let wrapper = WRAPPERS.iter().find(|(wrapper, _)| *wrapper == name);
    let Some((_, default)) = wrapper else {
        let family = find(&outer, name)?;
        let value = with_defaults(config, family);
        let arch = family.arch(&Config { value: &value, path: path.to_owned() })?;
        return Ok(Described { family, arch, inner: false });
    };
    let Some(text) = outer.object("text_config")? else {
        return Err(outer.error("text_config", "is missing: it has the sizes of the text model"));
    };
    let family = find(&text, text.string_or("model_type", default)?)?;
    let mut value = with_defaults(text.value, family);
    // The framework ties by the outer field.
    value["tie_word_embeddings"] = json!(outer.bool_or("tie_word_embeddings", true)?);
    let arch = family.arch(&Config { value: &value, path: path.to_owned() })?;
    Ok(Described { family, arch, inner: true })
}

/// The row of a name.
fn find(config: &Config, name: &str) -> Result<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name).ok_or_else(|| {
        let known = FAMILIES.iter().map(|family| family.name);
        let known: Vec<_> = known.chain(WRAPPERS.map(|(name, _)| name)).collect();
        Error::input(
            &config.path,
            "model_type",
            format!("`{name}` is not implemented"),
            format!("use a model of one of: {}", known.join(", ")),
        )
    })
}

/// With the sizes that the framework takes where there are none.
fn with_defaults(config: &Value, family: &Family) -> Value {
    let mut value = config.clone();
    for &(field, default) in family.defaults {
        if value.get(field).is_none() {
            value[field] = json!(default);
        }
    }
    value
}
