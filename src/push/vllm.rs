//! vLLM: its layerwise loader takes a folder with the changed tensors alone and leaves the others
//! as they were.
//!
//! ```text
//! weights   GET  /is_paused                 somebody else's update is waited for
//!           POST /pause?mode=wait           running requests end on the old weights; the prefix
//!                                           cache is emptied
//!           POST /collective_rpc            reload_weights from the folder, by its whole path
//!           POST /update_weight_version     the hash of the patch
//!           POST /resume                    also after a failure
//! adapter   POST /v1/load_lora_adapter      in the place of one of its name
//!           POST /v1/unload_lora_adapter
//! ```
//!
//! A path that a worker does not see ends the server, so nothing is told before the folders stand
//! there. Run against vLLM 0.32 (`tools/check_servers`).

use std::fs;

use serde_json::{Value, json};

use super::client::{Client, state};
use super::folders::{PushForm, ServerFile};
use super::openai::{base_model, complete};
use super::questions::ServerAnswer;
use super::server::{PushOrder, Server};
use crate::base::{Error, Result};
use crate::edit::apply::PatchSide;
use crate::store::write;

pub(super) struct Vllm;

const NO_UPDATES: &str = "start it with VLLM_SERVER_DEV_MODE=1, which opens its routes for weights";
const NO_ADAPTERS: &str = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, \
                           and a --max-lora-rank that holds the adapter";

impl Server for Vllm {
    fn name(&self) -> &'static str {
        "vllm"
    }

    fn reads(&self, form: &PushForm) -> Result<Vec<ServerFile>> {
        Ok(match form {
            PushForm::Weights => vec![ServerFile::Tensors],
            PushForm::Adapter(_) => vec![ServerFile::Adapter],
        })
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        match &order.form {
            PushForm::Weights => weights(order, side),
            PushForm::Adapter(name) => adapter(order, name, side),
        }
    }

    fn answer(&self, order: &PushOrder, side: PatchSide, prompt: &str) -> Result<ServerAnswer> {
        match (&order.form, side) {
            (PushForm::Adapter(name), PatchSide::After) => complete(&order.client, name, prompt),
            _ => complete(&order.client, &base_model(&order.client)?, prompt),
        }
    }
}

/// Swaps the changed tensors.
fn weights(order: &PushOrder, side: PatchSide) -> Result<()> {
    let client = &order.client;
    let told = |e| state(e, "it serves what it served before", NO_UPDATES);
    let paused = client.read("/is_paused").map_err(told)?;
    if paused["is_paused"] == true {
        let e = client.error("it is paused, so somebody else may be changing its weights");
        return Err(state(e, "it is as they left it", "try again once it was resumed"));
    }
    let current = client.read("/weight_info").map_err(told)?["weight_version"].clone();
    let version = match side {
        PatchSide::After => {
            remember(order, &current)?;
            order.folders.version.clone()
        }
        PatchSide::Before => fs::read_to_string(order.folders.before())
            .unwrap_or_else(|_| format!("before-{}", order.folders.version)),
    };
    let paused = client.tell("/pause?mode=wait", None);
    let changed = paused.and_then(|_| change(client, order, side, &version));
    let resumed = client.tell("/resume", None);
    match (changed, resumed) {
        (Ok(()), Ok(_)) => Ok(()),
        (Ok(()), Err(e)) => {
            Err(state(e, "it has the other weights and is paused", "POST /resume to it"))
        }
        (Err(e), Ok(_)) => Err(e),
        (Err(e), Err(_)) => Err(state(e, "it did not resume, so it may be gone", "start it again")),
    }
}

/// What is told while it is paused.
fn change(client: &Client, order: &PushOrder, side: PatchSide, version: &str) -> Result<()> {
    let path = order.folders.tensors(side);
    let reload = json!({"method": "reload_weights", "kwargs": {"weights_path": path}});
    client.tell("/collective_rpc", Some(&reload)).map_err(|e| {
        let help = "see that every worker sees the folder under this path, then start it again";
        state(e, "it was resumed, and which weights it has is not known", help)
    })?;
    client.tell("/update_weight_version", Some(&json!({"new_version": version}))).map_err(|e| {
        state(e, "it was resumed with the other weights, under its old version", NO_UPDATES)
    })?;
    Ok(())
}

/// Keeps what the server called its weights, unless they are this edit's already.
fn remember(order: &PushOrder, current: &Value) -> Result<()> {
    match current.as_str() {
        Some(current) if current != order.folders.version => {
            write::whole(&order.folders.before(), current.as_bytes())
        }
        _ => Ok(()),
    }
}

fn adapter(order: &PushOrder, name: &str, side: PatchSide) -> Result<()> {
    let told = |e: Error| state(e, "it serves what it served before", NO_ADAPTERS);
    let (path, body) = match side {
        PatchSide::After => {
            let path = order.folders.adapter();
            let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
            ("/v1/load_lora_adapter", body)
        }
        PatchSide::Before => ("/v1/unload_lora_adapter", json!({"lora_name": name})),
    };
    order.client.tell(path, Some(&body)).map(drop).map_err(told)
}
