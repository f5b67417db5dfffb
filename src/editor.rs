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
//! inputs ([`crate::store::place`]), and weights are written through a journal.

pub mod edit;
pub mod prepared;
pub mod report;
pub mod state;
pub mod text_model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::base::remedy::Operation;
use crate::base::{Error, Progress, Quiet, Remedy, Result, Share};
use crate::data::conflicts::OnConflict;
use crate::data::{Contexts, Request, request};
use crate::edit::apply;
use crate::edit::hparams::HparamSet;
use crate::edit::method::Method;
use crate::edit::methods;
use crate::edit::state::State;
use crate::edit::value_store::ValueStore;
use crate::model::{Model, SearchPrecision, fingerprint, load};
use crate::store::place::{check_distinct, check_place, check_replaced};
use crate::store::record::LogEntry;
use crate::store::write::beside;
use crate::store::{Bytes, Checkpoint, Patch};
use crate::tensor::Device;
use crate::text::{Chat, Tokenizer};

pub use edit::Edit;
pub use prepared::Prepared;
pub use text_model::TextModel;

/// Where the facts of a call come from, in errors.
const CALLER: &str = "facts";

/// A model, a method and its settings. Clones share the model.
#[derive(Clone)]
pub struct Editor {
    opened: Arc<Opened>,
    settings: Settings,
}

/// A checkpoint and what was read from it.
struct Opened {
    dir: PathBuf,
    device: Device,
    checkpoint: Checkpoint,
    model: Model,
    tokenizer: Arc<Tokenizer>,
    fingerprint: String, // of the model without its editable matrices
}

/// What may be set; `None` where a default holds.
#[derive(Clone)]
struct Settings {
    method: Option<&'static dyn Method>,
    hparams: Option<PathBuf>,
    set: Vec<(String, Value, String)>, // with who set it
    statistics: Option<PathBuf>,
    contexts: Option<(PathBuf, Contexts)>,
    chat: Option<Arc<Chat>>,
    on_conflict: OnConflict,
    without: Vec<String>,
    memory: Option<u64>,
    seed: u64,
    sequential: usize, // 0: all at once
    state: Option<PathBuf>,
    shard: Option<Share>,
    cache: Option<PathBuf>,
    values: Vec<PathBuf>,
    output: Option<PathBuf>,
    progress: Arc<dyn Progress + Send + Sync>,
}

impl Editor {
    /// Opens a checkpoint folder on the CPU, by memory map; no weight is read.
    ///
    /// # Errors
    ///
    /// A folder that is no checkpoint of a known family.
    pub fn open(dir: impl AsRef<Path>) -> Result<Editor> {
        Editor::open_on(dir, &Device::Cpu)
    }

    /// Opens a checkpoint folder on a device.
    ///
    /// # Errors
    ///
    /// As [`open`](Editor::open); a device that does not start.
    pub fn open_on(dir: impl AsRef<Path>, device: &Device) -> Result<Editor> {
        let dir = dir.as_ref();
        let opened = Opened::new(dir, device)?;
        let settings = Settings {
            method: None,
            hparams: None,
            set: Vec::new(),
            statistics: None,
            contexts: None,
            chat: None,
            on_conflict: OnConflict::Error,
            without: Vec::new(),
            memory: None,
            seed: 0,
            sequential: 0,
            state: None,
            shard: None,
            cache: None,
            values: Vec::new(),
            output: None,
            progress: Arc::new(Quiet),
        };
        Ok(Editor { opened: Arc::new(opened), settings })
    }

    /// Computes on another device: `auto`, `cpu`, `cuda:N`, or several as `cuda:0,1`.
    ///
    /// # Errors
    ///
    /// No such device; one that does not start.
    pub fn device(mut self, name: &str) -> Result<Editor> {
        self.opened = Arc::new(Opened::new(&self.opened.dir, &Device::parse(name)?)?);
        Ok(self)
    }

    /// Lets the value search on a GPU round activations to bf16.
    ///
    /// # Errors
    ///
    /// A device without such products: the CPU.
    pub fn fast_search(mut self) -> Result<Editor> {
        if self.opened.model.compute.engine().is_none() {
            let what = "a fast search: the CPU has no fast products";
            let remedy = Remedy::from("search exactly, or on a GPU");
            let remedy = remedy.option("device", Some("cuda:0"));
            return Err(Error::refused(what, remedy));
        }
        let mut opened = Opened::new(&self.opened.dir, &self.opened.device)?;
        opened.model.search_precision = SearchPrecision::Fast;
        self.opened = Arc::new(opened);
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
    pub fn chat(mut self) -> Result<Editor> {
        self.settings.chat = Some(Arc::new(Chat::open(&self.opened.dir)?));
        Ok(self)
    }

    /// Which request counts where several ask one prompt for different targets; otherwise that is
    /// an error.
    pub fn on_conflict(mut self, rule: OnConflict) -> Editor {
        self.settings.on_conflict = rule;
        self
    }

    /// Leaves out the facts of these ids; values that were found before serve again.
    pub fn without<S: Into<String>>(mut self, ids: impl IntoIterator<Item = S>) -> Editor {
        self.settings.without.extend(ids.into_iter().map(Into::into));
        self
    }

    /// Bytes the searches may take; otherwise half of what is free. Results do not depend on it.
    pub fn memory(mut self, bytes: u64) -> Editor {
        self.settings.memory = Some(bytes);
        self
    }

    /// The seed of everything that is drawn; 0 where it is not given.
    pub fn seed(mut self, seed: u64) -> Editor {
        self.settings.seed = seed;
        self
    }

    /// Edits in batches of so many facts, each on the model as those before it left it.
    pub fn sequential(mut self, facts: usize) -> Editor {
        self.settings.sequential = facts;
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

    /// Says where the patch (of a shard: the values) will be written. That is checked now, rather
    /// than after hours of work, and what is found is kept beside it in `FILE.kept/`.
    ///
    /// # Errors
    ///
    /// A place that cannot be written, that would replace what is read or a file of another kind.
    pub fn output(mut self, file: impl Into<PathBuf>) -> Result<Editor> {
        let file = file.into();
        let (older, what) = match self.settings.shard {
            Some(_) => (ValueStore::read(&file).is_ok(), "file of values"),
            None => (Patch::read(&file).is_ok(), "patch"),
        };
        let inputs = self.inputs();
        check_place(&file, &inputs)?;
        check_replaced(&file, older, what)?;
        let report = report::path(&file);
        check_place(&report, &inputs)?;
        check_replaced(&report, report::is_report(&report), "report of an edit")?;
        let cache = beside(&file, ".kept");
        let mut outputs = vec![cache.as_path(), &report, &file];
        let before = self.settings.state.as_deref().map(state::before);
        if let (Some(state), Some(before)) = (&self.settings.state, &before) {
            check_place(state, &inputs)?;
            check_replaced(before, State::is_state(before), "state")?;
            outputs.extend([state.as_path(), before]);
        }
        check_distinct(&outputs)?;
        self.outside(&cache, &inputs)?;
        self.settings.cache.get_or_insert(cache);
        self.settings.output = Some(file);
        Ok(self)
    }

    /// Refuses a cache folder that holds what is read, but for values.
    fn outside(&self, cache: &Path, inputs: &[&Path]) -> Result<()> {
        let inside = |input: &Path| match (input.canonicalize(), cache.canonicalize()) {
            (Ok(path), Ok(cache)) => {
                path.starts_with(cache) && !self.settings.values.iter().any(|v| v == input)
            }
            _ => false,
        };
        match inputs.iter().any(|input| inside(input)) {
            true => {
                let what = "is where what is found would be kept, and holds what is read";
                Err(Error::input(cache, "cache", what, "name another patch"))
            }
            false => Ok(()),
        }
    }

    /// Files and folders that are read.
    fn inputs(&self) -> Vec<&Path> {
        let settings = &self.settings;
        let contexts = settings.contexts.as_ref().map(|(file, _)| file.as_path());
        let files = [settings.statistics.as_deref(), settings.hparams.as_deref(), contexts];
        let mut inputs: Vec<&Path> = files.into_iter().flatten().collect();
        inputs.push(&self.opened.dir);
        inputs.extend(settings.values.iter().map(PathBuf::as_path));
        inputs
    }

    /// Makes facts ready to be planned: settles conflicts, reads hyperparameters, tokenises.
    /// Nothing is run but the drawing of contexts.
    ///
    /// # Errors
    ///
    /// No method; settings that contradict each other or the model; facts that are broken.
    pub fn prepare(&self, facts: &[Request]) -> Result<Prepared> {
        Prepared::new(self, Path::new(CALLER), request::checked(CALLER, facts)?)
    }

    /// The same for the facts of a file: JSON Lines or a JSON array; native, CounterFact, zsRE,
    /// EasyEdit or MQuAKE records.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Editor::prepare); a file with a broken record.
    pub fn prepare_file(&self, file: impl AsRef<Path>) -> Result<Prepared> {
        let file = file.as_ref();
        if let Some(output) = &self.settings.output {
            check_place(output, &[file])?;
        }
        Prepared::new(self, file, request::read(file)?)
    }

    /// Plans the change of facts. Touches nothing but the cache, if there is one.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Editor::prepare) and [`Prepared::plan`].
    pub fn plan(&self, facts: &[Request]) -> Result<Edit> {
        self.prepare(facts)?.plan()
    }

    /// The model as it was opened.
    pub fn model(&self) -> TextModel {
        TextModel::new(&self.opened.dir, self.opened.model.clone(), &self.opened.tokenizer)
    }

    /// The folder of the checkpoint.
    pub fn dir(&self) -> &Path {
        &self.opened.dir
    }

    /// The stored bytes of a layer's edited matrix.
    fn stored(&self, l: usize) -> Result<Bytes> {
        let name = &self.opened.model.editable(l).tensor;
        let tensor = self.opened.checkpoint.tensor(name)?;
        Ok(tensor.expect("the model was loaded from it").bytes)
    }

    /// The method that was chosen.
    fn chosen(&self) -> Result<&'static dyn Method> {
        self.settings.method.ok_or_else(|| {
            let names = methods::METHODS.map(|m| m.about().name).join(", ");
            let remedy = Remedy::from(format!("choose one of {names}")).option("method", None);
            Error::refused("no method was chosen", remedy)
        })
    }
}

impl Opened {
    fn new(dir: &Path, device: &Device) -> Result<Opened> {
        let (checkpoint, model) = load::open(dir, device)?;
        let tokenizer = Arc::new(Tokenizer::open(dir)?);
        let fingerprint = fingerprint(&checkpoint)?;
        let (dir, device) = (dir.to_owned(), device.clone());
        Ok(Opened { dir, device, checkpoint, model, tokenizer, fingerprint })
    }
}

/// Undoes the newest change that was applied in place, byte for byte.
///
/// # Errors
///
/// Nothing to undo; files that something else has written since.
pub fn undo(model: impl AsRef<Path>) -> Result<Vec<LogEntry>> {
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
