//! The rules of a state that goes from one edit to the next.
//!
//! 1. It learns each request once, whatever its id; with `replace_facts`, the last for a prompt.
//! 2. The settings the method names stay the same.
//! 3. A model that is as it was before one of its patches is refused: that patch is missing.
//! 4. Another run that wrote it meanwhile is an error, and what it wrote stays.
//! 5. It is written once, with the first thing an edit leaves behind, and the one before it stays
//!    beside it as `FILE.before`.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::opened::Opened;
use crate::base::{Error, Result};
use crate::data::Fact;
use crate::edit::known_facts::REPLACE_FACTS;
use crate::edit::method::Method;
use crate::edit::params::Params;
use crate::edit::state::State;
use crate::store::write::beside;
use crate::store::{Fingerprint, tensor_fingerprint};

/// The state's file as it was when it was read.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    version: Option<Version>,
}

/// Tells one writing of a file from another: its number in the file system, length and time.
type Version = (u64, u64, i64, i64);

/// What learns: an edit's method, its parameters, the facts, and the model they are learnt by.
pub(super) struct Learner<'a> {
    pub method: &'a dyn Method,
    pub params: &'a Params,
    pub requests: &'a [Fact],
    pub opened: &'a Opened,
}

/// Where the state before the last one is.
pub fn before(path: &Path) -> PathBuf {
    beside(path, ".before")
}

impl StateFile {
    /// Reads the state, or begins one where there is no file.
    pub(super) fn read(path: &Path, edit: &Learner) -> Result<(StateFile, State)> {
        let file = StateFile { path: path.to_owned(), version: version(path) };
        if !path.exists() {
            return Ok((file, State::default()));
        }
        let state = State::read(path, edit.method.about().name, &edit.opened.fingerprint)?;
        file.check(&state, edit)?;
        Ok((file, state))
    }

    fn check(&self, state: &State, edit: &Learner) -> Result<()> {
        let bad = |field: &str, what: String, remedy: &str| {
            Err(Error::input(&self.path, field, what, remedy))
        };
        let known: HashSet<&str> = state.requests.iter().map(String::as_str).collect();
        // What takes an earlier fact's place may be that fact again.
        let replaces = edit.params.is_on(&REPLACE_FACTS);
        let again = edit.requests.iter().find(|r| known.contains(digest(r).as_str()));
        if let Some(known) = again.filter(|_| !replaces) {
            let what = format!("holds the keys of record `{}` already", known.id);
            let remedy = "apply their patch and go on with other requests, or take the state from \
                          before, which is FILE.before";
            return bad("requests", what, remedy);
        }
        let settings = edit.method.state_settings(edit.params);
        if state.settings != settings {
            let what = format!("is of {}, not of {settings}", state.settings);
            return bad("settings", what, "keep them, or begin another state");
        }
        if state.before.contains(&edited_weights(edit)?) {
            let what = "a patch recorded in this state has not been applied to this model";
            let remedy = "apply that patch first, or take the state from before it";
            return bad("before", what.into(), remedy);
        }
        let arch = &edit.opened.model.arch;
        edit.method.check_state(&self.path, state, edit.params, arch)
    }

    /// Refuses a file that another run wrote since it was read.
    ///
    /// # Errors
    ///
    /// That.
    pub fn unchanged(&self) -> Result<()> {
        if version(&self.path) == self.version {
            return Ok(());
        }
        let remedy = "apply its patch, and run the same again";
        Err(Error::input(&self.path, "state", "another run wrote it meanwhile", remedy))
    }

    /// Writes the state that an edit leaves.
    pub(super) fn write(&self, state: &State, edit: &Learner) -> Result<()> {
        self.unchanged()?;
        if self.path.exists() {
            let before = before(&self.path);
            std::fs::copy(&self.path, &before).map_err(|e| Error::io(&before, "write", e))?;
        }
        state.write(&self.path, edit.method.about().name, &edit.opened.fingerprint)
    }
}

/// Adds an edit to a state, while the checkpoint is still as it was before it; `changed` says
/// whether it changes any weight.
pub(super) fn learn(state: &mut State, changed: bool, edit: &Learner) -> Result<()> {
    state.requests.extend(edit.requests.iter().map(digest));
    state.settings = edit.method.state_settings(edit.params);
    if changed {
        state.before.push(edited_weights(edit)?);
    }
    Ok(())
}

/// A name for what a request asks, whatever its id and the white space around its texts.
fn digest(request: &Fact) -> String {
    let Fact { prompt, subject, target_new, .. } = request;
    let mut asked = [prompt.trim(), subject, target_new.trim()].join("\0");
    if request.space == Some(false) {
        asked += "\0without a space";
    }
    tensor_fingerprint(asked.as_bytes())
}

fn version(path: &Path) -> Option<Version> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// A fingerprint of the matrices that are edited, as they are in the checkpoint.
fn edited_weights(edit: &Learner) -> Result<String> {
    let mut all = Fingerprint::default();
    for id in edit.params.edited() {
        all.add(tensor_fingerprint(&edit.opened.stored(id)?).as_bytes());
    }
    Ok(all.hex())
}
