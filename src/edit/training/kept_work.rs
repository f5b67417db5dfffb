//! A method's work that was cut off, kept so that the same command goes on to the same bytes.
//!
//! A file of the format of a [`State`] in the folder of what is kept
//! ([`Cache`](crate::edit::cache::Cache)), named after all that the work depends on. Its tensors
//! and notes are the method's; `check` is a hash of them. One that is damaged is warned of, and the
//! work begins anew.

use std::path::PathBuf;
use std::time::Instant;

use super::kept::SAVE_EVERY;
use crate::base::{Error, Progress, Result};
use crate::data::{Fact, request};
use crate::edit::facts::TokenizedFact;
use crate::edit::method::Context;
use crate::edit::params::Params;
use crate::edit::state::State;
use crate::store::Fingerprint;

const CHECK: &str = "check";

/// The file of a method's work.
pub struct KeptWork {
    path: PathBuf,
    kind: &'static str,
    key: String,
    saved: Instant,
}

impl KeptWork {
    /// Of a method's work on facts; nothing where nothing is kept. `beside` names what it depends
    /// on beyond facts, parameters and the context.
    pub fn begin(
        on: &mut Context,
        kind: &'static str,
        by: &Params,
        facts: &[TokenizedFact],
        beside: &str,
    ) -> Option<KeptWork> {
        let cache = on.cache.as_mut()?;
        let mut all = Fingerprint::default();
        let (version, compute) = (env!("CARGO_PKG_VERSION"), on.model.compute.name());
        for name in [kind, version, cache.weights(), &compute, &on.state.digest(), beside] {
            all.field(name.as_bytes());
        }
        [on.seed, on.sequential as u64].iter().for_each(|n| all.add(&n.to_le_bytes()));
        by.digest(&mut all);
        let requests: Vec<Fact> = facts.iter().map(|fact| fact.request.clone()).collect();
        all.field(request::digest(&requests).as_bytes());
        facts.iter().for_each(|fact| fact.rows.digest(&mut all));
        let key = all.hex();
        Some(KeptWork { path: cache.begin_training(&key), kind, key, saved: Instant::now() })
    }

    /// What was kept, as `parse` reads it; nothing where there is no file.
    pub fn read<T>(
        &self,
        parse: impl FnOnce(State) -> Option<T>,
        progress: &dyn Progress,
    ) -> Option<T> {
        if !self.path.exists() {
            return None;
        }
        let whole = || {
            let mut state = State::read(&self.path, self.kind, &self.key).ok()?;
            let check = state.notes.remove(CHECK)?;
            (check.as_str()? == state.digest()).then_some(state)
        };
        let found = whole().and_then(parse);
        if found.is_none() {
            let file = self.path.display();
            progress.warn(&format!("{file}: is damaged, so the edit begins anew"));
        }
        found
    }

    /// Whether it was written long ago.
    pub fn is_due(&self) -> bool {
        self.saved.elapsed() >= SAVE_EVERY
    }

    /// Writes where the work is.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written.
    pub fn write(&mut self, mut state: State) -> Result<()> {
        let check = state.digest();
        state.notes.insert(CHECK.to_owned(), check.into());
        state.write(&self.path, self.kind, &self.key)?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// Keeps what was done before an error; returns the error, or why an interruption keeps nothing.
pub fn keep(e: Error, kept: Option<&mut KeptWork>, state: impl FnOnce() -> Result<State>) -> Error {
    let written = kept.map_or(Ok(()), |kept| kept.write(state()?));
    match written {
        Err(unwritten) if matches!(e, Error::Interrupted { .. }) => unwritten,
        _ => e,
    }
}
