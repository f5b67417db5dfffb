//! One edit into one server: what is written, asked and told, in this order.

use super::client::{Client, state};
use super::folders::{Folders, PushForm, PushSource};
use super::questions::{AskedPrompt, ServerAnswer};
use super::server::{PushOrder, Server};
use super::{llamacpp, mistralrs, sglang, vllm};
use crate::base::{Error, Progress, Result, Stage};
use crate::edit::apply::PatchSide;

/// The servers there are.
pub static SERVERS: [&dyn Server; 4] =
    [&vllm::Vllm, &llamacpp::LlamaCpp, &mistralrs::MistralRs, &sglang::SgLang];

/// What became of a server.
pub struct Pushed {
    /// The name of the edit: that of the server's weights, where it keeps one.
    pub version: String,
    /// Whether it was told anything: it was not where there was nothing to take back.
    pub told: bool,
    /// What was asked, with the answers before and after the server was told.
    pub answers: Vec<(AskedPrompt, [ServerAnswer; 2])>,
}

/// Brings a server to a side, and asks it the questions before and after.
///
/// # Errors
///
/// A patch for other weights; folders under DIR that hold something else; a server that refuses;
/// cancellation. Nothing is told to the server before the folders are there and it has answered the
/// questions; from then on the work is not cancelled.
pub fn push(
    server: &dyn Server,
    source: &PushSource,
    client: Client,
    form: PushForm,
    side: PatchSide,
    questions: Vec<AskedPrompt>,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let files = server.reads(&form)?;
    let folders = Folders::new(source)?;
    for file in files {
        folders.write(file, side, source, progress)?;
    }
    let base = source.model.canonicalize().map_err(|e| Error::io(source.model, "find", e))?;
    let order = PushOrder { client, folders, form, base, progress };
    let version = order.folders.version.clone();
    if !server.ready(&order, side)? {
        return Ok(Pushed { version, told: false, answers: vec![] });
    }
    let ask = |side, cancels: bool| -> Result<Vec<ServerAnswer>> {
        let answer = |(i, question): (usize, &AskedPrompt)| {
            progress.at(Stage::Prompt, i as u64, questions.len() as u64);
            if cancels && progress.cancelled() {
                return Err(Error::Interrupted { kept: "the server was told nothing".into() });
            }
            server.answer(&order, side, question)
        };
        questions.iter().enumerate().map(answer).collect()
    };
    let other = if side == PatchSide::After { PatchSide::Before } else { PatchSide::After };
    let before = ask(other, true)?;
    server.bring(&order, side)?;
    let after = ask(side, false).map_err(|e| {
        state(e, "it did as it was told, and then did not answer", "ask it, or start it again")
    })?;
    let answers = before.into_iter().zip(after).map(|(before, after)| [before, after]);
    let answers = questions.into_iter().zip(answers).collect();
    Ok(Pushed { version, told: true, answers })
}
