//! Floor 9: the commands, one file each. Only this floor prints: results on standard output,
//! progress and warnings on standard error.
//!
//! Exit codes: 0 done, 1 failed (with the chain of causes on one line), 2 wrong usage.

mod apply;
mod apply_gguf;
mod ask;
mod bench;
mod chat;
mod compare;
mod context;
mod demo;
mod doctor;
mod doctor_proof;
mod dry_run;
mod edit;
mod editing;
mod embedded;
mod eval;
mod export;
mod flags;
mod generate;
mod import;
mod inspect;
mod inspect_gguf;
mod logits;
mod memory;
mod merge;
mod methods;
mod neurons;
mod output;
mod predict;
mod push;
mod report;
mod stats;
mod trace;
mod train;
mod tune;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::base::{Error, Result, catch_device_error, escape};
use crate::tensor::Device;
use context::Context;
use output::Terminal;

/// Edits facts inside transformer language models, in the weights themselves.
#[derive(Parser)]
#[command(name = "incise", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// Where to compute: auto, cpu, cuda:N, or GPUs that share the work, cuda:0,1
    #[arg(long, global = true, default_value = "auto")]
    device: String,
    /// Threads to use [default: one a core]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of everything that is drawn
    #[arg(long, global = true, default_value_t = 0)]
    seed: u64,
    /// Print the result as JSON on standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Edit facts in the model that ships with the program: before and after
    Demo(demo::Demo),
    /// What this machine offers: processor, GPUs, driver, kernels; with advice. With --device
    /// cuda:N the GPU proves its kernels
    Doctor(doctor::Doctor),
    /// What a checkpoint is: family, sizes, editable tensors, edits present
    Inspect(inspect::Inspect),
    /// Make a checkpoint folder of a GGUF file
    Import(import::Import),
    /// Go on from a prompt
    Generate(generate::Generate),
    /// Logits of every token of every line of a file
    Logits(logits::Logits),
    /// Key second moments of some layers, from text
    Stats(stats::Stats),
    /// Train what a method edits with, on requests with paraphrases and what should stay
    Train(train::Train),
    /// Compute the patch that changes facts
    Edit(Box<edit::EditCommand>),
    /// What a model says to prompts before and after an edit, side by side
    Ask(ask::Ask),
    /// Edit, measure what became of it, report
    Eval(Box<eval::Eval>),
    /// Put several evaluations side by side, with paired differences
    Compare(compare::Compare),
    /// Which methods there are, what they need, and their parameters
    Methods(methods::Methods),
    /// Join the values that several `edit --shard` runs found
    Merge(merge::Merge),
    /// Write patches into a new folder or in place
    Apply(apply::Apply),
    /// Hand a patch to servers: as a LoRA adapter, or the changed tensors in full
    Export(export::Export),
    /// Put a patch into a running server, or take it back
    Push(push::PushCommand),
    /// Undo the newest patches that were applied in place, byte for byte
    Undo(apply::Undo),
    /// List the patches that were applied in place
    Log(apply::Log),
    /// Which states of the model carry a fact (causal tracing), and which layers to edit
    Trace(trace::Trace),
    /// Which neurons of the MLPs an answer rests on (knowledge neurons)
    Neurons(neurons::Neurons),
    /// Find layers and settings for a model, with the trade-off curve
    Tune(Box<tune::Tune>),
    /// Measure kernels and stages against the machine's limits
    Bench(bench::Bench),
}

/// Runs the program and chooses its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let terminal = Terminal::new(!cli.common.json);
    match catch_device_error(|| run(cli, &terminal)).and_then(|()| terminal.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if output::reader_left(&e) => ExitCode::SUCCESS,
        Err(e) => {
            terminal.error(&e);
            ExitCode::from(1)
        }
    }
}

/// Prints help, the version, or what is wrong with the arguments.
fn usage(said: &clap::Error) -> ExitCode {
    // What is wrong is shown with the arguments themselves.
    let shown = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .map(|word| escape::one_line(&word).into_owned());
    let escaped = Cli::try_parse_from(shown).err();
    // Help and version are answers, not errors; nobody may be reading either.
    let printed = match escaped {
        Some(said) => said.print(),
        // Without the bytes that are no text, all may be right.
        None => io::stderr().write_all(escape::lines(&said.to_string()).as_bytes()),
    };
    match printed {
        _ if said.use_stderr() => ExitCode::from(2),
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    }
}

fn run(cli: Cli, terminal: &Terminal) -> Result<()> {
    if let Some(n) = cli.common.threads {
        let failed = |e| Error::refused(format!("--threads {n}: {e}"), "ask for another number");
        rayon::ThreadPoolBuilder::new().num_threads(n.into()).build_global().map_err(failed)?;
    }
    let (device, missing) = match Device::parse(&cli.common.device) {
        // What there is, is told first.
        Err(e @ Error::Device { .. }) if matches!(cli.command, Command::Doctor(_)) => {
            (Device::Cpu, Some(e))
        }
        device => (device?, None),
    };
    let context = Context {
        device,
        seed: cli.common.seed,
        json: cli.common.json,
        terminal: terminal.clone(),
    };
    match cli.command {
        Command::Demo(c) => c.run(&context),
        Command::Doctor(c) => c.run(&context, missing),
        Command::Inspect(c) => c.run(&context),
        Command::Import(c) => c.run(&context),
        Command::Generate(c) => c.run(&context),
        Command::Logits(c) => c.run(&context),
        Command::Stats(c) => c.run(&context),
        Command::Train(c) => c.run(&context),
        Command::Edit(c) => c.run(&context),
        Command::Ask(c) => c.run(&context),
        Command::Eval(c) => c.run(&context),
        Command::Compare(c) => c.run(&context),
        Command::Methods(c) => c.run(&context),
        Command::Merge(c) => c.run(&context),
        Command::Apply(c) => c.run(&context),
        Command::Export(c) => c.run(&context),
        Command::Push(c) => c.run(&context),
        Command::Undo(c) => c.run(&context),
        Command::Log(c) => c.run(&context),
        Command::Trace(c) => c.run(&context),
        Command::Neurons(c) => c.run(&context),
        Command::Tune(c) => c.run(&context),
        Command::Bench(c) => c.run(&context),
    }
}
