//! `incise apply`, `undo` and `log`: patches into weights, and back.

use std::iter;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::apply_gguf::ApplyGguf;
use super::context::Context;
use super::output::Terminal;
use crate::base::units::{counted, percent};
use crate::base::{Error, Progress, Remedy, Result};
use crate::edit::apply::{self, Report};
use crate::edit::governor::{CarriedEdits, Strain};
use crate::store::gguf::is_gguf;
use crate::store::journal::Undone;
use crate::store::record::LogEntry;
use crate::store::{AppliedPatch, Lineage, Patch};

/// Which patches go where.
#[derive(Args)]
#[command(group = ArgGroup::new("to").required(true).args(["output", "in_place"]))]
pub struct Apply {
    /// Folder of the checkpoint, or a GGUF file
    model: PathBuf,
    /// Patches, in the order in which they were made
    #[arg(required = true)]
    patches: Vec<PathBuf>,
    /// Write a new folder with the edited checkpoint; of a GGUF file, a new file
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Change the checkpoint itself; `incise undo` puts every byte back
    #[arg(long)]
    in_place: bool,
    /// Write nothing if the model would then be strained, or broken, as `incise inspect` has it
    #[arg(long, value_name = "STRAIN", value_parser = ["strained", "broken"])]
    refuse_past: Option<String>,
    /// GGUF file: folder of the key statistics that the patches were planned with
    #[arg(long, value_name = "DIR")]
    stats: Option<PathBuf>,
    /// GGUF file: the requests to ask the written file [default: PATCH.report.jsonl]
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// GGUF file: do not ask the written file, which takes as much room as its values in f32
    #[arg(long, conflicts_with = "requests")]
    no_ask: bool,
    /// GGUF file: take patches that were planned on another checkpoint of this model
    #[arg(long)]
    other_base: bool,
    /// GGUF file: write the edited matrices in a type of more bits, and so a longer file
    #[arg(long, value_name = "TYPE", value_parser = ["Q8_0"], conflicts_with = "in_place")]
    raise_type: Option<String>,
}

impl Apply {
    /// Writes the weights.
    pub fn run(&self, context: &Context) -> Result<()> {
        let terminal = &context.terminal;
        let read = |path: &PathBuf| Patch::read(path);
        let patches = self.patches.iter().map(read).collect::<Result<Vec<_>>>()?;
        if is_gguf(&self.model) {
            return self.gguf()?.run(&patches, context);
        }
        self.refuse_unread()?;
        if let Some(most) = &self.refuse_past {
            let most = if most == "broken" { Strain::Broken } else { Strain::Strained };
            self.refuse_past(&patches, most, context)?;
        }
        let report = match &self.output {
            Some(out) => apply::to_folder(&self.model, &patches, out, &context.device, terminal)?,
            None => apply::in_place(&self.model, &patches, &context.device, terminal)?,
        };
        let written = self.output.as_ref().unwrap_or(&self.model);
        if context.json {
            return terminal.json(&json!({"written": written, "tensors": report.tensors}));
        }
        say(terminal, &report)?;
        let back = if self.in_place { "; `incise undo` puts every byte back" } else { "" };
        let facts = patches.iter().fold(0u64, |n, p| n.saturating_add(p.metadata.facts));
        terminal.line(format!("{}: {} written{back}", written.display(), counted(facts, "fact")))
    }

    /// What is asked for of a GGUF file.
    fn gguf(&self) -> Result<ApplyGguf<'_>> {
        if self.refuse_past.is_some() {
            let remedy = Remedy::from("leave it out").option("refuse_past", None);
            return Err(Error::refused("a GGUF file keeps no lineage to judge by", remedy));
        }
        Ok(ApplyGguf {
            file: &self.model,
            patches: &self.patches,
            statistics: self.stats.as_deref(),
            requests: self.requests.as_deref(),
            other_base: self.other_base,
            raise: self.raise_type.is_some(),
            asks: !self.no_ask,
            output: self.output.as_deref(),
        })
    }

    /// Refuses what is for GGUF files alone.
    fn refuse_unread(&self) -> Result<()> {
        let given = [
            ("statistics", self.stats.is_some()),
            ("requests", self.requests.is_some()),
            ("no_ask", self.no_ask),
            ("other_base", self.other_base),
            ("raise_type", self.raise_type.is_some()),
        ];
        let Some((option, _)) = given.into_iter().find(|(_, given)| *given) else { return Ok(()) };
        let remedy = Remedy::from("leave it out").option(option, None);
        Err(Error::refused(format!("{option} is for GGUF files alone"), remedy))
    }

    /// Refuses patches with which the model would carry too much.
    fn refuse_past(&self, patches: &[Patch], most: Strain, context: &Context) -> Result<()> {
        let terminal = &context.terminal;
        let then = apply::lineage_with(&self.model, patches, &context.device, terminal)?;
        let carried = then.map(|lineage| CarriedEdits::of(&lineage));
        match carried.filter(|carried| carried.strain.is_some()) {
            Some(carried) => carried.refuse_past(most),
            None => {
                terminal.warn("nothing is known of how much these methods bear: not refused");
                Ok(())
            }
        }
    }
}

/// A line a tensor.
pub fn say(terminal: &Terminal, report: &Report) -> Result<()> {
    if report.tensors.iter().all(|t| t.change == 0.0) {
        terminal
            .warn("nothing changed: the patch says no change, and the weights are as they were");
    }
    report.tensors.iter().try_for_each(|t| {
        let (change, lost) = (percent(t.change / t.weight), percent(t.lost));
        terminal.line(format!("{}: ‖Δ‖/‖W‖ {change}, rounding lost {lost} of Δ", t.name))
    })
}

/// What to undo.
#[derive(Args)]
pub struct Undo {
    /// Folder of the checkpoint, or a GGUF file
    model: PathBuf,
    /// Keep the first N patches and undo the rest [default: undo the newest]
    #[arg(long, value_name = "N")]
    to: Option<usize>,
}

impl Undo {
    /// Puts the bytes back.
    pub fn run(&self, context: &Context) -> Result<()> {
        let Undone { changes, rolled_back } = apply::undo(&self.model, self.to)?;
        let terminal = &context.terminal;
        if context.json {
            let numbers: Vec<u32> = changes.iter().map(|e| e.number).collect();
            return terminal.json(&json!({"undone": numbers, "rolled_back": rolled_back}));
        }
        if rolled_back {
            terminal.line("rolled back a change that was cut off; every byte is as before it")?;
        }
        changes.iter().try_for_each(|e| {
            let (number, facts) = (e.number, counted(e.facts, "fact"));
            terminal.line(format!("undone {number}: {facts} by {}", e.method))
        })
    }
}

/// Whose patches to list.
#[derive(Args)]
pub struct Log {
    /// Folder of the checkpoint, or a GGUF file
    model: PathBuf,
}

impl Log {
    /// Lists what was applied, oldest first.
    pub fn run(&self, context: &Context) -> Result<()> {
        let log = apply::log(&self.model)?;
        let lineage = if is_gguf(&self.model) { Ok(None) } else { Lineage::read(&self.model) };
        let lineage = lineage.unwrap_or_else(|e| {
            context.terminal.warn(&format!("the log goes without a lineage: {}", e.line()));
            None
        });
        let lineage = lineage.map_or(Vec::new(), |lineage| lineage.patches);
        // The newest of both are the same; the lineage begins in the folder this is a copy of, the
        // log with changes by earlier versions, which kept no lineage.
        let copied = &lineage[..lineage.len().saturating_sub(log.len())];
        let unknown = log.len().saturating_sub(lineage.len());
        let known = lineage[copied.len()..].iter().map(Some);
        let all = log.iter().zip(iter::repeat_n(None, unknown).chain(known));
        if context.json {
            let entry = |(e, patch): (&LogEntry, Option<&AppliedPatch>)| {
                json!({"number": e.number, "time": e.time, "method": e.method, "facts": e.facts,
                       "tensors": e.tensors, "change": patch.and_then(|p| p.change),
                       "weight": patch.and_then(|p| p.weight)})
            };
            return context.terminal.json(&json!(all.map(entry).collect::<Vec<_>>()));
        }
        for patch in copied {
            let facts = counted(patch.facts, "fact");
            let line = format!("before  {facts} by {}{}", patch.method, share(Some(patch)));
            context.terminal.line(line)?;
        }
        if log.is_empty() {
            return context.terminal.line("nothing was applied in place");
        }
        for (e, patch) in all {
            context.terminal.line(format!(
                "{}  {}  {} by {}  {}{}",
                e.number,
                humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(e.time)),
                counted(e.facts, "fact"),
                e.method,
                e.tensors.join(" "),
                share(patch),
            ))?;
        }
        Ok(())
    }
}

/// ‖ΣΔ‖/‖W₀‖ after a patch, where it is known.
fn share(patch: Option<&AppliedPatch>) -> String {
    let norms = patch.and_then(|patch| Some([patch.change?, patch.weight?]));
    let part = norms.map(|[change, weight]| percent(change / weight));
    part.map_or(String::new(), |part| format!("  ‖ΣΔ‖/‖W₀‖ {part}"))
}
