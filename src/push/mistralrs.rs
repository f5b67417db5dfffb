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

use serde_json::{Value, json};

use super::client::Client;
use super::folders::{PushForm, ServerFile};
use super::openai;
use super::questions::{AskedPrompt, ServerAnswer};
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

    fn ready(&self, order: &PushOrder, side: PatchSide) -> Result<bool> {
        let PushForm::Adapter(name) = &order.form else { return Ok(true) };
        Ok(side == PatchSide::After || generation(&order.client, name)?.is_some())
    }

    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()> {
        let PushForm::Adapter(name) = &order.form else {
            return self.reads(&order.form).map(drop);
        };
        let mut body = json!({"lora_name": name});
        let current = generation(&order.client, name)?;
        let there = current.is_some();
        if let Some(current) = current {
            body["expected_generation"] = current;
        }
        let path = match side {
            PatchSide::Before => "/v1/unload_lora_adapter",
            PatchSide::After => {
                body["lora_path"] = json!(order.folders.adapter());
                body["load_inplace"] = json!(there);
                "/v1/load_lora_adapter"
            }
        };
        order.client.tell(path, Some(&body), NO_ADAPTERS).map(drop)
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

/// The generation that an adapter's name has; none where there is no such adapter.
fn generation(client: &Client, name: &str) -> Result<Option<Value>> {
    let told = client.read("/v1/lora_adapters", NO_ADAPTERS)?;
    let mut adapters = told["data"].as_array().into_iter().flatten();
    let found = adapters.find(|adapter| adapter["id"] == name);
    Ok(found.map(|adapter| adapter["generation"].clone()))
}
