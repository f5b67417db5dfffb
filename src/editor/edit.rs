//! A planned edit: to look at, write, apply and export.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::places;
use super::prepared::Prepared;
use super::report;
use super::state::{self, StateFile};
use super::text_model::TextModel;
use crate::base::units::count;
use crate::base::{Error, Progress, Remedy, Result, catch_device_error};
use crate::data::broken::Broken;
use crate::data::conflicts::Superseded;
use crate::data::{Contexts, Fact, request};
use crate::edit::apply::{self, Report};
use crate::edit::export::{self, Adapter};
use crate::edit::fact_report::FactReport;
use crate::edit::method::{Context, Plan};
use crate::edit::solve::layers::MatrixChange;
use crate::edit::state::State;
use crate::memory::Codebook;
use crate::model::score::Score;
use crate::model::{MatrixId, Model};
use crate::stats::Moment;
use crate::store::{Metadata, Patch};

/// What an edit is.
#[non_exhaustive]
pub enum Artifact {
    /// A change of the weights.
    Weights(Box<Patch>),
    /// What lives beside them.
    Memory(Arc<Codebook>),
}

/// A planned edit. No file was touched yet but the cache.
pub struct Edit {
    prepared: Prepared,
    facts: Vec<FactReport>,
    changes: Vec<MatrixChange>,
    artifact: Artifact,
    /// With its changed matrices as they are written.
    model: Model,
    /// What is written with the first thing the edit leaves behind; nothing once it was.
    state: Mutex<Option<(StateFile, State)>>,
}

impl Prepared {
    /// Plans the change of all facts. Nothing but the cache is touched.
    ///
    /// # Errors
    ///
    /// A checkpoint that was changed since it was opened; statistics or a state that do not fit; a
    /// search that meets NaN, a system that cannot be solved; cancellation; a device out of memory.
    pub fn plan(self) -> Result<Edit> {
        let settings = self.settings.clone();
        settings.run(|| self.plan_here())
    }

    fn plan_here(self) -> Result<Edit> {
        let settings = &self.settings;
        if settings.shard.is_some() {
            let what = "a shard of an edit searches values, and plans nothing";
            return Err(Error::refused(what, "search its values, or leave the shard out"));
        }
        self.opened.checkpoint.unchanged()?;
        let progress = &*settings.progress;
        let (state_file, state) = self.state()?;
        self.check_statistics(&state)?;
        let mut cache = self.open_cache()?;
        self.remark_known(cache.as_ref());
        if self.method.batching().keeps() {
            self.remark_cost(&self.cost_from(state.clone()));
        }
        let before = self.scores()?;
        let moments = |l| self.moment(l);
        let plan = self.checked(|progress| {
            let context = self.context(&moments, cache.as_mut(), state);
            let mut context = Context { progress, ..context };
            catch_device_error(|| self.method.plan(&mut context, &self.facts, &self.params))
        });
        let plan = plan.map_err(|e| self.say_where_it_is(e, cache.is_some()))?;
        for change in plan.changes.iter().filter(|c| c.ridge.is_some()) {
            warn_of_ridge(progress, &*self.moment(change.id.layer)?, change.ridge);
        }
        if let Some(file) = &state_file {
            file.unchanged()?;
        }
        Edit::new(self, &before, plan, state_file)
    }
}

impl Edit {
    fn new(
        prepared: Prepared,
        before: &[Score],
        plan: Plan,
        state_file: Option<StateFile>,
    ) -> Result<Edit> {
        let mut notes = prepared.notes.clone();
        notes["ridge"] = json!(plan.changes.iter().map(|c| c.ridge).collect::<Vec<_>>());
        notes["device"] = prepared.computed_on();
        for (name, value) in prepared.plan_notes()? {
            notes[name] = value;
        }
        let metadata = Metadata {
            method: prepared.method.about().name.to_owned(),
            hyperparameters: prepared.hparams.to_json(),
            contexts: prepared.contexts.to_json(),
            requests: request::digest(&prepared.requests),
            facts: prepared.requests.len() as u64,
            model: prepared.opened.fingerprint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notes,
        };
        let patch = plan.to_patch(|id| prepared.opened.stored(id))?;
        let patch = Patch { changes: patch, metadata };
        let Plan { facts, changes, memory, mut state, model } = plan;
        let fingerprint = &prepared.opened.fingerprint;
        let memory = memory.map(|book| Arc::new(Codebook { model: fingerprint.clone(), ..book }));
        drop(model); // what is written is rounded
        let changed = changes.iter().any(|c| c.norm > 0.0);
        if !changed && memory.is_none() {
            let why = "every fact was left out, or needed no change";
            let progress = &prepared.settings.progress;
            progress.warn(&format!("the patch changes nothing: {why}; the report says which"));
        }
        if state_file.is_some() {
            state::learn(&mut state, changed, &prepared.learner())?;
        }
        // What was read of the weights just now has to be what was planned on.
        prepared.opened.checkpoint.unchanged()?;
        let written = match &memory {
            Some(memory) => prepared.remembering(memory.clone())?,
            None => prepared.written(&patch)?,
        };
        let facts = prepared.reports(facts, before, &written)?;
        let state = Mutex::new(state_file.map(|file| (file, state)));
        let artifact = match memory {
            Some(memory) => Artifact::Memory(memory),
            None => Artifact::Weights(Box::new(patch)),
        };
        Ok(Edit { prepared, facts, changes, artifact, model: written.model, state })
    }

    /// What the edit did to each fact, in the order of the facts.
    pub fn facts(&self) -> &[FactReport] {
        &self.facts
    }

    /// The facts that were edited, in the order of their reports.
    pub fn requests(&self) -> &[Fact] {
        &self.prepared.requests
    }

    /// Requests that others took the place of.
    pub fn superseded(&self) -> &[Superseded] {
        &self.prepared.superseded
    }

    /// Records that cannot be used and were skipped.
    pub fn skipped(&self) -> &[Broken] {
        &self.prepared.skipped
    }

    /// What was done to each matrix, ascending.
    pub fn changes(&self) -> &[MatrixChange] {
        &self.changes
    }

    /// The tensor that holds a matrix.
    pub fn tensor(&self, id: MatrixId) -> &str {
        &self.model.matrix(id).stored.tensor
    }

    /// Hyperparameters by name, and where each is from.
    pub fn hyperparameters(&self) -> [Value; 2] {
        self.prepared.hyperparameters()
    }

    /// The contexts, given or drawn.
    pub fn contexts(&self) -> &Contexts {
        &self.prepared.contexts
    }

    /// What the edit is, as it is written.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The patch as it is written.
    ///
    /// # Errors
    ///
    /// An edit that lives beside the weights.
    pub fn patch(&self) -> Result<&Patch> {
        match &self.artifact {
            Artifact::Weights(patch) => Ok(patch),
            Artifact::Memory(_) => {
                let what = "the edit lives beside the weights: there is no change of them";
                let remedy = Remedy::from("write it, and attach its file where the model is run");
                Err(Error::refused(what, remedy.option("with", None)))
            }
        }
    }

    /// The edited model, in memory, its changed matrices rounded as they are written; the editor's
    /// stays as it is.
    ///
    /// # Errors
    ///
    /// A device out of memory, where the edit lives beside the weights.
    pub fn model(&self) -> Result<TextModel> {
        let opened = &self.prepared.opened;
        let model = TextModel::new(&opened.dir, self.model.clone(), &opened.tokenizer);
        match &self.artifact {
            Artifact::Weights(_) => Ok(model),
            Artifact::Memory(memory) => model.with(memory.clone()),
        }
    }

    /// Writes the patch or the memory, a report beside it (`FILE.report.jsonl`, a line a request),
    /// and the state if there is one.
    ///
    /// # Errors
    ///
    /// A file that cannot be written, or would replace what was read; a state that another run
    /// wrote meanwhile.
    pub fn write(&self, file: impl AsRef<Path>) -> Result<()> {
        let file = file.as_ref();
        let Prepared { opened, settings, requests_file, .. } = &self.prepared;
        places::check(opened, settings, requests_file.as_deref(), Some(file))?;
        self.unchanged_state()?;
        match &self.artifact {
            Artifact::Weights(patch) => patch.write(file)?,
            Artifact::Memory(memory) => memory.write(file)?,
        }
        report::write(&report::path(file), &self.lines())?;
        self.carry_state()
    }

    /// The lines of the report: one a request.
    pub fn lines(&self) -> Vec<Value> {
        let mut device = self.prepared.computed_on();
        // Another device may have searched those, and it is not known which.
        device["values_from"] = json!(self.prepared.settings.values);
        let planned = self.prepared.requests.iter().zip(&self.facts);
        let planned = planned.map(|(request, fact)| report::line(request, fact, &device));
        let superseded = self.prepared.superseded.iter().map(report::superseded_line);
        let skipped = self.prepared.skipped.iter().map(report::skipped_line);
        planned.chain(superseded).chain(skipped).collect()
    }

    /// Writes the edited checkpoint into a new folder, and the state if there is one.
    ///
    /// # Errors
    ///
    /// A folder that is there already; a checkpoint that changed since it was opened.
    pub fn apply(&self, dir: impl AsRef<Path>) -> Result<Report> {
        let opened = &self.prepared.opened;
        let patches = std::slice::from_ref(self.patch()?);
        let progress = &*self.prepared.settings.progress;
        self.unchanged_state()?;
        let done = apply::to_folder(&opened.dir, patches, dir.as_ref(), &opened.device, progress)?;
        self.carry_state()?;
        Ok(done)
    }

    /// Changes the checkpoint itself, through its journal; [`undo`](crate::undo) puts every byte
    /// back. The state is written too, if there is one. The editor reads the weights where they
    /// lie, so its model must not be used any more, and it refuses another plan: open the folder
    /// again.
    ///
    /// # Errors
    ///
    /// A checkpoint that changed since it was opened, or that another process uses.
    pub fn apply_in_place(&self) -> Result<Report> {
        let opened = &self.prepared.opened;
        let patches = std::slice::from_ref(self.patch()?);
        let progress = &*self.prepared.settings.progress;
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
        let base = self.prepared.opened.dir.display().to_string();
        let progress = &*self.prepared.settings.progress;
        self.unchanged_state()?;
        let adapter = export::lora(self.patch()?, rank, Some(&base), dir.as_ref(), progress)?;
        self.carry_state()?;
        Ok(adapter)
    }

    /// Writes the changed tensors in full, as the checkpoint stores them.
    ///
    /// # Errors
    ///
    /// A checkpoint that changed since it was opened; a file that cannot be written.
    pub fn export_tensors(&self, file: impl AsRef<Path>) -> Result<Report> {
        let opened = &self.prepared.opened;
        let patches = std::slice::from_ref(self.patch()?);
        let progress = &*self.prepared.settings.progress;
        self.unchanged_state()?;
        let done = apply::to_file(&opened.dir, patches, file.as_ref(), &opened.device, progress)?;
        self.carry_state()?;
        Ok(done)
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
        file.write(carried, &self.prepared.learner())?;
        *state = None;
        Ok(())
    }
}

/// Says that C was singular.
fn warn_of_ridge(progress: &dyn Progress, moment: &Moment, ridge: Option<f64>) {
    let Some(ridge) = ridge else { return };
    let (tokens, f, l) = (count(moment.tokens), count(moment.f as u64), moment.layer);
    let why = if moment.tokens < moment.f as u64 {
        "collect more tokens for a sharper edit"
    } else {
        "some neurons never fire, or say the same as others"
    };
    progress.warn(&format!(
        "layer {l}: C of {tokens} tokens for {f} neurons is singular, so {ridge:.2e} was added to \
         its diagonal; {why}"
    ));
}
