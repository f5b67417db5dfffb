//! A planned edit: to look at, write, apply and export.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::kept::{say_what_is_kept, say_where_it_is};
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
use crate::edit::apply::{self, PatchSide, Report, TensorBytes};
use crate::edit::cache::Cache;
use crate::edit::export::adapter::{self, Adapter};
use crate::edit::fact_report::FactReport;
use crate::edit::method::{Context, Plan};
use crate::edit::prompts::PromptRow;
use crate::edit::reach::reach;
use crate::edit::solve::layers::MatrixChange;
use crate::edit::state::State;
use crate::memory::EditMemory;
use crate::model::score::Score;
use crate::model::{MatrixId, Model};
use crate::stats::Moment;
use crate::store::place::check_new_folder;
use crate::store::{Metadata, Patch};

/// What an edit is.
#[non_exhaustive]
pub enum Artifact {
    /// A change of the weights.
    Weights(Box<Patch>),
    /// What lives beside them.
    Memory(EditMemory),
}

/// A planned edit. No file was touched yet but the cache.
pub struct Edit {
    prepared: Prepared,
    facts: Vec<FactReport>,
    changes: Vec<MatrixChange>,
    reach: Option<Vec<f64>>,
    artifact: Artifact,
    /// With its changed matrices as they are written.
    model: Model,
    /// What was kept of trainings, and serves no more once the edit has left something behind.
    trainings: Vec<PathBuf>,
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
        self.check_rounds()?;
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
        let plan = plan.and_then(|plan| self.more_rounds(plan, cache.as_mut()));
        let (plan, rounds) = plan.map_err(|e| say_where_it_is(e, cache.as_ref()))?;
        for change in plan.changes.iter().filter(|c| c.ridge.is_some()) {
            warn_of_ridge(progress, &*self.moment(change.id.layer)?, change.ridge);
        }
        if let Some(file) = &state_file {
            file.unchanged()?;
        }
        Edit::new(self, &before, (plan, rounds), state_file, cache)
    }
}

impl Prepared {
    /// A plan as a patch, in so many rounds.
    ///
    /// # Errors
    ///
    /// Statistics that cannot be read any more.
    pub(super) fn patch(&self, plan: &Plan, rounds: usize) -> Result<Patch> {
        let mut notes = self.notes.clone();
        notes["ridge"] = json!(plan.changes.iter().map(|c| c.ridge).collect::<Vec<_>>());
        notes["device"] = self.computed_on();
        if plan.changes.iter().any(|c| c.keys_follow) {
            notes["keys"] = json!("factors"); // as `Change::keys_follow` reads it
        }
        if self.settings.rounds > 1 {
            notes["rounds"] = json!(rounds);
        }
        for (name, value) in self.plan_notes()? {
            notes[name] = value;
        }
        let metadata = Metadata {
            method: self.method.about().name.to_owned(),
            hyperparameters: self.hparams.to_json(),
            contexts: self.contexts.to_json(),
            requests: request::digest(&self.requests),
            facts: self.requests.len() as u64,
            model: self.opened.fingerprint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            notes,
        };
        let changes = plan.to_patch(|id| self.opened.stored(id))?;
        Ok(Patch { changes, metadata, file: None })
    }

    /// How far layers reach at the facts' bare prompts; an edit is not lost for it.
    fn reach(&self) -> Option<Vec<f64>> {
        let bare = self.facts.iter().filter_map(|fact| fact.rows.keys.first());
        let prompts: Vec<&[u32]> = bare.map(PromptRow::up_to_lookup).collect();
        reach(self.model(), &prompts).unwrap_or_else(|e| {
            self.settings.progress.warn(&format!("how far layers reach is not known: {e}"));
            None
        })
    }
}

impl Edit {
    fn new(
        prepared: Prepared,
        before: &[Score],
        (plan, rounds): (Plan, usize),
        state_file: Option<StateFile>,
        cache: Option<Cache>,
    ) -> Result<Edit> {
        let patch = prepared.patch(&plan, rounds)?;
        let Plan { facts, changes, memory, mut state, model } = plan;
        let named = |memory: EditMemory| Ok(memory.named(prepared.opened.weights_name()?));
        let memory = memory.map(named).transpose()?;
        drop(model); // what is written is rounded
        let changed = changes.iter().any(|c| c.norm > 0.0);
        warn_of_nothing(&*prepared.settings.progress, changed, memory.as_ref());
        if state_file.is_some() {
            state::learn(&mut state, changed, &prepared.learner())?;
        }
        // What was read of the weights just now has to be what was planned on.
        prepared.opened.checkpoint.unchanged()?;
        let written = match &memory {
            Some(memory) => prepared.remembering(memory.memory()),
            None => prepared.written(&patch),
        };
        let said = |e| say_what_is_kept(e, cache.as_ref());
        let written = written.map_err(said)?;
        let facts = prepared.reports(facts, before, &written).map_err(said)?;
        let trainings = prepared.trainings_to_forget(cache.as_ref());
        let reach = prepared.reach();
        let state = Mutex::new(state_file.map(|file| (file, state)));
        let artifact = match memory {
            Some(memory) => Artifact::Memory(memory),
            None => Artifact::Weights(Box::new(patch)),
        };
        Ok(Edit {
            prepared,
            facts,
            changes,
            reach,
            artifact,
            model: written.model,
            trainings,
            state,
        })
    }

    /// What the edit did to each fact, in the order of the facts.
    pub fn facts(&self) -> &[FactReport] {
        &self.facts
    }

    /// The method's name.
    pub fn method(&self) -> &'static str {
        self.prepared.method.about().name
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

    /// How far each layer can move the stream, relative to it, where a norm behind the MLP bounds
    /// it ([`reach`]).
    pub fn reach(&self) -> Option<&[f64]> {
        self.reach.as_deref()
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
            Artifact::Memory(memory) => model.with(memory.memory()),
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
    /// A rank that servers do not take; a folder that is there already, or in the checkpoint's.
    pub fn export_lora(&self, dir: impl AsRef<Path>, rank: Option<usize>) -> Result<Adapter> {
        let (model, dir) = (&self.prepared.opened.dir, dir.as_ref());
        let (base, progress) = (adapter::name_of(model), &*self.prepared.settings.progress);
        self.unchanged_state()?;
        check_new_folder(dir, &[model])?;
        let adapter = adapter::write(self.patch()?, rank, Some(&base), dir, progress)?;
        self.carry_state()?;
        Ok(adapter)
    }

    /// Writes the changed tensors in full, as the checkpoint stores them.
    ///
    /// # Errors
    ///
    /// A checkpoint that changed since it was opened; a file that cannot be written, or that stands
    /// there and is none of these tensors.
    pub fn export_tensors(&self, file: impl AsRef<Path>) -> Result<Report> {
        let opened = &self.prepared.opened;
        let patches = std::slice::from_ref(self.patch()?);
        let progress = &*self.prepared.settings.progress;
        self.unchanged_state()?;
        let (dir, device, file) = (&opened.dir, &opened.device, file.as_ref());
        apply::check_tensors_file(file, patches, &[dir])?;
        let done = apply::to_file(dir, patches, PatchSide::After, file, device, progress)?;
        self.carry_state()?;
        Ok(done)
    }

    /// The tensors that the edit changes, with the bytes that [`apply`](Edit::apply) writes: for a
    /// program that has the model in its memory. The state is written too, if there is one.
    ///
    /// # Errors
    ///
    /// A checkpoint that changed since it was opened; an edit that lives beside the weights.
    pub fn tensors(&self) -> Result<Vec<TensorBytes>> {
        self.unchanged_state()?;
        let tensors = self.side(PatchSide::After)?;
        self.carry_state()?;
        Ok(tensors)
    }

    /// The same tensors as the checkpoint holds them: what puts such a program's model back.
    ///
    /// # Errors
    ///
    /// As [`tensors`](Edit::tensors).
    pub fn tensors_before(&self) -> Result<Vec<TensorBytes>> {
        self.side(PatchSide::Before)
    }

    fn side(&self, side: PatchSide) -> Result<Vec<TensorBytes>> {
        let opened = &self.prepared.opened;
        let patches = std::slice::from_ref(self.patch()?);
        let (by, progress) = (&opened.model.compute, &*self.prepared.settings.progress);
        Ok(apply::to_memory(&opened.dir, patches, side, by, progress)?.0)
    }

    /// Refuses, before anything is written, a state that another run wrote meanwhile.
    fn unchanged_state(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map_or(Ok(()), |(file, _)| file.unchanged())
    }

    /// Writes the state, once; what was kept of a training has then served.
    fn carry_state(&self) -> Result<()> {
        self.trainings.iter().for_each(|file| self.prepared.forget_training(file));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, carried)) = &*state else { return Ok(()) };
        file.write(carried, &self.prepared.learner())?;
        *state = None;
        Ok(())
    }
}

/// Says that an edit does nothing, and why.
fn warn_of_nothing(progress: &dyn Progress, changed: bool, memory: Option<&EditMemory>) {
    match memory {
        Some(memory) if memory.entries() == 0 => {
            progress.warn("the memory is empty: the model says every target already");
        }
        None if !changed => {
            let why = "every fact was left out, or needed no change";
            progress.warn(&format!("the patch changes nothing: {why}; the report says which"));
        }
        _ => {}
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
