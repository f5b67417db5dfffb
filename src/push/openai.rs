//! Asking over OpenAI's completions, which several servers speak.

use serde_json::{Value, json};

use super::client::Client;
use super::questions::{ServerAnswer, TOKENS};
use crate::base::Result;

/// What a model of the server says to a prompt, greedily.
pub(super) fn complete(client: &Client, model: &str, prompt: &str) -> Result<ServerAnswer> {
    let body = json!({
        "model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 1,
    });
    let told = client.ask("/v1/completions", &body)?;
    let choice = &told["choices"][0];
    let Some(text) = choice["text"].as_str() else {
        return Err(client.error("POST /v1/completions was answered without a text"));
    };
    let first = choice["logprobs"]["token_logprobs"][0].as_f64();
    Ok(ServerAnswer { text: text.to_owned(), probability: first.map(f64::exp) })
}

/// The name under which the server has the model itself: the first that is nobody's adapter.
pub(super) fn base_model(client: &Client) -> Result<String> {
    let told = client.read("/v1/models")?;
    let base = told["data"].as_array().into_iter().flatten();
    let mut base = base.filter(|model| model["parent"].is_null());
    let id = base.next().and_then(|model| model["id"].as_str());
    id.map(str::to_owned).ok_or_else(|| client.error("GET /v1/models names no model"))
}

/// What the server says under a name, if it has it.
pub(super) fn field<'a>(told: &'a Value, list: &str, key: &str, name: &str) -> Option<&'a Value> {
    told[list].as_array()?.iter().find(|one| one[key] == name)
}
