//! SGLang: its reload takes a whole checkpoint, so the edited one stands beside the base.
//!
//! ```text
//! weights   POST /pause_generation            retract: running requests wait and go on after it
//!           POST /update_weights_from_disk    model_path, weight_version, flush_cache
//!           POST /continue_generation         also after a failure
//! adapter   POST /load_lora_adapter, /unload_lora_adapter; asked as BASE:NAME
//! ```
//!
//! Source: SGLang's `docs/advanced_features/sglang_for_rl.md` and `lora.ipynb`; held to recorded
//! answers, not to a running server.

use serde_json::{Value, json};

use super::client::{Client, state};
use super::folders::{PushForm, ServerFile};
use super::openai::{base_model, complete};
use super::questions::ServerAnswer;
use super::server::{PushOrder, Server};
use crate::base::Result;
use crate::edit::apply::PatchSide;

pub(super) struct SgLang;

const AS_BEFORE: &str = "it serves what it served before";

impl Server for SgLang {
    fn name(&self) -> &'static str {
        "sglang"
    }

    fn reads(&self, form: &PushForm) -> Result<Vec<ServerFile>> {
        Ok(match form {
            PushForm::Weights => vec![ServerFile::Checkpoint],
            PushForm::Adapter(_) => vec![ServerFile::Adapter],
        })
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        let client = &order.client;
        let name = match &order.form {
            PushForm::Weights => return weights(order, side),
            PushForm::Adapter(name) => name,
        };
        let (path, body) = match side {
            PatchSide::After => {
                let path = order.folders.adapter();
                ("/load_lora_adapter", json!({"lora_name": name, "lora_path": path}))
            }
            PatchSide::Before => ("/unload_lora_adapter", json!({"lora_name": name})),
        };
        let help = "start it with --enable-lora and a --max-lora-rank that holds the adapter; one \
                    of this name has to be taken back first";
        succeeds(client, path, &body).map_err(|e| state(e, AS_BEFORE, help))
    }

    fn answer(&self, order: &PushOrder, side: PatchSide, prompt: &str) -> Result<ServerAnswer> {
        let base = base_model(&order.client)?;
        match (&order.form, side) {
            (PushForm::Adapter(name), PatchSide::After) => {
                complete(&order.client, &format!("{base}:{name}"), prompt)
            }
            _ => complete(&order.client, &base, prompt),
        }
    }
}

fn weights(order: &PushOrder, side: PatchSide) -> Result<()> {
    let (client, folders) = (&order.client, &order.folders);
    let (path, version) = match side {
        PatchSide::After => (folders.checkpoint(), folders.version.clone()),
        PatchSide::Before => (order.base.clone(), format!("before-{}", folders.version)),
    };
    let body = json!({"model_path": path, "weight_version": version, "flush_cache": true});
    let help = "see that it sees the folder under this path";
    client
        .tell("/pause_generation", Some(&json!({"mode": "retract"})))
        .map_err(|e| state(e, AS_BEFORE, "use a version that has this route"))?;
    let changed = succeeds(client, "/update_weights_from_disk", &body);
    let going_on = client.tell("/continue_generation", Some(&json!({})));
    match (changed, going_on) {
        (Ok(()), Ok(_)) => Ok(()),
        (Ok(()), Err(e)) => {
            let help = "POST /continue_generation to it";
            Err(state(e, "it has the other weights and is paused", help))
        }
        (Err(e), Ok(_)) => Err(state(e, "it goes on, and says that it changed nothing", help)),
        (Err(e), Err(_)) => Err(state(e, "it is paused, or gone", "start it again")),
    }
}

/// A request whose answer says whether it did what it was told.
fn succeeds(client: &Client, path: &str, body: &Value) -> Result<()> {
    let told = client.ask(path, body)?;
    match told["success"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(client.error(format!("POST {path}: {told}"))),
    }
}
