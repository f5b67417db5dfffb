//! Causal tracing of a prompt, or of many known facts: numbers and heat maps in a folder.
//!
//! The folder gets `trace.json` and a heat map a kind of state, `hidden.svg`, `mlp.svg` and
//! `attention.svg`; of known facts `facts.jsonl` too, a line a fact. docs/trace.md has the fields.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::Editor;
use crate::base::file::make_folder;
use crate::base::{Error, Remedy, Result, Stage};
use crate::data::{Fact, KnownFact, known, request};
use crate::eval::trace::noise::{NoiseLevel, embedding_deviation};
use crate::eval::trace::report::{self, TraceCounts, TraceSetup};
use crate::eval::trace::{AverageEffects, TraceOutcome, TraceSettings, TracedPrompt};
use crate::store::place::{check_place, check_replaced};
use crate::store::write::whole;
use crate::text::Tokenizer;

/// What to trace, how, and where to.
#[derive(Clone, Debug)]
pub struct TraceFiles {
    /// What to trace.
    pub of: Traceable,
    /// Corrupted copies.
    pub samples: u16,
    /// Layers in which outputs of MLPs, or of attention, are restored together.
    pub window: u16,
    /// Of the subject's embeddings.
    pub noise: NoiseLevel,
    /// A folder for numbers and heat maps, if they are to be kept.
    pub output: Option<PathBuf>,
}

/// What can be traced.
#[derive(Clone, Debug)]
pub enum Traceable {
    /// What the model says next.
    Prompt {
        /// The text to go on from; `{}` stands for its subject, or it contains it.
        prompt: String,
        /// What the prompt is about.
        subject: String,
    },
    /// The facts of a file that the model says.
    Known {
        /// ROME's known facts, or any requests with old targets.
        file: PathBuf,
        /// The first so many of them only.
        limit: Option<usize>,
    },
}

/// What was found.
#[derive(Clone, Debug)]
pub struct TraceReport {
    /// `trace.json`.
    pub json: Value,
    /// The same in words, a line each.
    pub lines: Vec<String>,
    /// The files of the folder, by name: drawings only where there is one.
    pub files: Vec<(&'static str, String)>,
    /// That tracing took.
    pub seconds: f64,
}

/// Copies, and layers in a window, as published.
pub const PUBLISHED: u16 = 10;
/// The seed of the public code's noise, to which the editor's is added.
const PUBLISHED_SEED: u64 = 1;

impl Editor {
    /// Traces, by ROME's protocol (`eval/trace/protocol.rs`), and writes what was found.
    ///
    /// # Errors
    ///
    /// A prompt without its subject; a file without a fact that the model says; an output that
    /// would replace something else; logits that are not finite; cancellation; a device out of
    /// memory.
    pub fn trace_files(&self, of: &TraceFiles) -> Result<TraceReport> {
        let progress = &*self.settings.progress;
        for (name, value) in [("samples", of.samples), ("window", of.window)] {
            if value == 0 {
                let remedy = Remedy::from("name a number from 1").option(name, None);
                return Err(Error::refused(format!("tracing with {name} 0"), remedy));
            }
        }
        self.warn_of_ids();
        let facts = self.traceable(&of.of)?;
        self.opened.checkpoint.unchanged()?;
        self.check_traces(of)?;
        let setup = TraceSetup {
            model: self.fingerprint().to_owned(),
            noise: of.noise,
            protocol: TraceSettings {
                samples: of.samples.into(),
                window: of.window.into(),
                nu: self.nu(of, &facts)?,
                seed: self.noise_seed()?,
            },
            tokenizer: &self.opened.tokenizer,
        };
        let draws = of.output.is_some();
        let found = self.settings.run(|| match &of.of {
            Traceable::Prompt { .. } => self.trace_one(&setup, &facts[0], draws),
            Traceable::Known { .. } => self.trace_many(&setup, &facts, draws),
        })?;
        if let Some(dir) = &of.output {
            progress.at(Stage::WriteResults, 0, 1);
            let write = |(name, text): &(_, String)| whole(&dir.join(name), text.as_bytes());
            found.files.iter().try_for_each(write)?;
        }
        Ok(found)
    }

    fn trace_one(&self, by: &TraceSetup, fact: &KnownFact, draws: bool) -> Result<TraceReport> {
        let model = &self.opened.model;
        let prompt = TracedPrompt::new(model, by.tokenizer, &fact.prompt, &fact.subject)?;
        let start = Instant::now();
        let outcome = by.protocol.trace(model, &prompt, None, &*self.settings.progress)?;
        let seconds = start.elapsed().as_secs_f64();
        let TraceOutcome::Traced(trace) = outcome else {
            return Err(Error::refused("nothing was expected", "report this"));
        };
        let json = report::fact_json(by, fact, &prompt, &trace);
        let mut files = vec![(TRACE, format!("{json}\n"))];
        if draws {
            files.extend(report::fact_maps(by, &prompt, &trace)?);
        }
        Ok(TraceReport { json, lines: report::fact_lines(by, &prompt, &trace), files, seconds })
    }

    fn trace_many(&self, by: &TraceSetup, all: &[KnownFact], draws: bool) -> Result<TraceReport> {
        let (progress, model) = (&*self.settings.progress, &self.opened.model);
        let (mut average, mut lines) = (AverageEffects::new(model.arch.layers), String::new());
        let (mut skipped, mut refused) = (0, 0);
        let start = Instant::now();
        for (i, fact) in all.iter().enumerate() {
            progress.at(Stage::Fact, i as u64, all.len() as u64);
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            let traced = TracedPrompt::new(model, by.tokenizer, &fact.prompt, &fact.subject)
                .and_then(|prompt| Ok((expected(by.tokenizer, fact)?, prompt)));
            let (token, prompt) = match traced {
                Ok(traced) => traced,
                Err(e) => {
                    progress.warn(&format!("fact {} is left out: {e}", fact.id));
                    refused += 1;
                    continue;
                }
            };
            match by.protocol.trace(model, &prompt, Some(token), progress)? {
                TraceOutcome::Skipped(_) => skipped += 1,
                TraceOutcome::Traced(trace) => {
                    average.add(&prompt, &trace);
                    lines += &format!("{}\n", report::fact_json(by, fact, &prompt, &trace));
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let counts = TraceCounts { facts: average.p_high.count(), skipped, refused };
        if counts.facts == 0 {
            let what = "the model goes on with the expected object after no prompt of the file";
            return Err(Error::refused(what, "give facts that this model knows"));
        }
        let json = report::average_json(by, counts, &average);
        let mut files = vec![(TRACE, format!("{json}\n")), ("facts.jsonl", lines)];
        if draws {
            files.extend(report::average_maps(&average)?);
        }
        let lines = report::average_lines(by, counts, &average);
        Ok(TraceReport { json, lines, files, seconds })
    }

    /// The prompt, or the facts of the file.
    fn traceable(&self, of: &Traceable) -> Result<Vec<KnownFact>> {
        let (file, limit) = match of {
            Traceable::Prompt { prompt, subject } => return Ok(vec![asked(prompt, subject)?]),
            Traceable::Known { file, limit } => (file, limit),
        };
        if *limit == Some(0) {
            let remedy = Remedy::from("name a number, or none").option("limit", None);
            return Err(Error::refused("tracing 0 facts", remedy));
        }
        let (mut facts, broken) = known(file)?;
        if let Some(first) = broken.first() {
            let n = broken.len();
            let what = format!("records left out: {n}; the first: {}", first.reason());
            self.settings.progress.warn(&what);
        }
        facts.truncate(limit.unwrap_or(usize::MAX));
        if facts.is_empty() {
            let (what, remedy) = ("holds no known fact", "write prompt, subject and attribute");
            return Err(Error::input(file, "line 1", what, remedy));
        }
        Ok(facts)
    }

    /// ν.
    fn nu(&self, of: &TraceFiles, facts: &[KnownFact]) -> Result<f64> {
        let factor = match of.noise {
            NoiseLevel::Value(value) => return Ok(value),
            NoiseLevel::Deviations(factor) => factor,
        };
        let (model, tokenizer) = (&self.opened.model, &self.opened.tokenizer);
        let subjects: Vec<Vec<u32>> =
            facts.iter().map(|fact| tokenizer.encode(&fact.subject)).collect::<Result<_>>()?;
        for ids in &subjects {
            model.arch.check(ids)?;
        }
        let nu = factor * embedding_deviation(model, &subjects)?;
        if matches!(of.of, Traceable::Prompt { .. }) {
            let remedy = Remedy::from("a value may be named").option("noise", Some("0.1"));
            let what = format!(
                "the noise, {nu:.4}, is {factor} times the deviation of this one subject's \
                 embeddings, where the published protocol takes all known subjects"
            );
            self.settings.progress.advise(&what, &remedy);
        }
        Ok(nu)
    }

    fn noise_seed(&self) -> Result<u32> {
        let seed = self.settings.seed;
        u32::try_from(PUBLISHED_SEED.saturating_add(seed)).map_err(|_| {
            let what = format!("seed {seed}: too large for this noise");
            Error::refused(what, "NumPy's generator, which draws it, has seeds below 2^32")
        })
    }

    /// Makes the folder, and refuses one in which something else would be replaced.
    fn check_traces(&self, of: &TraceFiles) -> Result<()> {
        let Some(dir) = &of.output else { return Ok(()) };
        make_folder(dir)?;
        let mut inputs: Vec<&Path> = vec![self.dir()];
        if let Traceable::Known { file, .. } = &of.of {
            inputs.push(file);
        }
        let file = dir.join(TRACE);
        check_place(&file, &inputs)?;
        let old = std::fs::read(&file).unwrap_or_default();
        let old: Value = serde_json::from_slice(&old).unwrap_or_default();
        check_replaced(&file, old.get("p_high").is_some(), "trace")
    }
}

const TRACE: &str = "trace.json";

/// A prompt and a subject, held to the rules for requests.
fn asked(prompt: &str, subject: &str) -> Result<KnownFact> {
    // These have a target, which is not read here.
    let mut read = request::checked("prompt", &[Fact::new(prompt, subject, "-")])?;
    if let Some(broken) = read.broken.first() {
        return Err(Error::refused(broken.reason(), broken.remedy.clone()));
    }
    let Fact { id, prompt, subject, .. } = read.facts.remove(0);
    Ok(KnownFact { id, prompt, subject, object: String::new(), relation: None })
}

/// The first token of what a model should say. Objects of several tokens are told apart by it.
fn expected(tokenizer: &Tokenizer, fact: &KnownFact) -> Result<u32> {
    let prompt = fact.prompt.replacen("{}", &fact.subject, 1);
    Ok(tokenizer.encode_target(&prompt, &fact.object, None)?[0])
}
