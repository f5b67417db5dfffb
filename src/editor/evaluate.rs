//! Measuring from files into a folder, where a call that was cut off goes on.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use super::Editor;
use super::evaluation::{Mode, Protocol, WorkDone};
use super::settings::{Settings, digest};
use crate::base::{Error, Remedy, Result, Rng, Share, Stage};
use crate::data::request::MAX_BYTES;
use crate::data::{Case, Corpus, Demonstrations, Snippets, task};
use crate::eval::fluency::References;
use crate::eval::folder::Folder;
use crate::eval::session::{Session, StageCost};
use crate::eval::suites::{self, generation};
use crate::eval::words::Compat;

/// What to measure, from which files, and where to. The editor's method edits; without one the
/// model is measured as it is.
#[derive(Clone, Debug, Default)]
pub struct EvaluationFiles {
    /// Records, in the forms that requests have.
    pub data: Vec<PathBuf>,
    /// Edits of the weights that are in the model.
    pub patches: Vec<PathBuf>,
    /// Edits that live beside its weights.
    pub memories: Vec<PathBuf>,
    /// Which records are edited together.
    pub mode: EditMode,
    /// Records that are edited at once; otherwise all in batches, 1 one upon the other.
    pub batch_size: Option<BatchSize>,
    /// Records that are edited when all so far are measured; all is the last.
    pub checkpoints: Vec<usize>,
    /// First words of metrics' names; otherwise those that are measured by default.
    pub metrics: Vec<String>,
    /// Whose tokenisation CounterFact's metrics take.
    pub compat: Compat,
    /// Folder of MQuAKE's published demonstrations.
    pub demonstrations: Option<PathBuf>,
    /// ROME's attribute snippets, which sampled text is compared with.
    pub snippets: Option<PathBuf>,
    /// Text on which perplexity and drift are measured once all is edited.
    pub text: Vec<PathBuf>,
    /// Tokens of it; otherwise [`TEXT_TOKENS`].
    pub text_tokens: Option<usize>,
    /// Tasks of general ability, which are asked then.
    pub tasks: Vec<PathBuf>,
    /// Only so many records, drawn with the editor's seed.
    pub sample: Option<usize>,
    /// Only the first so many of these.
    pub limit: Option<usize>,
    /// Edit records in an order drawn with the seed.
    pub shuffle: bool,
    /// Every n-th record only.
    pub share: Option<Share>,
    /// The words of the command, which are kept with the results; none of another program's call.
    pub command: Vec<String>,
    /// The folder of the results.
    pub output: PathBuf,
}

/// Which records are edited together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EditMode {
    /// Each alone, on the unedited model.
    #[default]
    Single,
    /// Batches, each on the unedited model.
    Batch,
    /// One upon the other.
    Sequential,
}

/// How many records are edited at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// All there are.
    All,
    /// So many.
    Of(NonZeroUsize),
}

/// Tokens of text where nobody says how many.
pub const TEXT_TOKENS: usize = 20_000;
/// Tokens that run at a time: enough for products to be efficient, and few for the cache.
const TOKENS: usize = 4096;
/// Far above the published file of snippets.
const MAX_SNIPPETS: u64 = 1 << 33;

impl EditMode {
    /// Their names.
    pub const NAMES: [&str; 3] = ["single", "batch", "sequential"];

    /// Its name.
    pub fn name(self) -> &'static str {
        EditMode::NAMES[self as usize]
    }
}

impl FromStr for EditMode {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<EditMode, String> {
        let all = [EditMode::Single, EditMode::Batch, EditMode::Sequential];
        let found = all.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| format!("no mode is called {name}: {}", EditMode::NAMES.join(", ")))
    }
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(size: &str) -> std::result::Result<BatchSize, String> {
        match size {
            "all" => Ok(BatchSize::All),
            n => n.parse().map(BatchSize::Of).map_err(|_| format!("{n}: no number from 1, or all")),
        }
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            BatchSize::All => f.write_str("all"),
            BatchSize::Of(n) => n.fmt(f),
        }
    }
}

impl EvaluationFiles {
    /// Refuses what does not go together.
    fn check(&self, settings: &Settings) -> Result<()> {
        let edits = settings.method.is_some();
        let refuse = |what: &str, remedy: Remedy| Err(Error::refused(what, remedy));
        if self.data.is_empty() && (self.tasks.is_empty() || edits) {
            let remedy = Remedy::from("name records").option("data", None);
            let what =
                if edits { "a method, and no records to edit" } else { "nothing to measure" };
            return refuse(what, remedy);
        }
        if !edits && (settings.hparams.is_some() || !settings.set.is_empty()) {
            let remedy = Remedy::from("name the method, or leave them out").option("method", None);
            return refuse("hyperparameters, and no method that they are of", remedy);
        }
        if !self.checkpoints.is_empty() && self.mode != EditMode::Sequential {
            let remedy = Remedy::from("edit one upon the other, or leave them out");
            let what = "checkpoints of records that are not edited one upon the other";
            return refuse(what, remedy.option("mode", Some("sequential")));
        }
        let given = [edits, !self.patches.is_empty(), !self.memories.is_empty()];
        if given.into_iter().filter(|&given| given).count() > 1 {
            let remedy = "edit by a method, or measure the model with patches, or with memories";
            return refuse("several kinds of edits at once", Remedy::from(remedy));
        }
        if self.share.is_some() && self.mode == EditMode::Sequential && edits {
            let remedy = Remedy::from("leave the share out, or edit in batches");
            let what = "edits one upon the other cannot be shared out";
            return refuse(what, remedy.option("mode", Some("batch")));
        }
        if self.share.is_some() && !self.checkpoints.is_empty() {
            let remedy = Remedy::from("leave one of the two out");
            return refuse("checkpoints of a share of the records", remedy);
        }
        if self.mode == EditMode::Single && self.batch_size.is_some() && edits {
            let remedy = Remedy::from("edit in batches, or leave it out");
            let what = "a batch size with records that are edited alone";
            return refuse(what, remedy.option("mode", Some("batch")));
        }
        Ok(())
    }

    /// Refuses text and tasks where there is no model in which all is edited.
    fn check_end(&self, mode: &Mode, cases: usize) -> Result<()> {
        let apart = matches!(*mode, Mode::Batch(batch) if batch < cases);
        if (self.text.is_empty() && self.tasks.is_empty()) || !(apart || self.share.is_some()) {
            return Ok(());
        }
        let what = "text and tasks are measured of a model in which all records are edited, and \
                    here they are edited apart";
        let remedy = Remedy::from(
            "edit all of them in one batch or one upon the other, without a share; or leave text \
             and tasks out",
        );
        let remedy = remedy.option("batch_size", Some("all")).option("mode", Some("sequential"));
        Err(Error::refused(what, remedy))
    }

    fn protocol(&self, editor: &Editor, cases: usize) -> Result<Protocol> {
        let mut suites = suites::chosen(&self.metrics)?;
        let fluency = &generation::SUITE;
        if self.snippets.is_some() && suites.iter().all(|suite| suite.name != fluency.name) {
            if !self.metrics.is_empty() {
                let remedy = Remedy::from("ask for it too, or leave the snippets out");
                let what = "snippets, and no metrics of sampled text, which is compared with them";
                return Err(Error::refused(what, remedy.option("metrics", Some(fluency.name))));
            }
            suites.push(fluency);
        }
        let demonstrations = self.demonstrations.as_ref().map(Demonstrations::read).transpose()?;
        let snippets = self.snippets.as_ref().map(Snippets::read).transpose()?;
        Ok(Protocol {
            mode: self.edits(editor, cases)?,
            suites,
            compat: self.compat,
            demonstrations,
            references: snippets.as_ref().map(References::new),
            text: self.documents(editor)?,
            tasks: task::tasks(&self.tasks)?,
            tokens: TOKENS,
        })
    }

    fn edits(&self, editor: &Editor, cases: usize) -> Result<Mode> {
        let batch = self.batch_size.map(|size| match size {
            BatchSize::All => cases,
            BatchSize::Of(n) => n.get(),
        });
        Ok(match (editor.settings.method, self.mode) {
            (None, _) if !self.patches.is_empty() => {
                Mode::Given(editor.model_patched(&self.patches)?.into())
            }
            (None, _) if !self.memories.is_empty() => {
                Mode::Given(editor.model_with(&self.memories)?.into())
            }
            (None, _) => Mode::Unedited,
            (_, EditMode::Single) => Mode::Batch(1),
            (_, EditMode::Batch) => Mode::Batch(batch.unwrap_or(cases)),
            (_, EditMode::Sequential) => {
                let all = self.checkpoints.iter().copied().filter(|&t| 0 < t && t < cases);
                let checkpoints: BTreeSet<usize> = all.chain([cases]).collect();
                let checkpoints = checkpoints.into_iter().collect();
                Mode::Sequential { batch: batch.unwrap_or(1), checkpoints }
            }
        })
    }

    fn cases(&self, editor: &Editor) -> Result<Vec<Case>> {
        for (name, n) in [("sample", self.sample), ("limit", self.limit)] {
            if n == Some(0) {
                let remedy = Remedy::from("name a number, or none").option(name, None);
                return Err(Error::refused("measuring 0 records", remedy));
            }
        }
        let mut all = editor.cases(&self.data)?;
        let seed = editor.settings.seed;
        if let Some(n) = self.sample {
            let mut chosen = drawn_order(all.len(), seed, "sample of cases");
            chosen.truncate(n);
            chosen.sort_unstable();
            all = ordered(all, &chosen);
        }
        all.truncate(self.limit.unwrap_or(usize::MAX));
        if self.shuffle {
            let order = drawn_order(all.len(), seed, "order of cases");
            all = ordered(all, &order);
        }
        let own = |i: &usize| self.share.is_none_or(|share| share.has(*i as u64));
        let own: Vec<usize> = (0..all.len()).filter(own).collect();
        Ok(ordered(all, &own))
    }

    /// The tokens of the text's first documents, until there are as many as asked for.
    fn documents(&self, editor: &Editor) -> Result<Vec<Vec<u32>>> {
        let mut documents = Vec::new();
        if self.text.is_empty() {
            return Ok(documents);
        }
        let mut left = self.text_tokens.unwrap_or(TEXT_TOKENS);
        for text in Corpus::open(&self.text)?.documents() {
            let mut ids = editor.opened.tokenizer.encode(&text?)?;
            ids.truncate(left);
            left -= ids.len();
            documents.push(ids);
            if left == 0 {
                break;
            }
        }
        Ok(documents)
    }

    /// What is kept of the run: another one does not go on from its results.
    fn described(&self, editor: &Editor, cases: usize) -> Result<Value> {
        let digests = |files: &[PathBuf]| -> Result<Vec<Value>> {
            files.iter().map(|file| digest(file, MAX_BYTES)).collect()
        };
        let text = match self.text.is_empty() {
            true => Value::Null,
            false => json!(Corpus::open(&self.text)?.hash()?),
        };
        let snippets = self.snippets.as_ref().map(|file| digest(file, MAX_SNIPPETS)).transpose()?;
        let settings = &editor.settings;
        Ok(json!({
            "program": env!("CARGO_PKG_VERSION"), "model": editor.dir(),
            "model_fingerprint": editor.fingerprint(), "weights": editor.weights()?,
            "data": digests(&self.data)?, "cases": cases,
            "limit": self.limit, "sample": self.sample, "shuffle": self.shuffle,
            "shard": self.share.map(|share| [share.i(), share.n()]),
            "method": settings.method.map(|method| method.about().name),
            "patch": digests(&self.patches)?, "with": digests(&self.memories)?,
            "editing": settings.described(editor.opened.model.search_precision)?,
            "mode": self.mode.name(), "batch_size": self.batch_size.map(|size| size.to_string()),
            "checkpoints": self.checkpoints, "metrics_asked": self.metrics,
            "compat": self.compat.name(), "snippets": snippets,
            "demonstrations": self.demonstrations,
            "seed": settings.seed, "text": text,
            "text_tokens": self.text_tokens.unwrap_or(TEXT_TOKENS), "task": digests(&self.tasks)?,
        }))
    }
}

impl Editor {
    /// Edits records and measures what became of them; or measures the model as it is, or with
    /// edits that are given. Writes the results into a folder, where a call that was cut off goes
    /// on, and returns its `summary.json` (docs/evaluation.md has the fields).
    ///
    /// # Errors
    ///
    /// Files that cannot be read; what does not go together; a folder of another run; what planning
    /// says; cancellation.
    pub fn evaluate_files(&self, of: &EvaluationFiles) -> Result<Value> {
        of.check(&self.settings)?;
        suites::chosen(&of.metrics)?;
        self.opened.checkpoint.unchanged()?;
        if self.settings.method.is_none() {
            self.warn_of_ids(); // planning does
        }
        let cases = of.cases(self)?;
        let protocol = of.protocol(self, cases.len())?;
        of.check_end(&protocol.mode, cases.len())?;
        let mut folder = Folder::open(&of.output, of.described(self, cases.len())?)?;
        let evaluation = self.evaluation(&cases, &protocol)?;
        let ran = evaluation.run(&mut folder);
        folder.ended(self.session(of.command.clone(), evaluation.work()))?;
        ran?;
        self.settings.progress.at(Stage::WriteResults, 0, 1);
        folder.summarise(self.settings.seed)
    }

    /// What this call did.
    fn session(&self, command: Vec<String>, work: WorkDone) -> Session {
        Session {
            command,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.opened.device.title(),
            threads: self.settings.run(rayon::current_num_threads),
            facts: work.facts,
            cases: work.cases,
            stages: StageCost::of(&self.settings.progress.stages()),
            hyperparameters: work.hyperparameters,
        }
    }
}

/// Places from 0 in an order drawn by a seed.
fn drawn_order(n: usize, seed: u64, purpose: &str) -> Vec<usize> {
    let mut rng = Rng::new(seed, purpose);
    let mut order: Vec<(u64, usize)> = (0..n).map(|i| (rng.bits(), i)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}

/// The cases at some places, each named once.
fn ordered(cases: Vec<Case>, places: &[usize]) -> Vec<Case> {
    let mut cases: Vec<Option<Case>> = cases.into_iter().map(Some).collect();
    places.iter().filter_map(|&i| cases[i].take()).collect()
}
