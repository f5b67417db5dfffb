//! vLLM: its layerwise loader takes a folder with the changed tensors alone and leaves the others
//! as they were.
//!
//! ```text
//! weights   GET  /is_paused, /weight_info   nobody else changes them; which edit they have
//!           POST /pause?mode=wait           running requests end on the old weights; the prefix
//!                                           cache is emptied
//!           POST /collective_rpc            reload_weights from the folder, by its whole path
//!           POST /update_weight_version     the hash of the patch
//!           POST /resume, GET /is_paused    also after a failure
//! adapter   POST /v1/load_lora_adapter      in the place of one of its name
//!           POST /v1/unload_lora_adapter
//! ```
//!
//! A path that a worker does not see, or tensors of another model, end the server, so both are
//! looked at before anything is told. Run against vLLM 0.32 (`tools/check_servers`).

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, LOG, in_state, state};
use super::folders::{PushForm, ServerFile};
use super::openai::{self, base_model, has};
use super::questions::{AskedPrompt, ServerAnswer};
use super::server::{PushOrder, Server};
use crate::base::Result;
use crate::edit::apply::PatchSide;

pub(super) struct Vllm;

const NO_UPDATES: &str = "start it with VLLM_SERVER_DEV_MODE=1, which opens its routes for weights";
const RESUME: &str = "POST /resume to it";
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

    fn ready(&self, order: &PushOrder, side: PatchSide) -> Result<bool> {
        check_model(order)?;
        match (&order.form, side) {
            (PushForm::Weights, _) => ready(order, side),
            (PushForm::Adapter(_), PatchSide::After) => Ok(true),
            (PushForm::Adapter(name), PatchSide::Before) => has(&order.client, name),
        }
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        match &order.form {
            PushForm::Weights => weights(order, side),
            PushForm::Adapter(name) => adapter(order, name, side),
        }
    }

    fn answer(
        &self,
        order: &PushOrder,
        side: PatchSide,
        question: &AskedPrompt,
    ) -> Result<ServerAnswer> {
        openai::answer(order, side, question, |_, adapter| adapter.to_owned())
    }
}

/// Refuses a server whose model has another configuration, where it is to be seen.
fn check_model(order: &PushOrder) -> Result<()> {
    let model = base_model(&order.client)?;
    let Some(root) = model["root"].as_str() else { return Ok(()) };
    let read = |dir: &Path| {
        let text = fs::read(dir.join("config.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()
    };
    match (read(Path::new(root)), read(&order.base)) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            let what = format!("it serves {root}, whose config.json is another than the model's");
            Err(order.client.error(what, "name the folder that it serves, or a copy"))
        }
        _ => Ok(()),
    }
}

/// Refuses weights that somebody else changes, or that have another edit than this.
fn ready(order: &PushOrder, side: PatchSide) -> Result<bool> {
    let (client, folders) = (&order.client, &order.folders);
    if client.read("/is_paused", NO_UPDATES)?["is_paused"] == true {
        let e = client.error("it is paused, so somebody else may be changing its weights", LOG);
        let help = "try again once it was resumed; POST /resume to it if nobody is";
        return Err(state(e, "it is as they left it", help));
    }
    let current = weight_version(client)?;
    let ours = current == folders.version;
    if side == PatchSide::Before {
        // What it called itself before a push is what it is called where nothing is to be undone.
        return match ours {
            true => Ok(true),
            false if folders.is_upon(&current)?.is_none() => Ok(false),
            false => {
                let what = format!("its weights have the edit {current}, pushed after this one");
                Err(client.error(what, "take that one back first"))
            }
        };
    }
    match folders.is_upon(&current)? {
        Some(false) if !ours => {
            let what = format!("its weights have the edit {current}, which this one would undo");
            let help = "take that one back first, or make this edit upon it";
            Err(client.error(what, help))
        }
        _ => Ok(true),
    }
}

fn weight_version(client: &Client) -> Result<String> {
    let told = client.read("/weight_info", NO_UPDATES)?;
    let version = told["weight_version"].as_str();
    version.map(str::to_owned).ok_or_else(|| client.error("it has no weight_version", LOG))
}

/// Swaps the changed tensors.
fn weights(order: &PushOrder, side: PatchSide) -> Result<()> {
    let (client, folders) = (&order.client, &order.folders);
    let version = match side {
        PatchSide::After => {
            let current = weight_version(client)?;
            if current != folders.version {
                folders.remember(client.url(), &current)?;
            }
            folders.version.clone()
        }
        PatchSide::Before => match folders.called(client.url())? {
            Some(called) => called,
            None => format!("before-{}", folders.version),
        },
    };
    order.progress.remark(
        "the server pauses until its running requests have ended, and is resumed then; who ends \
         this by force before that has to POST /resume to it",
    );
    let paused = client.tell("/pause?mode=wait", None, NO_UPDATES);
    let paused = paused.map_err(|e| in_state(e, "it was resumed, with the weights that it had"));
    let changed = paused.and_then(|_| change(client, order, side, &version));
    match (changed, resume(client)) {
        (changed, Ok(true)) => changed,
        (Ok(()), Ok(false)) => {
            let e = client.error("POST /resume did not resume it", RESUME);
            Err(in_state(e, "it has the other weights and is paused"))
        }
        (Ok(()), Err(e)) => Err(state(e, "it has the other weights, and may be paused", RESUME)),
        (Err(e), Ok(false)) => Err(state(e, "it is paused", RESUME)),
        (Err(e), Err(_)) => Err(state(e, "it did not resume, so it may be gone", "start it again")),
    }
}

/// Resumes it, and says whether it was: a pause that nobody waited for may come afterwards.
fn resume(client: &Client) -> Result<bool> {
    client.tell("/resume", None, LOG)?;
    Ok(client.read("/is_paused", NO_UPDATES)?["is_paused"] != true)
}

/// What is told while it is paused.
fn change(client: &Client, order: &PushOrder, side: PatchSide, version: &str) -> Result<()> {
    let path = order.folders.tensors(side);
    let reload = json!({"method": "reload_weights", "kwargs": {"weights_path": path}});
    client.tell("/collective_rpc", Some(&reload), NO_UPDATES).map_err(|e| {
        let help = "see that every worker sees the folder under this path, then start it again";
        state(e, "it was resumed, and which weights it has is not known", help)
    })?;
    let named = json!({"new_version": version});
    client.tell("/update_weight_version", Some(&named), NO_UPDATES).map_err(|e| {
        state(e, "it was resumed with the other weights, under its old version", NO_UPDATES)
    })?;
    Ok(())
}

fn adapter(order: &PushOrder, name: &str, side: PatchSide) -> Result<()> {
    let (path, body) = match side {
        PatchSide::After => {
            let path = order.folders.adapter();
            let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
            ("/v1/load_lora_adapter", body)
        }
        PatchSide::Before => ("/v1/unload_lora_adapter", json!({"lora_name": name})),
    };
    order.client.tell(path, Some(&body), NO_ADAPTERS).map(drop)
}
