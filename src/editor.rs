//! Floor 8: the front door. Open a model, choose a method and settings, plan, look at the edit,
//! then write, apply, export or undo it. The command line, the demo and bindings use nothing else.
//!
//! ```text
//! Editor ── prepare(facts) ──► Prepared ── plan() ──► Edit ──► write, apply, export
//!   model, method, settings      tokens, parameters,    changed layers, a report a fact;
//!                                costs; nothing is run   no file was touched
//! ```
//!
//! What must not be lost stands behind it: values found for another model are never handed back
//! ([`Cache`](crate::edit::cache::Cache)), a state learns each request once and goes with its
//! patches ([`state`]), conflicts between requests are settled by rule, outputs never replace
//! inputs (`editor/places.rs`), and weights are written through a journal.

mod cases;
mod check;
pub mod edit;
pub mod evaluate;
pub mod evaluation;
mod kept;
pub mod neurons;
mod opened;
pub mod options;
mod parameters;
mod places;
pub mod prepared;
pub mod quantised;
pub mod report;
mod requests;
mod rounds;
mod settings;
mod shard;
pub mod state;
pub mod statistics;
mod summary;
pub mod text_model;
pub mod trace;
pub mod training;
pub mod tune;
mod verdict;
mod warnings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::base::file::read_file;
use crate::base::remedy::Operation;
use crate::base::{Error, Progress, Quiet, Remedy, Result, Share};
use crate::data::broken::OnBroken;
use crate::data::conflicts::OnConflict;
use crate::data::request::{self, Fields, MAX_BYTES};
use crate::data::{Contexts, Fact};
use crate::edit::apply::{self, PatchSide};
use crate::edit::export::widened;
use crate::edit::hparams::HparamSet;
use crate::edit::methods;
use crate::memory;
use crate::model::SearchPrecision;
use crate::model::lineage::weights_name;
use crate::store::Patch;
use crate::store::journal::Undone;
use crate::store::record::LogEntry;
use crate::tensor::Device;
use crate::text::{Chat, ChatSettings};
use crate::train::TrainedEditor;

use opened::Opened;
use settings::{Settings, refused_threads};

pub use edit::{Artifact, Edit};
pub use prepared::Prepared;
pub use text_model::TextModel;

/// A model, a method and its settings. Clones share the model.
#[derive(Clone)]
pub struct Editor {
    opened: Arc<Opened>,
    settings: Settings,
}

impl Editor {
    /// Opens a checkpoint folder on the CPU, by memory map: of the weights only samples
    /// are read, for the model's fingerprint.
    ///
    /// # Errors
    ///
    /// A folder that is no checkpoint of a known family.
    pub fn open(dir: impl AsRef<Path>) -> Result<Editor> {
        Editor::open_on(dir, &Device::Cpu, &Quiet)
    }

    /// Opens a checkpoint folder on a device. A GPU is asked the first time whether its kernels
    /// give what they should, which takes some seconds.
    ///
    /// # Errors
    ///
    /// As [`open`](Editor::open); a device that does not start, or computes what it should not.
    pub fn open_on(
        dir: impl AsRef<Path>,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Editor> {
        let dir = dir.as_ref();
        let opened = Opened::new(dir, device, SearchPrecision::Exact, progress)?;
        let settings = Settings::default();
        Ok(Editor { opened: Arc::new(opened), settings })
    }

    /// Computes on another device: `auto`, `cpu`, `cuda:N`, or several as `cuda:0,1`.
    ///
    /// # Errors
    ///
    /// No such device; one that does not start.
    pub fn device(mut self, name: &str) -> Result<Editor> {
        self.opened =
            Arc::new(self.opened.on(&Device::parse(name)?, self.opened.model.search_precision)?);
        Ok(self)
    }

    /// Lets the value search on a GPU round activations to bf16.
    ///
    /// # Errors
    ///
    /// A device without such products: the CPU.
    pub fn fast_search(mut self) -> Result<Editor> {
        self.opened = Arc::new(self.opened.on(&self.opened.device, SearchPrecision::Fast)?);
        Ok(self)
    }

    /// Edits with a method, by its name: one of [`METHODS`](methods::METHODS).
    ///
    /// # Errors
    ///
    /// No such method.
    pub fn method(mut self, name: &str) -> Result<Editor> {
        self.settings.method = Some(methods::find(name)?);
        Ok(self)
    }

    /// Hyperparameters: a JSON or YAML file, or a preset such as gpt2-xl. The preset of the model's
    /// sizes gives what a file leaves open, and all where nothing is named.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn hparams(mut self, file_or_preset: impl Into<PathBuf>) -> Result<Editor> {
        let given = file_or_preset.into();
        if given.is_file() {
            HparamSet::read(&given)?;
        }
        self.settings.hparams = Some(given);
        Ok(self)
    }

    /// One hyperparameter over those of file and preset.
    ///
    /// # Errors
    ///
    /// A name that is empty.
    pub fn set(self, name: &str, value: impl Into<Value>) -> Result<Editor> {
        self.set_from(name, value, "set")
    }

    /// The same; `source` says in errors and records who set it.
    #[doc(hidden)]
    pub fn set_from(mut self, name: &str, value: impl Into<Value>, source: &str) -> Result<Editor> {
        if name.is_empty() {
            return Err(Error::refused("a hyperparameter without a name", "name one, as v_lr"));
        }
        self.settings.set.push((name.to_owned(), value.into(), source.to_owned()));
        Ok(self)
    }

    /// The folder of key statistics that methods with C read.
    ///
    /// # Errors
    ///
    /// No folder.
    pub fn statistics(mut self, dir: impl Into<PathBuf>) -> Result<Editor> {
        let dir = dir.into();
        if !dir.is_dir() {
            let remedy = Remedy::from("name a folder of collected statistics")
                .operation(Operation::CollectStatistics);
            return Err(Error::input(dir, "statistics", "is no folder", remedy));
        }
        self.settings.statistics = Some(dir);
        Ok(self)
    }

    /// The folder of a trained editor, for methods that edit with one ([`train`](Editor::train)).
    ///
    /// # Errors
    ///
    /// A folder that holds none.
    pub fn trained_editor(mut self, dir: impl Into<PathBuf>) -> Result<Editor> {
        let dir = dir.into();
        TrainedEditor::read(&dir)?;
        self.settings.trained = Some(dir);
        Ok(self)
    }

    /// A file of contexts; without one they are drawn from the model with the seed.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or holds no contexts.
    pub fn contexts(mut self, file: impl Into<PathBuf>) -> Result<Editor> {
        let file = file.into();
        let contexts = Contexts::read(&file)?;
        self.settings.contexts = Some((file, contexts));
        Ok(self)
    }

    /// Takes prompts for a user's message in the model's chat template, and targets for its answer.
    ///
    /// # Errors
    ///
    /// A model without a template that can be used.
    pub fn chat(self) -> Result<Editor> {
        self.chat_with(ChatSettings::default())
    }

    /// The same, with a system message or variables of the template.
    ///
    /// # Errors
    ///
    /// As [`chat`](Editor::chat); a variable that the template does not read, a system message that
    /// it does not output.
    pub fn chat_with(mut self, settings: ChatSettings) -> Result<Editor> {
        self.settings.chat = Some(Arc::new(Chat::open_with(&self.opened.dir, settings)?));
        Ok(self)
    }

    /// Puts no space between prompts and targets, where a request does not say otherwise. Else one
    /// stands there unless the texts are against it ([`seam`](crate::text::seam)).
    pub fn no_space(mut self) -> Editor {
        self.settings.no_space = true;
        self
    }

    /// What becomes of records that cannot be used; otherwise they are an error that names them.
    pub fn on_broken(mut self, rule: OnBroken) -> Editor {
        self.settings.on_broken = rule;
        self
    }

    /// Which request counts where several ask one prompt for different targets; otherwise that is
    /// an error.
    pub fn on_conflict(mut self, rule: OnConflict) -> Editor {
        self.settings.on_conflict = rule;
        self
    }

    /// Leaves out the facts of these ids, broken or not; values that were found before serve again.
    pub fn without<S: Into<String>>(mut self, ids: impl IntoIterator<Item = S>) -> Editor {
        self.settings.without.extend(ids.into_iter().map(Into::into));
        self
    }

    /// Bytes the searches may take; otherwise half of what is free. Results do not depend on it.
    pub fn memory(mut self, bytes: u64) -> Editor {
        self.settings.memory = Some(bytes);
        self
    }

    /// How many threads plan; otherwise one a core. Results do not depend on it.
    ///
    /// # Errors
    ///
    /// More than 1,024, or a number the system refuses.
    pub fn threads(mut self, threads: usize) -> Result<Editor> {
        let pool = match threads {
            0..=1024 => rayon::ThreadPoolBuilder::new().num_threads(threads).build(),
            _ => return Err(refused_threads(threads, "there are at most 1024")),
        };
        let pool = pool.map_err(|e| refused_threads(threads, &e.to_string()))?;
        self.settings.threads = Some(Arc::new(pool));
        Ok(self)
    }

    /// The seed of everything that is drawn; 0 where it is not given.
    pub fn seed(mut self, seed: u64) -> Editor {
        self.settings.seed = seed;
        self
    }

    /// Leaves out the check of a GPU: that the first look of the search, of the first fact, is near
    /// what the CPU computes beside the search.
    #[must_use]
    pub fn no_check(mut self) -> Editor {
        self.settings.no_check = true;
        self
    }

    /// Edits in batches of so many facts, each on the model as those before it left it.
    pub fn sequential(mut self, facts: usize) -> Editor {
        self.settings.sequential = facts;
        self
    }

    /// Plans facts that were not taken again, in up to so many rounds in all, while that helps.
    pub fn rounds(mut self, rounds: usize) -> Editor {
        self.settings.rounds = rounds;
        self
    }

    /// The file of what a method carries from one edit to the next: read where it is there, and
    /// written with the edit's patch.
    pub fn state(mut self, file: impl Into<PathBuf>) -> Editor {
        self.settings.state = Some(file.into());
        self
    }

    /// Keeps what is found in this folder, so that an edit that was cut off goes on.
    pub fn cache(mut self, dir: impl Into<PathBuf>) -> Editor {
        self.settings.cache = Some(dir.into());
        self
    }

    /// Files of values that were found before, by shards of an edit.
    pub fn values<P: Into<PathBuf>>(mut self, files: impl IntoIterator<Item = P>) -> Editor {
        self.settings.values.extend(files.into_iter().map(Into::into));
        self
    }

    /// Searches the values of a share of the facts only, for an edit elsewhere.
    pub fn shard(mut self, share: Share) -> Editor {
        self.settings.shard = Some(share);
        self
    }

    /// Who is told how the work goes, and may cancel it.
    pub fn progress(mut self, progress: impl Progress + Send + 'static) -> Editor {
        self.settings.progress = Arc::new(progress);
        self
    }

    /// Says where the patch (of a shard: the values) will be written, so that the place is checked
    /// before the work, and what is found is kept beside it in `FILE.kept/`.
    pub fn output(mut self, file: impl Into<PathBuf>) -> Editor {
        self.settings.output = Some(file.into());
        self
    }

    /// Makes facts ready to be planned: settles conflicts, reads hyperparameters, tokenises.
    /// Nothing is run but the drawing of contexts.
    ///
    /// # Errors
    ///
    /// No method; settings that contradict each other or the model; facts that are broken.
    pub fn prepare(&self, facts: &[Fact]) -> Result<Prepared> {
        let requests = request::checked(prepared::CALLER, facts)?;
        let place = (Path::new(prepared::CALLER), None);
        Prepared::new(self.opened.clone(), self.settings.clone(), place, requests)
    }

    /// The same for the facts of a file: JSON Lines or a JSON array, in any form that
    /// [`request`] knows.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Editor::prepare); a file that cannot be read.
    pub fn prepare_file(&self, file: impl AsRef<Path>) -> Result<Prepared> {
        let file = file.as_ref();
        let requests = request::parse_each(file, &read_file(file, MAX_BYTES)?, Fields::Edit)?;
        let place = (file, Some(file.to_owned()));
        Prepared::new(self.opened.clone(), self.settings.clone(), place, requests)
    }

    /// The same for what such a file holds; `name` says in errors where it is from.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Editor::prepare).
    pub fn prepare_text(&self, name: &str, text: &[u8]) -> Result<Prepared> {
        let requests = request::parse_each(name, text, Fields::Edit)?;
        let place = (Path::new(name), None);
        Prepared::new(self.opened.clone(), self.settings.clone(), place, requests)
    }

    /// Plans the change of facts. Touches nothing but the cache, if there is one.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Editor::prepare) and [`Prepared::plan`].
    pub fn plan(&self, facts: &[Fact]) -> Result<Edit> {
        self.prepare(facts)?.plan()
    }

    /// A fingerprint of the model's weights, but for the matrices that edits may change.
    pub fn fingerprint(&self) -> &str {
        &self.opened.fingerprint
    }

    /// A name for the weights as they are: another edit of them has another.
    ///
    /// # Errors
    ///
    /// A checkpoint that cannot be read.
    #[doc(hidden)]
    pub fn weights(&self) -> Result<String> {
        weights_name(&self.opened.checkpoint)
    }

    /// The model as it was opened.
    pub fn model(&self) -> TextModel {
        TextModel::new(&self.opened.dir, self.opened.model.clone(), &self.opened.tokenizer)
    }

    /// The model with edits beside its weights, read from these files, each on what those before
    /// it left.
    ///
    /// # Errors
    ///
    /// A file that is no memory, or was made for other weights: for another model, or for this one
    /// before an edit of it; a checkpoint that changed since it was opened.
    pub fn model_with<P: AsRef<Path>>(
        &self,
        memories: impl IntoIterator<Item = P>,
    ) -> Result<TextModel> {
        self.opened.checkpoint.unchanged()?;
        let mut memories = memories.into_iter().peekable();
        if memories.peek().is_none() {
            return Ok(self.model()); // a name reads a sample of every tensor
        }
        let (base, name) = (&self.opened.model, self.opened.weights_name()?);
        memories.try_fold(self.model(), |model, file| {
            model.with(memory::open(file.as_ref(), base, &name)?)
        })
    }

    /// Writes the checkpoint with neurons beside its MLP, from a memory's file, as one with wider
    /// MLPs, into a new folder; returns how many they are.
    ///
    /// # Errors
    ///
    /// A file that holds no neurons, or was made for other weights; a layout that cannot be
    /// widened; a folder that is there; cancellation.
    pub fn export_widened(&self, memory: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<usize> {
        let (memory, opened) = (memory.as_ref(), &self.opened);
        opened.checkpoint.unchanged()?;
        let neurons = memory::neurons(memory, &opened.model, &opened.weights_name()?)?;
        let progress = &*self.settings.progress;
        widened::write(&opened.checkpoint, &opened.model, &neurons, dir.as_ref(), progress)?;
        Ok(neurons.len())
    }

    /// The model as patches would leave it, each on what those before it left.
    ///
    /// # Errors
    ///
    /// A file that is no patch, or one of another model; a checkpoint that changed since it was
    /// opened.
    pub fn model_patched<P: AsRef<Path>>(
        &self,
        patches: impl IntoIterator<Item = P>,
    ) -> Result<TextModel> {
        self.opened.checkpoint.unchanged()?;
        let read = |file: P| Patch::read(file.as_ref());
        let patches: Vec<Patch> = patches.into_iter().map(read).collect::<Result<_>>()?;
        let (dir, model) = (&self.opened.dir, &self.opened.model);
        let progress = &*self.settings.progress;
        let mut patched = model.clone();
        let by = &model.compute;
        for tensor in apply::to_memory(dir, &patches, PatchSide::After, by, progress)?.0 {
            patched = patched.with_stored(&tensor.name, tensor.dtype, Arc::new(tensor.bytes));
        }
        Ok(TextModel::new(dir, patched, &self.opened.tokenizer))
    }

    /// The folder of the checkpoint.
    pub fn dir(&self) -> &Path {
        &self.opened.dir
    }
}

/// Undoes the newest change that was applied in place, byte for byte. One that was cut off is the
/// newest, and is rolled back.
///
/// # Errors
///
/// Nothing to undo; files that something else has written since.
pub fn undo(model: impl AsRef<Path>) -> Result<Undone> {
    apply::undo(model.as_ref(), None)
}

/// The changes that were applied in place, oldest first.
///
/// # Errors
///
/// No model; one being changed right now; a damaged journal.
pub fn log(model: impl AsRef<Path>) -> Result<Vec<LogEntry>> {
    apply::log(model.as_ref())
}
