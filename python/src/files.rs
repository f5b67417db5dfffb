//! What long work reads, and where it writes: the keys of dicts.

use std::path::PathBuf;
use std::str::FromStr;

use incise::editor::evaluate::EvaluationFiles;
use incise::editor::statistics::Gathering;
use incise::editor::trace::{TraceFiles, Traceable};
use incise::editor::tune::TuneFiles;
use incise::stats::Input;
use incise::{Error, Remedy, Result, Share};
use pyo3::FromPyObject;

/// What to tune from, and where to; the keys of a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Tuning {
    data: Vec<PathBuf>,
    facts: Option<usize>,
    corpus: Vec<PathBuf>,
    output: PathBuf,
}

impl From<Tuning> for TuneFiles {
    fn from(of: Tuning) -> TuneFiles {
        let Tuning { data, facts, corpus, output } = of;
        TuneFiles { data, facts, corpus, output }
    }
}

/// What to edit and measure.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Evaluating {
    data: Vec<PathBuf>,
    patches: Vec<PathBuf>,
    memories: Vec<PathBuf>,
    mode: String,
    records_at_once: Option<String>,
    checkpoints: Vec<usize>,
    metrics: Vec<String>,
    compat: Option<String>,
    demonstrations: Option<PathBuf>,
    snippets: Option<PathBuf>,
    text: Vec<PathBuf>,
    text_tokens: Option<usize>,
    tasks: Vec<PathBuf>,
    sample: Option<usize>,
    limit: Option<usize>,
    shuffle: bool,
    shard: Option<(u64, u64)>,
    output: PathBuf,
}

impl Evaluating {
    /// For the engine.
    ///
    /// # Errors
    ///
    /// A word or a number that is none of those there are.
    pub fn files(self) -> Result<EvaluationFiles> {
        let parsed_size = |size: String| parsed("records_at_once", &size);
        let batch_size = self.records_at_once.map(parsed_size).transpose()?;
        let compat = self.compat.map(|compat| parsed("compat", &compat)).transpose()?;
        Ok(EvaluationFiles {
            data: self.data,
            patches: self.patches,
            memories: self.memories,
            mode: parsed("mode", &self.mode)?,
            batch_size,
            checkpoints: self.checkpoints,
            metrics: self.metrics,
            compat: compat.unwrap_or_default(),
            demonstrations: self.demonstrations,
            snippets: self.snippets,
            text: self.text,
            text_tokens: self.text_tokens,
            tasks: self.tasks,
            sample: self.sample,
            limit: self.limit,
            shuffle: self.shuffle,
            share: self.shard.map(share).transpose()?,
            command: Vec::new(),
            output: self.output,
        })
    }
}

/// What to trace.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Tracing {
    prompt: Option<String>,
    subject: Option<String>,
    known: Option<PathBuf>,
    limit: Option<usize>,
    samples: u16,
    window: u16,
    noise: String,
    output: Option<PathBuf>,
}

impl Tracing {
    /// For the engine.
    ///
    /// # Errors
    ///
    /// No prompt with a subject, and no file; both; a noise that is none.
    pub fn files(self) -> Result<TraceFiles> {
        let of = match (self.prompt, self.subject, self.known, self.limit) {
            (Some(prompt), Some(subject), None, None) => Traceable::Prompt { prompt, subject },
            (None, None, Some(file), limit) => Traceable::Known { file, limit },
            _ => {
                let what = "tracing needs a prompt and its subject, or known facts and perhaps a \
                            limit of them";
                let remedy = Remedy::from("name the one or the other").option("known", None);
                return Err(Error::refused(what, remedy));
            }
        };
        let noise = parsed("noise", &self.noise)?;
        Ok(TraceFiles {
            of,
            samples: self.samples,
            window: self.window,
            noise,
            output: self.output,
        })
    }
}

/// What to collect; the keys of a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Statistics {
    layers: Vec<usize>,
    sites: Vec<String>,
    max_tokens: Option<u64>,
    context_length: Option<usize>,
    shard: Option<(u64, u64)>,
    normed: bool,
    /// The folder for them.
    pub output: PathBuf,
}

impl Statistics {
    /// For the engine.
    ///
    /// # Errors
    ///
    /// A site or a shard that there is not.
    pub fn gathering(self) -> Result<Gathering> {
        let site = |name: String| parsed::<Input>("sites", &name);
        Ok(Gathering {
            layers: self.layers,
            inputs: self.sites.into_iter().map(site).collect::<Result<_>>()?,
            max_tokens: self.max_tokens,
            context_length: self.context_length,
            share: self.shard.map(share).transpose()?,
            normed: self.normed,
        })
    }
}

fn share((i, n): (u64, u64)) -> Result<Share> {
    let what = format!("shard {i} of {n}: there is none");
    Share::new(i, n).ok_or_else(|| Error::refused(what, "say (0, 4) to (3, 4)"))
}

/// A word or a number of an argument; its own error says which there are.
fn parsed<T: FromStr<Err = String>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|what: String| Error::input("settings", name, what, "give another"))
}
