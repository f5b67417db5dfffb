//! llama.cpp: the scale of an adapter that was named when the server started.
//!
//! ```text
//! GET  /lora-adapters    id, path and scale of each
//! POST /lora-adapters    scales: those that are left out become 0, so all are told
//! ```
//!
//! It answers `success` to what it does not know, so the scale is read again. Its prompt cache does
//! not know of scales (llama.cpp #26207): a prompt that was seen is answered as it was before, but
//! for requests with `cache_prompt` false, as those here are. Run against llama.cpp
//! (`tools/check_servers`).

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::client::{LOG, state};
use super::folders::{PushForm, ServerFile};
use super::questions::{AskedPrompt, ServerAnswer};
use super::server::{PushOrder, Server};
use crate::base::{Error, Remedy, Result};
use crate::edit::apply::PatchSide;

pub(super) struct LlamaCpp;

impl Server for LlamaCpp {
    fn name(&self) -> &'static str {
        "llamacpp"
    }

    fn reads(&self, form: &PushForm) -> Result<Vec<ServerFile>> {
        match form {
            PushForm::Adapter(_) => Ok(vec![ServerFile::AdapterGguf]),
            PushForm::Weights => {
                let what = "llama.cpp does not change the weights of a running model";
                let remedy = Remedy::from("push an adapter").option("lora", Some("NAME"));
                Err(Error::refused(what, remedy))
            }
        }
    }

    fn ready(&self, order: &PushOrder, _: PatchSide) -> Result<bool> {
        adapters(order).map(|_| true)
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        let (client, (all, ours)) = (&order.client, adapters(order)?);
        let wanted = if side == PatchSide::After { 1.0 } else { 0.0 };
        let scale = |adapter: &Value| match adapter["id"] == ours {
            true => json!({"id": adapter["id"], "scale": wanted}),
            false => json!({"id": adapter["id"], "scale": adapter["scale"]}),
        };
        let scales: Vec<Value> = all.iter().map(scale).collect();
        client.tell("/lora-adapters", Some(&json!(scales)), LOG)?;
        let unknown = |e| state(e, "which scale it has is not known", "start it again");
        let (now, _) = adapters(order).map_err(unknown)?;
        let now = now.iter().find(|now| now["id"] == ours);
        if now.and_then(|now| now["scale"].as_f64()) != Some(wanted) {
            let what = "it says success, and the adapter's scale is another";
            return Err(unknown(client.error(what, LOG)));
        }
        order.progress.warn(
            "llama.cpp's prompt cache does not know of adapters: unless it was started with \
             --cache-ram 0, prompts that it has seen are answered as before",
        );
        Ok(())
    }

    fn answer(
        &self,
        order: &PushOrder,
        _: PatchSide,
        question: &AskedPrompt,
    ) -> Result<ServerAnswer> {
        let body = json!({
            "prompt": question.prompt, "n_predict": question.tokens(), "temperature": 0,
            "n_probs": 1, "cache_prompt": false,
        });
        let told = order.client.ask("/completion", &body)?;
        let Some(text) = told["content"].as_str() else {
            return Err(order.client.error("POST /completion was answered without a text", LOG));
        };
        let first = told["completion_probabilities"][0]["logprob"].as_f64();
        Ok(ServerAnswer { text: text.to_owned(), probability: first.map(f64::exp) })
    }
}

/// The adapters that it was started with, and the id of ours among them.
fn adapters(order: &PushOrder) -> Result<(Vec<Value>, Value)> {
    let told = order.client.read("/lora-adapters", LOG)?;
    let all = told.as_array().cloned().unwrap_or_default();
    let file = order.folders.adapter_gguf();
    match all.iter().find(|adapter| is(adapter, &file)).map(|ours| ours["id"].clone()) {
        Some(ours) => Ok((all, ours)),
        None => {
            let help = format!("start it with --lora-scaled {}:0", file.display());
            Err(order.client.error("it was not started with this adapter", &help))
        }
    }
}

/// Whether an adapter of the server is this file, or one of the same bytes.
fn is(adapter: &Value, file: &Path) -> bool {
    let Some(path) = adapter["path"].as_str().map(Path::new) else { return false };
    let read = |path| fs::read(path).ok();
    path == file || read(path).is_some_and(|bytes| read(file).is_some_and(|ours| ours == bytes))
}
