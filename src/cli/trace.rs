//! `incise trace MODEL --prompt P --subject S` and `incise trace MODEL --known FILE`: causal
//! tracing, with heat maps.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::context::Context;
use crate::base::Result;
use crate::editor::Editor;
use crate::editor::trace::{PUBLISHED, TraceFiles, TraceReport, Traceable};
use crate::eval::trace::noise::NoiseLevel;
use crate::eval::trace::report::timed;

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
    #[arg(long, value_name = "N", default_value_t = PUBLISHED)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Noise on the subject's embeddings: s3 is 3 times their standard deviation over the known
    /// subjects, and a plain number the deviation itself
    #[arg(long, value_name = "s3|VALUE", default_value = "s3")]
    noise: NoiseLevel,
    /// Layers in which outputs of MLPs, or of attention, are restored together
    #[arg(long, value_name = "N", default_value_t = PUBLISHED)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Folder for numbers and heat maps
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Trace {
    /// Traces, writes and prints.
    pub fn run(&self, context: &Context) -> Result<()> {
        let editor = Editor::open_on(&self.model, &context.device, &context.terminal)?
            .progress(context.terminal.clone())
            .seed(context.seed);
        let prompt = self.prompt.clone().zip(self.subject.clone());
        let by = TraceFiles {
            of: match (&self.known, prompt) {
                (Some(file), _) => {
                    Traceable::Known { file: file.clone(), limit: self.limit.map(|n| n as usize) }
                }
                (None, prompt) => {
                    let (prompt, subject) = prompt.unwrap_or_default();
                    Traceable::Prompt { prompt, subject }
                }
            },
            samples: self.samples,
            window: self.window,
            noise: self.noise,
            output: self.output.clone(),
        };
        self.print(context, editor.trace_files(&by)?)
    }

    fn print(&self, context: &Context, found: TraceReport) -> Result<()> {
        let TraceReport { json, lines, files, seconds } = found;
        if context.json {
            return context.terminal.json(&timed(json, seconds));
        }
        lines.iter().try_for_each(|line| context.terminal.line(line))?;
        let Some(dir) = &self.output else { return Ok(()) };
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        context.terminal.line(format!("{}: {}", dir.display(), names.join(", ")))
    }
}
