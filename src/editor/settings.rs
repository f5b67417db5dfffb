//! What may be set of an edit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::ThreadPool;
use serde_json::{Value, json};

use crate::base::file::read_file;
use crate::base::{Error, Progress, Quiet, Remedy, Result, Share};
use crate::data::Contexts;
use crate::data::broken::OnBroken;
use crate::data::conflicts::OnConflict;
use crate::edit::method::Method;
use crate::edit::methods::METHODS;
use crate::model::SearchPrecision;
use crate::store::tensor_fingerprint;
use crate::store::write::beside;
use crate::text::{Chat, ChatSettings, Frame};
use crate::train::TrainedEditor;

/// Far above any file of settings.
const MAX_SETTINGS: u64 = 1 << 24;
/// Far above any trained editor.
const MAX_EDITOR: u64 = 1 << 40;

/// What may be set; `None` where a default holds.
#[derive(Clone)]
pub(super) struct Settings {
    pub method: Option<&'static dyn Method>,
    pub hparams: Option<PathBuf>,
    pub set: Vec<(String, Value, String)>, // with who set it
    pub statistics: Option<PathBuf>,
    pub trained: Option<PathBuf>,
    pub contexts: Option<(PathBuf, Contexts)>,
    pub chat: Option<Arc<Chat>>,
    pub no_space: bool,
    pub on_conflict: OnConflict,
    pub on_broken: OnBroken,
    pub without: Vec<String>,
    pub memory: Option<u64>,
    pub threads: Option<Arc<ThreadPool>>,
    pub seed: u64,
    pub no_check: bool,
    pub sequential: usize, // 0: all at once
    pub rounds: usize,     // 0 and 1: one
    pub state: Option<PathBuf>,
    pub shard: Option<Share>,
    pub cache: Option<PathBuf>,
    pub values: Vec<PathBuf>,
    pub output: Option<PathBuf>,
    pub progress: Arc<dyn Progress + Send + Sync>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            method: None,
            hparams: None,
            set: Vec::new(),
            statistics: None,
            trained: None,
            contexts: None,
            chat: None,
            no_space: false,
            on_conflict: OnConflict::Error,
            on_broken: OnBroken::Error,
            without: Vec::new(),
            memory: None,
            threads: None,
            seed: 0,
            no_check: false,
            sequential: 0,
            rounds: 1,
            state: None,
            shard: None,
            cache: None,
            values: Vec::new(),
            output: None,
            progress: Arc::new(Quiet),
        }
    }
}

impl Settings {
    /// The method that was chosen.
    ///
    /// # Errors
    ///
    /// None was.
    pub fn chosen(&self) -> Result<&'static dyn Method> {
        self.method.ok_or_else(|| {
            let names = METHODS.map(|m| m.about().name).join(", ");
            let remedy = Remedy::from(format!("choose one of {names}")).option("method", None);
            Error::refused("no method was chosen", remedy)
        })
    }

    /// Runs work on the threads that were asked for; else on those there are.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.threads {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Where what is found is kept: the folder that was named, else one beside the output.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        let beside_output = || self.output.as_deref().map(|file| beside(file, ".kept"));
        self.cache.clone().or_else(beside_output)
    }

    /// Files and folders that are read, beside the model.
    pub fn inputs(&self) -> Vec<&Path> {
        let contexts = self.contexts.as_ref().map(|(file, _)| file.as_path());
        let (statistics, trained) = (self.statistics.as_deref(), self.trained.as_deref());
        let files = [statistics, trained, self.hparams.as_deref(), contexts];
        let mut inputs: Vec<&Path> = files.into_iter().flatten().collect();
        inputs.extend(self.values.iter().map(PathBuf::as_path));
        inputs
    }

    /// What a record of a run says of these settings; of files also what their bytes are.
    pub fn described(&self, precision: SearchPrecision) -> Result<Value> {
        let digests = |file: Option<&Path>| match file {
            Some(file) if file.is_file() => digest(file, MAX_SETTINGS),
            file => Ok(json!(file)),
        };
        let file = self.trained.as_deref().map(TrainedEditor::file);
        let trained = file.map(|file| digest(&file, MAX_EDITOR)).transpose()?;
        let set = self.set.iter().map(|(name, value, _)| format!("{name}={value}"));
        Ok(json!({
            "stats": self.statistics, "editor": trained,
            "hparams": digests(self.hparams.as_deref())?,
            "set": set.collect::<Vec<String>>(),
            "contexts": digests(self.contexts.as_ref().map(|(file, _)| &**file))?,
            "chat": self.chat.as_deref().map(chat_json).transpose()?,
            "no_space": self.no_space,
            "on_broken": self.on_broken.name(), "on_conflict": self.on_conflict.name(),
            "precision": precision.name(),
        }))
    }
}

/// A file and a fingerprint of its bytes, for records of runs.
pub(super) fn digest(file: &Path, most: u64) -> Result<Value> {
    let bytes = read_file(file, most)?;
    Ok(json!({"file": file, "fingerprint": tensor_fingerprint(&bytes)}))
}

/// What a patch says of the chat: the template's hash, what it puts around messages, and with which
/// settings.
pub(super) fn chat_json(chat: &Chat) -> Result<Value> {
    let Frame { head, tail } = chat.frame("message")?;
    let template = tensor_fingerprint(chat.template.as_bytes());
    let ChatSettings { system, variables } = &chat.settings;
    Ok(json!({
        "template": template, "head": head, "tail": tail, "system": system, "variables": variables,
    }))
}

/// A number of threads that is not given.
pub(super) fn refused_threads(threads: usize, why: &str) -> Error {
    let remedy = Remedy::from("ask for another number").option("threads", None);
    Error::refused(format!("{threads} threads: {why}"), remedy)
}
