//! A planned edit: to look at, write, apply and export.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::report;
use super::state::StateFile;
use super::{Prepared, TextModel};
use crate::base::Result;
use crate::data::conflicts::Superseded;
use crate::data::{Contexts, Fact, request};
use crate::edit::apply::{self, Report};
use crate::edit::export::{self, Adapter};
use crate::edit::fact_report::FactReport;
use crate::edit::method::Plan;
use crate::edit::solve::layers::LayerChange;
use crate::edit::state::State;
use crate::store::place::check_place;
use crate::store::{Metadata, Patch};

/// A planned edit. No file was touched yet but the cache.
pub struct Edit {
    prepared: Prepared,
    plan: Plan,
    patch: Patch,
    /// What goes forward with the first thing that is written; nothing once it has.
    state: Mutex<Option<(StateFile, State)>>,
}

impl Edit {
    pub(super) fn new(
        prepared: Prepared,
        mut plan: Plan,
        state_file: Option<StateFile>,
    ) -> Result<Edit> {
        let mut notes = prepared.notes.clone();
        notes["ridge"] = json!(plan.layers.iter().map(|l| l.ridge).collect::<Vec<_>>());
        for (name, value) in prepared.plan_notes()? {
            notes[name] = value;
        }
        let metadata = Metadata {
            method: prepared.method.about().name.to_owned(),
            hyperparameters: prepared.hparams.to_json(),
            contexts: prepared.contexts.to_json(),
            requests: request::digest(&prepared.requests),
            facts: prepared.requests.len() as u64,
            model: prepared.editor.opened.fingerprint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notes,
        };
        let changes = plan.changes(|l| prepared.editor.stored(l))?;
        let patch = Patch { changes, metadata };
        let carried = std::mem::take(&mut plan.state);
        let state = Mutex::new(state_file.map(|file| (file, carried)));
        Ok(Edit { prepared, plan, patch, state })
    }

    /// What the edit did to each fact, in the order of the facts.
    pub fn facts(&self) -> &[FactReport] {
        &self.plan.facts
    }

    /// The facts that were edited, in the order of their reports.
    pub fn requests(&self) -> &[Fact] {
        &self.prepared.requests
    }

    /// Requests that others took the place of.
    pub fn superseded(&self) -> &[Superseded] {
        &self.prepared.superseded
    }

    /// What was done to each layer, ascending.
    pub fn layers(&self) -> &[LayerChange] {
        &self.plan.layers
    }

    /// The tensor that holds a layer's edited matrix.
    pub fn tensor(&self, layer: usize) -> &str {
        &self.plan.model.editable(layer).tensor
    }

    /// Hyperparameters by name, and where each is from.
    pub fn hyperparameters(&self) -> [Value; 2] {
        self.prepared.hyperparameters()
    }

    /// The contexts, given or drawn.
    pub fn contexts(&self) -> &Contexts {
        &self.prepared.contexts
    }

    /// The patch as it is written.
    pub fn patch(&self) -> &Patch {
        &self.patch
    }

    /// The edited model, in memory; the editor's stays as it is.
    ///
    /// # Errors
    ///
    /// None yet.
    pub fn model(&self) -> Result<TextModel> {
        let opened = &self.prepared.editor.opened;
        Ok(TextModel::new(&opened.dir, self.plan.model.clone(), &opened.tokenizer))
    }

    /// Writes the patch, a report beside it (`FILE.report.jsonl`, a line a request), and the state
    /// if there is one.
    ///
    /// # Errors
    ///
    /// A file that cannot be written, or would replace what was read; a state that another run
    /// wrote meanwhile.
    pub fn write(&self, file: impl AsRef<Path>) -> Result<()> {
        let file = file.as_ref();
        check_place(file, &self.prepared.editor.inputs())?;
        self.unchanged_state()?;
        self.patch.write(file)?;
        report::write(&report::path(file), &self.lines())?;
        self.carry_state()
    }

    /// The lines of the report: one a request.
    pub fn lines(&self) -> Vec<Value> {
        let planned = self.prepared.requests.iter().zip(&self.plan.facts);
        let planned = planned.map(|(request, fact)| report::line(request, fact));
        planned.chain(self.prepared.superseded.iter().map(report::superseded_line)).collect()
    }

    /// Writes the edited checkpoint into a new folder, and the state if there is one.
    ///
    /// # Errors
    ///
    /// A folder that is there already; a checkpoint that changed since it was opened.
    pub fn apply(&self, dir: impl AsRef<Path>) -> Result<Report> {
        let opened = &self.prepared.editor.opened;
        let patches = std::slice::from_ref(&self.patch);
        let progress = &*self.prepared.editor.settings.progress;
        self.unchanged_state()?;
        let done = apply::to_folder(&opened.dir, patches, dir.as_ref(), &opened.device, progress)?;
        self.carry_state()?;
        Ok(done)
    }

    /// Changes the checkpoint itself, through its journal; [`undo`](crate::undo) puts every byte
    /// back. The state is written too, if there is one. The editor's model is of the weights as
    /// they were: open the folder again to go on from here.
    ///
    /// # Errors
    ///
    /// A checkpoint that changed since it was opened, or that another process uses.
    pub fn apply_in_place(&self) -> Result<Report> {
        let opened = &self.prepared.editor.opened;
        let patches = std::slice::from_ref(&self.patch);
        let progress = &*self.prepared.editor.settings.progress;
        self.unchanged_state()?;
        let done = apply::in_place(&opened.dir, patches, &opened.device, progress)?;
        self.carry_state()?;
        Ok(done)
    }

    /// Writes the patch as a LoRA adapter: of a rank, or of the smallest that holds it.
    ///
    /// # Errors
    ///
    /// A rank that servers do not take; a folder that is there already.
    pub fn export_lora(&self, dir: impl AsRef<Path>, rank: Option<usize>) -> Result<Adapter> {
        let editor = &self.prepared.editor;
        let base = editor.opened.dir.display().to_string();
        let progress = &*editor.settings.progress;
        export::lora(&self.patch, rank, Some(&base), dir.as_ref(), progress)
    }

    /// Writes the changed tensors in full, as the checkpoint stores them.
    ///
    /// # Errors
    ///
    /// A checkpoint that changed since it was opened; a file that cannot be written.
    pub fn export_tensors(&self, file: impl AsRef<Path>) -> Result<Report> {
        let opened = &self.prepared.editor.opened;
        let patches = std::slice::from_ref(&self.patch);
        let progress = &*self.prepared.editor.settings.progress;
        apply::to_file(&opened.dir, patches, file.as_ref(), &opened.device, progress)
    }

    /// Refuses, before anything is written, a state that another run wrote meanwhile.
    fn unchanged_state(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map_or(Ok(()), |(file, _)| file.unchanged())
    }

    /// Writes the state, once.
    fn carry_state(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, carried)) = &*state else { return Ok(()) };
        let changed = self.plan.layers.iter().any(|l| l.norm > 0.0);
        file.write(carried.clone(), changed, &self.prepared)?;
        *state = None;
        Ok(())
    }
}
