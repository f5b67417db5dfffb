//! Finds settings for a model that nobody has published any for.
//!
//! ```text
//! split       cases that choose | cases that report, looked at once              tune/split.rs
//! places      windows of layers by depth, with C of all of them                  tune/space.rs
//! 10 facts    every place; then variants of rate and clamp at the best one
//! 20 facts    the best 3, each with several λ
//! 40 facts    the best λ of the best 2; the best of all is chosen
//! report      the chosen point on the cases that had no part in it
//! ```
//!
//! Facts are edited at most N at a time, each batch on the unedited model: λ depends on N. A new
//! λ needs no new search: values are kept. λ is not searched for blindly either: s falls with it in
//! proportion, so one trial says which λ gives an s from 4 (little is missed) down to 0.5 (most is;
//! linalg/least_squares.rs). What was measured is kept, and a run that was cut off goes on.

mod output;
mod point;
mod report;
mod search;
pub mod space;
pub mod split;
mod table;
mod tuning;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::base::file::make_folder;
use crate::base::units::count;
use crate::base::{Error, Progress, Result, Stage};
use crate::data::{Case, Contexts};
use crate::edit::contexts;
use crate::edit::method::Method;
use crate::editor::Editor;
use crate::editor::evaluation::DRAWN;
use crate::editor::settings::{Settings, chat_json};
use crate::model::SearchPrecision;
use crate::stats::file::write_all;
use crate::stats::{Collect, Input, LayerInput, Moment, Origin, collect};

pub use output::TuneFiles;
pub use point::{Point, TuneTrial};
pub use report::{Reported, Tuned};
use search::Trials;
use space::Space;
use split::Split;
pub use table::TABLE;
pub use tuning::Tuning;

/// What an interrupted run says.
const KEPT: &str = "trials and values so far are kept, and the same call goes on";
/// Tokens of statistics for each neuron of an MLP.
const TOKENS_A_NEURON: u64 = 20;
/// Of a sequence.
const CONTEXT_LENGTH: usize = 512;

impl Editor {
    /// Chooses settings of the editor's method by some cases, and reports on others what they do.
    /// What the editor sets already stays as it is.
    ///
    /// # Errors
    ///
    /// Too few cases; no statistics and no text for them; nothing that was tried works; what
    /// planning says; cancellation.
    pub fn tune(&self, cases: Vec<Case>, by: &Tuning) -> Result<Tuned> {
        let method = self.settings.chosen()?;
        let space = Space::of(method)?;
        if self.settings.hparams.is_some() {
            let what = "a file of hyperparameters is given, which are what is looked for";
            return Err(Error::refused(what, "set those that are to stay, one by one"));
        }
        let split = Split::new(cases, self.settings.seed)?;
        self.settings.progress.remark(&format!(
            "{} records choose, {} report; the split is {}",
            split.choose.len(),
            split.report.len(),
            split.hash
        ));
        if by.facts > split.choose.len() {
            self.settings.progress.warn(&format!(
                "settings are chosen for {} facts at a time, not {}: so many records choose",
                split.choose.len(),
                by.facts
            ));
        }
        table::check(by, &split)?;
        make_folder(&by.dir)?;
        let places = self.places(space);
        let mut editor = self.clone().cache(by.dir.join("kept"));
        // What the method refuses of the model is said before anything is collected.
        editor.at(&places[0])?.prepare(&split.choose[0].facts)?;
        if space.statistics && editor.settings.statistics.is_none() {
            editor.settings.statistics = Some(self.gather(&places, by)?);
        }
        if let Some(dir) = editor.settings.statistics.as_ref().filter(|_| space.statistics) {
            let there = |layer: &usize| Moment::path(dir, *layer).exists();
            let missing: Vec<String> = layers_of(&places, editor.opened.model.arch.layers)
                .iter()
                .filter(|layer| !there(layer))
                .map(usize::to_string)
                .collect();
            if !missing.is_empty() {
                let what = format!("has no statistics of layers {}", missing.join(", "));
                let remedy = "give text instead, or set layers to some of those that are there";
                return Err(Error::input(dir, "statistics", what, remedy));
            }
        }
        if editor.settings.contexts.is_none() && !method.batching().reads_bare_texts() {
            editor.settings.contexts = Some((DRAWN.into(), self.draw(method)?));
        }
        let mut quiet = editor.clone();
        quiet.settings.progress = Arc::new(Busy(self.settings.progress.clone(), Mutex::default()));
        let made_of = editor.made_of(by)?;
        let trials = Trials { editor: &quiet, space, split: &split, by, made_of, told: self };
        let found = trials.search(places).and_then(|tried| {
            let chosen = tried.chosen(space)?;
            report::report(&quiet, (&split, by), &tried, (chosen, space), &trials.made_of)
        });
        found.map_err(|e| match e {
            Error::Interrupted { .. } => Error::Interrupted { kept: KEPT.to_owned() },
            e => e,
        })
    }

    /// With the settings of a point.
    fn at(&self, point: &Point) -> Result<Editor> {
        let set = |editor: Editor, (name, value): (&String, &Value)| {
            editor.set_from(name, value.clone(), "tuning")
        };
        point.0.iter().try_fold(self.clone(), set)
    }

    /// Where to begin: what the user set is not varied.
    fn places(&self, space: &Space) -> Vec<Point> {
        let mut places = space.places(self.opened.model.arch.layers);
        for (name, value, _) in &self.settings.set {
            places.iter_mut().for_each(|point| {
                point.0.insert(name.clone(), value.clone());
            });
        }
        places.dedup();
        places
    }

    /// What results depend on beside the point: a trial of another is none of this run.
    fn made_of(&self, by: &Tuning) -> Result<Value> {
        let Settings { contexts, chat, no_space, seed, statistics, .. } = &self.settings;
        let statistics = match &by.corpus {
            Some(corpus) => json!(corpus.hash()?),
            None => json!(statistics.as_deref().map(listing).transpose()?),
        };
        Ok(json!({
            "program": env!("CARGO_PKG_VERSION"), "model": self.weights()?,
            "method": self.settings.chosen()?.about().name, "seed": seed,
            "contexts": contexts.as_ref().map(|(_, contexts)| contexts.to_json()),
            "statistics": statistics, "no_space": no_space,
            "chat": chat.as_deref().map(chat_json).transpose()?,
            "fast": self.opened.model.search_precision == SearchPrecision::Fast,
        }))
    }

    fn draw(&self, method: &dyn Method) -> Result<Contexts> {
        let opened = &self.opened;
        contexts::draw(&opened.model, &opened.tokenizer, method, self.settings.seed)
    }

    /// C of every layer that is tried, in one pass over the text.
    fn gather(&self, places: &[Point], by: &Tuning) -> Result<PathBuf> {
        let dir = by.dir.join("stats");
        let Some(corpus) = &by.corpus else {
            let what = "no statistics of keys are named, and no text to collect them from";
            return Err(Error::refused(what, "give text files, or a folder of statistics"));
        };
        let arch = &self.opened.model.arch;
        let layers = layers_of(places, arch.layers);
        let model = self.opened.fingerprint.clone();
        let context_length = CONTEXT_LENGTH.min(arch.max_positions);
        let origin = Origin { model, corpus: corpus.hash()?, context_length, normed: false };
        let max_tokens = TOKENS_A_NEURON * arch.inner as u64;
        let there = |&layer: &usize| is_there(&dir, layer, &origin, arch.inner);
        if layers.iter().all(there) {
            return Ok(dir);
        }
        let inputs = LayerInput::all(&layers, &[Input::Key]);
        let what = Collect { inputs, max_tokens, origin, share: None };
        let progress = &*self.settings.progress;
        let (model, tokenizer) = (&self.opened.model, &self.opened.tokenizer);
        let moments = self
            .settings
            .run(|| collect(model, tokenizer, corpus.documents(), &what, &dir, progress))?;
        write_all(&moments, &dir)?;
        let tokens = moments.first().map_or(0, |moment| moment.tokens);
        if tokens < max_tokens {
            progress.warn(&format!(
                "the text has {} tokens for statistics, of {}: changes spare what text uses less \
                 well; give more text",
                count(tokens),
                count(max_tokens)
            ));
        }
        Ok(dir)
    }
}

/// Every layer of some points, of a model of so many, ascending.
fn layers_of(places: &[Point], layers: usize) -> Vec<usize> {
    let of = |point: &Point| point.0["layers"].as_array().cloned().unwrap_or_default();
    let all = places.iter().flat_map(of).filter_map(|layer| Some(layer.as_u64()? as usize));
    let all: BTreeSet<usize> = all.filter(|&layer| layer < layers).collect();
    all.into_iter().collect()
}

/// The files of a folder with their sizes and times: another listing is another folder.
fn listing(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io(dir, "read", e);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.metadata().map_err(failed)?;
        let modified = file.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let at = modified.map_or(0, |at| at.as_nanos());
        files.push(format!("{} {} {at}", entry.file_name().display(), file.len()));
    }
    files.sort();
    Ok(files)
}

fn is_there(dir: &Path, layer: usize, origin: &Origin, inner: usize) -> bool {
    Moment::read(dir, layer, inner, &origin.model).is_ok_and(|moment| moment.origin == *origin)
}

/// Says how trials go, and what edits warn of once; nothing of what each remarks.
struct Busy(Arc<dyn Progress + Send + Sync>, Mutex<BTreeSet<String>>);

impl Progress for Busy {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        self.0.at(stage, done, total);
    }

    fn remark(&self, _: &str) {}

    fn warn(&self, sentence: &str) {
        let mut said = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(sentence.to_owned()) {
            self.0.warn(sentence);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
