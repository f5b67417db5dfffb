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

use serde_json::json;

use super::client::{LOG, in_state, state};
use super::folders::{PushForm, ServerFile};
use super::openai::{self, base_name};
use super::questions::{AskedPrompt, ServerAnswer};
use super::server::{PushOrder, Server};
use crate::base::Result;
use crate::edit::apply::PatchSide;

pub(super) struct SgLang;

const NO_ADAPTERS: &str = "start it with --enable-lora and a --max-lora-rank that holds the \
                           adapter; one of this name has to be taken back first";
const NO_ROUTE: &str = "use a version that has this route";

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

    fn ready(&self, order: &PushOrder, _: PatchSide) -> Result<bool> {
        base_name(&order.client).map(|_| true)
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
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
        order.client.tell(path, Some(&body), NO_ADAPTERS).map(drop)
    }

    fn answer(
        &self,
        order: &PushOrder,
        side: PatchSide,
        question: &AskedPrompt,
    ) -> Result<ServerAnswer> {
        openai::answer(order, side, question, |base, adapter| format!("{base}:{adapter}"))
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
    let paused = client.tell("/pause_generation", Some(&json!({"mode": "retract"})), NO_ROUTE);
    let paused = paused.map_err(|e| in_state(e, "it goes on, with the weights that it had"));
    let changed = paused.and_then(|_| client.tell("/update_weights_from_disk", Some(&body), help));
    match (changed, client.tell("/continue_generation", Some(&json!({})), LOG)) {
        (Ok(_), Ok(_)) => Ok(()),
        (Ok(_), Err(e)) => {
            let help = "POST /continue_generation to it";
            Err(state(e, "it has the other weights and is paused", help))
        }
        (Err(e), Ok(_)) => Err(e),
        (Err(e), Err(_)) => Err(state(e, "it is paused, or gone", "start it again")),
    }
}
