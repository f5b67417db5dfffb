//! `incise trace MODEL --prompt P --subject S` and `incise trace MODEL --known FILE`: causal
//! tracing, with heat maps.
//!
//! `-o DIR` gets `trace.json` and a heat map a kind of state, `hidden.svg`, `mlp.svg` and
//! `attention.svg`; of known facts `facts.jsonl` too, a line a fact. docs/trace.md has the fields.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgGroup, Args};
use serde_json::Value;

use super::context::Context;
use super::trace_report::{self as report, Setup};
use crate::base::{Error, Progress, Result, Stage};
use crate::data::{Fact, KnownFact, known, request};
use crate::eval::trace::noise::{NoiseLevel, embedding_deviation};
use crate::eval::trace::{AverageEffects, TraceOutcome, TraceSettings, TracedPrompt};
use crate::model::{Model, fingerprint, load};
use crate::store::place::{check_place, check_replaced};
use crate::text::Tokenizer;

/// The seed of the public code's noise, to which --seed is added.
const PUBLISHED_SEED: u64 = 1;

/// What to trace, and how.
#[derive(Args)]
#[command(group(ArgGroup::new("facts").required(true).args(["prompt", "known"])))]
pub struct Trace {
    /// Folder of the checkpoint
    model: PathBuf,
    /// The text to go on from; {} stands for its subject, or it contains it
    #[arg(long, requires = "subject")]
    prompt: Option<String>,
    /// What the prompt is about
    #[arg(long, requires = "prompt")]
    subject: Option<String>,
    /// File of facts with what the model should say: ROME's known facts, or any requests with old
    /// targets; those it does not say are skipped
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// The first so many facts of the file only
    #[arg(long, value_name = "N", requires = "known")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Corrupted copies
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Noise on the subject's embeddings: s3 is 3 times their standard deviation over the known
    /// subjects, and a plain number the deviation itself
    #[arg(long, value_name = "s3|VALUE", default_value = "s3")]
    noise: NoiseLevel,
    /// Layers in which outputs of MLPs, or of attention, are restored together
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Folder for numbers and heat maps
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Trace {
    /// Traces, writes and prints.
    pub fn run(&self, context: &Context) -> Result<()> {
        let terminal = &context.terminal;
        let facts = self.facts(context)?;
        self.check_output()?;
        let (checkpoint, model) = load::open(&self.model, &context.device, terminal)?;
        let tokenizer = context.tokenizer(&self.model)?;
        let protocol = TraceSettings {
            samples: self.samples.into(),
            window: self.window.into(),
            nu: self.nu(&model, &tokenizer, &facts, context)?,
            seed: u32::try_from(PUBLISHED_SEED.saturating_add(context.seed)).map_err(|_| {
                let what = format!("--seed {}: too large for this noise", context.seed);
                Error::refused(what, "NumPy's generator, which draws it, has seeds below 2^32")
            })?,
        };
        let setup = Setup {
            model: fingerprint(&checkpoint, terminal)?,
            noise: self.noise,
            protocol,
            tokenizer: &tokenizer,
        };
        match &self.known {
            None => self.one(context, &model, &setup, &facts[0]),
            Some(_) => self.many(context, &model, &setup, &facts),
        }
    }

    fn one(&self, context: &Context, model: &Model, by: &Setup, fact: &KnownFact) -> Result<()> {
        let prompt = TracedPrompt::new(model, by.tokenizer, &fact.prompt, &fact.subject)?;
        let start = Instant::now();
        let outcome = by.protocol.trace(model, &prompt, None, &context.terminal)?;
        let seconds = start.elapsed().as_secs_f64();
        let TraceOutcome::Traced(trace) = outcome else {
            return Err(Error::refused("nothing was expected", "report this"));
        };
        let json = report::fact_json(by, fact, &prompt, &trace);
        if let Some(dir) = &self.output {
            context.terminal.enter(Stage::WriteResults);
            write(dir, "trace.json", &json)?;
            for (name, svg) in report::fact_maps(by, &prompt, &trace)? {
                write_text(dir, name, &svg)?;
            }
        }
        if context.json {
            return context.terminal.json(&report::timed(json, seconds));
        }
        report::fact_lines(by, &prompt, &trace)
            .iter()
            .try_for_each(|l| context.terminal.line(l))?;
        self.written(context, "trace.json, hidden.svg, mlp.svg, attention.svg")
    }

    fn many(&self, context: &Context, model: &Model, by: &Setup, all: &[KnownFact]) -> Result<()> {
        let terminal = &context.terminal;
        let (mut average, mut lines) = (AverageEffects::new(model.arch.layers), String::new());
        let (mut skipped, mut refused) = (0, 0);
        let start = Instant::now();
        for (i, fact) in all.iter().enumerate() {
            terminal.at(Stage::Fact, i as u64, all.len() as u64);
            let traced = TracedPrompt::new(model, by.tokenizer, &fact.prompt, &fact.subject)
                .and_then(|prompt| Ok((expected(by.tokenizer, fact)?, prompt)));
            let (token, prompt) = match traced {
                Ok(traced) => traced,
                Err(e) => {
                    terminal.warn(&format!("fact {} is left out: {e}", fact.id));
                    refused += 1;
                    continue;
                }
            };
            match by.protocol.trace(model, &prompt, Some(token), terminal)? {
                TraceOutcome::Skipped(_) => skipped += 1,
                TraceOutcome::Traced(trace) => {
                    average.add(&prompt, &trace);
                    lines += &format!("{}\n", report::fact_json(by, fact, &prompt, &trace));
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let counts = report::Counts { facts: average.p_high.count(), skipped, refused };
        if counts.facts == 0 {
            let what = "the model goes on with the expected object after no prompt of the file";
            return Err(Error::refused(what, "give facts that this model knows"));
        }
        let json = report::average_json(by, counts, &average);
        if let Some(dir) = &self.output {
            terminal.enter(Stage::WriteResults);
            write(dir, "trace.json", &json)?;
            write_text(dir, "facts.jsonl", &lines)?;
            for (name, svg) in report::average_maps(&average)? {
                write_text(dir, name, &svg)?;
            }
        }
        if context.json {
            return terminal.json(&report::timed(json, seconds));
        }
        report::average_lines(by, counts, &average).iter().try_for_each(|l| terminal.line(l))?;
        self.written(context, "trace.json, facts.jsonl, hidden.svg, mlp.svg, attention.svg")
    }

    /// What is traced: the prompt, or the facts of the file.
    fn facts(&self, context: &Context) -> Result<Vec<KnownFact>> {
        let Some(file) = &self.known else {
            let subject = self.subject.as_deref().unwrap_or_default();
            // Requests are held to rules, and have a target, which is not read here.
            let asked = Fact::new(self.prompt.as_deref().unwrap_or_default(), subject, "-");
            let mut read = request::checked("--prompt", &[asked])?;
            if let Some(broken) = read.broken.first() {
                return Err(Error::refused(broken.reason(), broken.remedy.clone()));
            }
            let Fact { id, prompt, subject, .. } = read.facts.remove(0);
            return Ok(vec![KnownFact {
                id,
                prompt,
                subject,
                object: String::new(),
                relation: None,
            }]);
        };
        let (mut facts, broken) = known(file)?;
        if let Some(first) = broken.first() {
            let n = broken.len();
            context.terminal.warn(&format!("records left out: {n}; the first: {}", first.reason()));
        }
        facts.truncate(self.limit.map_or(usize::MAX, |n| n as usize));
        if facts.is_empty() {
            let (what, remedy) = ("holds no known fact", "write prompt, subject and attribute");
            return Err(Error::input(file, "line 1", what, remedy));
        }
        Ok(facts)
    }

    /// ν.
    fn nu(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        facts: &[KnownFact],
        context: &Context,
    ) -> Result<f64> {
        let NoiseLevel::Deviations(factor) = self.noise else {
            let NoiseLevel::Value(value) = self.noise else { unreachable!("two kinds of noise") };
            return Ok(value);
        };
        let subjects: Vec<Vec<u32>> =
            facts.iter().map(|f| tokenizer.encode(&f.subject)).collect::<Result<_>>()?;
        for ids in &subjects {
            model.arch.check(ids)?;
        }
        let nu = factor * embedding_deviation(model, &subjects)?;
        if self.known.is_none() {
            context.terminal.warn(&format!(
                "the noise, {nu:.4}, is {factor} times the deviation of this one subject's \
                 embeddings, where the published protocol takes all known subjects; --noise takes \
                 a value"
            ));
        }
        Ok(nu)
    }

    /// Makes the folder, and refuses one in which something else would be replaced.
    fn check_output(&self) -> Result<()> {
        let Some(dir) = &self.output else { return Ok(()) };
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create", e))?;
        let inputs: Vec<&Path> =
            [Some(&self.model), self.known.as_ref()].into_iter().flatten().map(|p| &**p).collect();
        let file = dir.join("trace.json");
        check_place(&file, &inputs)?;
        let old = std::fs::read(&file).unwrap_or_default();
        let old: Value = serde_json::from_slice(&old).unwrap_or_default();
        check_replaced(&file, old.get("p_high").is_some(), "trace")
    }

    fn written(&self, context: &Context, files: &str) -> Result<()> {
        let line = |dir: &PathBuf| context.terminal.line(format!("{}: {files}", dir.display()));
        self.output.as_ref().map_or(Ok(()), line)
    }
}

/// The first token of what a model should say. Objects of several tokens are told apart by it.
fn expected(tokenizer: &Tokenizer, fact: &KnownFact) -> Result<u32> {
    let prompt = fact.prompt.replacen("{}", &fact.subject, 1);
    Ok(tokenizer.encode_target(&prompt, &fact.object, None)?[0])
}

fn write(dir: &Path, name: &str, json: &Value) -> Result<()> {
    write_text(dir, name, &format!("{json}\n"))
}

fn write_text(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|e| Error::io(&path, "write", e))
}
