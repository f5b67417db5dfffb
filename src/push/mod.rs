//! Floor 7: an edit into a running server, and back.
//!
//! ```text
//! folders under DIR ──► checked ──► prompts asked ──► server told ──► the same prompts asked
//! ```
//!
//! The server sees DIR under the same path ([`folders`]). What a server is told, and in which state
//! a failure leaves it, is a file a server; what they have in common is [`Server`]. An edit is at
//! one of two sides: [`Side::Before`], the server as it was started, and [`Side::After`].

pub mod client;
pub mod folders;
mod llamacpp;
mod mistralrs;
mod openai;
pub mod questions;
mod sglang;
mod vllm;

use std::path::{Path, PathBuf};

use crate::base::{Error, Progress, Result, Stage};
use crate::edit::apply::Side;
use crate::store::Patch;
use crate::tensor::Device;

use client::Client;
use folders::{Folders, Form};
use questions::{Answer, Question};

/// The servers there are.
pub static SERVERS: [&dyn Server; 4] =
    [&vllm::Vllm, &llamacpp::LlamaCpp, &mistralrs::MistralRs, &sglang::SgLang];

/// How a kind of server is told of an edit.
pub trait Server: Sync {
    /// The name that users give.
    fn name(&self) -> &'static str;

    /// What it reads of an edit in a form.
    ///
    /// # Errors
    ///
    /// A form that it does not take while it runs.
    fn reads(&self, form: &Form) -> Result<Vec<Artifact>>;

    /// Brings the server to a side; what its users should know is remarked.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached or refuses; the error says in which state it is.
    fn bring(&self, order: &Order, side: Side) -> Result<()>;

    /// What it says to a prompt at a side, greedily.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached, or whose answer cannot be read.
    fn answer(&self, order: &Order, side: Side, prompt: &str) -> Result<Answer>;
}

/// Something that is written for a server to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// The changed tensors, and in a folder of their own as they were.
    Tensors,
    /// The whole checkpoint with the edit.
    Checkpoint,
    /// A LoRA adapter.
    Adapter,
    /// The same for llama.cpp.
    AdapterGguf,
}

/// An edit for one server.
pub struct Order<'a> {
    /// The server.
    pub client: Client,
    /// What it reads.
    pub folders: Folders,
    /// In which form it takes the edit.
    pub form: Form,
    /// The checkpoint it was started with, or a copy.
    pub base: PathBuf,
    /// Who is told what users of the server should know.
    pub progress: &'a dyn Progress,
}

/// What became of a server.
pub struct Pushed {
    /// The name of the edit: that of the server's weights, where it keeps one.
    pub version: String,
    /// What was asked, with the answers before and after the server was told.
    pub answers: Vec<(Question, [Answer; 2])>,
}

/// The checkpoint and the patch, and where folders for the server are.
pub struct Source<'a> {
    /// The checkpoint that the server was started with, or a copy.
    pub model: &'a Path,
    /// The patch for it.
    pub patch: &'a Patch,
    /// DIR.
    pub dir: &'a Path,
    /// What the adapter names as its base, where that is not the checkpoint's path.
    pub base: Option<&'a str>,
    /// Where the tensors are computed.
    pub device: &'a Device,
}

/// Brings a server to a side, and asks it the questions before and after.
///
/// # Errors
///
/// A patch for other weights; folders under DIR that hold something else; a server that refuses.
/// Nothing is told to the server before the folders are there and it has answered the questions.
pub fn push(
    server: &dyn Server,
    source: &Source,
    client: Client,
    form: Form,
    side: Side,
    questions: Vec<Question>,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let artifacts = server.reads(&form)?;
    let folders = Folders::new(source.dir, source.patch)?;
    for artifact in artifacts {
        folders.write(artifact, source, progress)?;
    }
    let base = source.model.canonicalize().map_err(|e| Error::io(source.model, "find", e))?;
    let order = Order { client, folders, form, base, progress };
    let ask = |side| -> Result<Vec<Answer>> {
        let answer = |(i, question): (usize, &Question)| {
            progress.at(Stage::Prompt, i as u64, questions.len() as u64);
            server.answer(&order, side, &question.prompt)
        };
        questions.iter().enumerate().map(answer).collect()
    };
    let other = if side == Side::After { Side::Before } else { Side::After };
    let before = ask(other)?;
    server.bring(&order, side)?;
    let after = ask(side)?;
    let answers = before.into_iter().zip(after).map(|(before, after)| [before, after]);
    let answers = questions.into_iter().zip(answers).collect();
    Ok(Pushed { version: order.folders.version, answers })
}
