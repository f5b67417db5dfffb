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

use super::client::state;
use super::folders::{PushForm, ServerFile};
use super::questions::{ServerAnswer, TOKENS};
use super::server::{PushOrder, Server};
use crate::base::{Error, Remedy, Result};
use crate::edit::apply::PatchSide;

pub(super) struct LlamaCpp;

const AS_BEFORE: &str = "it serves what it served before";

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

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        let client = &order.client;
        let adapters = client.read("/lora-adapters")?;
        let adapters = adapters.as_array().cloned().unwrap_or_default();
        let file = order.folders.adapter_gguf();
        let Some(ours) = adapters.iter().find(|adapter| is(adapter, &file)) else {
            let e = client.error("it was not started with this adapter");
            let help = format!("start it with --lora-scaled {}:0", file.display());
            return Err(state(e, AS_BEFORE, &help));
        };
        let wanted = if side == PatchSide::After { 1.0 } else { 0.0 };
        let scale = |adapter: &Value| match adapter == ours {
            true => json!({"id": adapter["id"], "scale": wanted}),
            false => json!({"id": adapter["id"], "scale": adapter["scale"]}),
        };
        let scales: Vec<Value> = adapters.iter().map(scale).collect();
        client.tell("/lora-adapters", Some(&json!(scales)))?;
        let now = client.read("/lora-adapters")?;
        let now = now.as_array().into_iter().flatten().find(|now| now["id"] == ours["id"]);
        if now.and_then(|now| now["scale"].as_f64()) != Some(wanted) {
            let e = client.error("it says success, and the adapter's scale is another");
            return Err(state(e, "which scale it has is not known", "start it again"));
        }
        order.progress.warn(
            "llama.cpp's prompt cache does not know of adapters: unless it was started with \
             --cache-ram 0, prompts that it has seen are answered as before",
        );
        Ok(())
    }

    fn answer(&self, order: &PushOrder, _: PatchSide, prompt: &str) -> Result<ServerAnswer> {
        let body = json!({
            "prompt": prompt, "n_predict": TOKENS, "temperature": 0, "n_probs": 1,
            "cache_prompt": false,
        });
        let told = order.client.ask("/completion", &body)?;
        let Some(text) = told["content"].as_str() else {
            return Err(order.client.error("POST /completion was answered without a text"));
        };
        let first = told["completion_probabilities"][0]["logprob"].as_f64();
        Ok(ServerAnswer { text: text.to_owned(), probability: first.map(f64::exp) })
    }
}

/// Whether an adapter of the server is this file, or one of the same bytes.
fn is(adapter: &Value, file: &Path) -> bool {
    let Some(path) = adapter["path"].as_str().map(Path::new) else { return false };
    let read = |path| fs::read(path).ok();
    path == file || read(path).is_some_and(|bytes| read(file).is_some_and(|ours| ours == bytes))
}
