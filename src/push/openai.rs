//! What servers that speak OpenAI's protocol have in common.

use serde_json::{Value, json};

use super::client::{Client, LOG};
use super::folders::PushForm;
use super::questions::{AskedPrompt, ServerAnswer};
use super::server::PushOrder;
use crate::base::Result;
use crate::edit::apply::PatchSide;

/// What the server says at a side. `named` makes the name under which it has an adapter of the
/// model's name and the adapter's.
pub(super) fn answer(
    order: &PushOrder,
    side: PatchSide,
    question: &AskedPrompt,
    named: fn(&str, &str) -> String,
) -> Result<ServerAnswer> {
    let base = base_name(&order.client)?;
    let model = match (&order.form, side) {
        (PushForm::Adapter(adapter), PatchSide::After) => named(&base, adapter),
        _ => base,
    };
    complete(&order.client, &model, question)
}

/// What a model of the server says to a prompt, greedily. A server may take penalties from the
/// model's own folder where a request says nothing.
fn complete(client: &Client, model: &str, question: &AskedPrompt) -> Result<ServerAnswer> {
    let body = json!({
        "model": model, "prompt": question.prompt, "max_tokens": question.tokens(),
        "temperature": 0, "logprobs": 1, "repetition_penalty": 1.0, "presence_penalty": 0,
        "frequency_penalty": 0,
    });
    let told = client.ask("/v1/completions", &body)?;
    let choice = &told["choices"][0];
    let Some(text) = choice["text"].as_str() else {
        return Err(client.error("POST /v1/completions was answered without a text", LOG));
    };
    let first = choice["logprobs"]["token_logprobs"][0].as_f64();
    Ok(ServerAnswer { text: text.to_owned(), probability: first.map(f64::exp) })
}

/// The models of the server, adapters among them.
pub(super) fn models(client: &Client) -> Result<Vec<Value>> {
    let told = client.read("/v1/models", LOG)?;
    Ok(told["data"].as_array().cloned().unwrap_or_default())
}

/// The model itself: the first that is nobody's adapter.
pub(super) fn base_model(client: &Client) -> Result<Value> {
    let base = models(client)?.into_iter().find(|model| model["parent"].is_null());
    let named = base.filter(|model| model["id"].is_string());
    named.ok_or_else(|| client.error("GET /v1/models names no model", LOG))
}

/// The name under which the server has the model itself.
pub(super) fn base_name(client: &Client) -> Result<String> {
    Ok(base_model(client)?["id"].as_str().unwrap_or_default().to_owned())
}

/// Whether the server has an adapter of that name.
pub(super) fn has(client: &Client, name: &str) -> Result<bool> {
    let mut models = models(client)?.into_iter();
    Ok(models.any(|model| model["id"] == name && !model["parent"].is_null()))
}
