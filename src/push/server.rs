//! What servers have in common: how each is told of an edit, and asked.

use std::path::PathBuf;

use super::client::Client;
use super::folders::{Folders, PushForm, ServerFile};
use super::questions::{AskedPrompt, ServerAnswer};
use crate::base::{Progress, Result};
use crate::edit::apply::PatchSide;

/// How a kind of server is told of an edit.
pub trait Server: Sync {
    /// The name that users give.
    fn name(&self) -> &'static str;

    /// What it reads of an edit in a form.
    ///
    /// # Errors
    ///
    /// A form that it does not take while it runs.
    fn reads(&self, form: &PushForm) -> Result<Vec<ServerFile>>;

    /// Looks, before anything is asked or told, whether the server can be brought to a side: false
    /// where an edit is to be taken back that it is known not to have.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached, serves another model or another edit, or is being changed.
    fn ready(&self, order: &PushOrder, side: PatchSide) -> Result<bool>;

    /// Brings the server to a side; what its users should know is remarked.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached or refuses; the error says in which state it is.
    fn bring(&self, order: &PushOrder, side: PatchSide) -> Result<()>;

    /// What it says to a prompt at a side, greedily.
    ///
    /// # Errors
    ///
    /// A server that cannot be reached, or whose answer cannot be read.
    fn answer(
        &self,
        order: &PushOrder,
        side: PatchSide,
        question: &AskedPrompt,
    ) -> Result<ServerAnswer>;
}

/// An edit for one server.
pub struct PushOrder<'a> {
    /// The server.
    pub client: Client,
    /// What it reads.
    pub folders: Folders,
    /// In which form it takes the edit.
    pub form: PushForm,
    /// The checkpoint it was started with, or a copy.
    pub base: PathBuf,
    /// Who is told what users of the server should know.
    pub progress: &'a dyn Progress,
}
