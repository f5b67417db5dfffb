//! mistral.rs: adapters, loaded in the place of the generation that is there.
//!
//! ```text
//! GET  /v1/lora_adapters          which generation the name has
//! POST /v1/load_lora_adapter      load_inplace and expected_generation where it has one
//! POST /v1/unload_lora_adapter
//! ```
//!
//! Source: mistral.rs' `lora_adapters.rs` and its HTTP reference; held to recorded answers (its
//! Python wheel, which `tools/check_servers` runs, has no HTTP server).

use serde_json::json;

use super::client::state;
use super::folders::{PushForm, ServerFile};
use super::openai::{base_model, complete, field};
use super::questions::ServerAnswer;
use super::server::{PushOrder, Server};
use crate::base::{Error, Remedy, Result};
use crate::edit::apply::PatchSide;

pub(super) struct MistralRs;

const NO_ADAPTERS: &str = "start it with --enable-lora and \
                           MISTRALRS_ALLOW_RUNTIME_LORA_UPDATING=1, and with \
                           MISTRALRS_LORA_ADAPTER_ROOT above the folder if at all";

impl Server for MistralRs {
    fn name(&self) -> &'static str {
        "mistralrs"
    }

    fn reads(&self, form: &PushForm) -> Result<Vec<ServerFile>> {
        match form {
            PushForm::Adapter(_) => Ok(vec![ServerFile::Adapter]),
            PushForm::Weights => {
                let what = "mistral.rs does not change the weights of a running model";
                let remedy = Remedy::from("push an adapter").option("lora", Some("NAME"));
                Err(Error::refused(what, remedy))
            }
        }
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        let PushForm::Adapter(name) = &order.form else { return self.reads(&order.form).map(drop) };
        let told = |e| state(e, "it serves what it served before", NO_ADAPTERS);
        let there = order.client.read("/v1/lora_adapters").map_err(told)?;
        let current = field(&there, "data", "id", name).map(|one| one["generation"].clone());
        let mut body = json!({"lora_name": name});
        if let Some(current) = current {
            body["expected_generation"] = current;
        }
        let path = match side {
            PatchSide::Before => "/v1/unload_lora_adapter",
            PatchSide::After => {
                body["lora_path"] = json!(order.folders.adapter());
                body["load_inplace"] = json!(body.get("expected_generation").is_some());
                "/v1/load_lora_adapter"
            }
        };
        order.client.tell(path, Some(&body)).map(drop).map_err(told)
    }

    fn answer(&self, order: &PushOrder, side: PatchSide, prompt: &str) -> Result<ServerAnswer> {
        match (&order.form, side) {
            (PushForm::Adapter(name), PatchSide::After) => complete(&order.client, name, prompt),
            _ => complete(&order.client, &base_model(&order.client)?, prompt),
        }
    }
}
