//! `incise export`: a patch for servers, as a LoRA adapter or as whole tensors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::apply::say;
use super::context::Context;
use super::output::Terminal;
use crate::base::units::{counted, percent};
use crate::base::{Error, Progress, Result};
use crate::edit::apply::{self, Side};
use crate::edit::export::{self, Module, RANKS};
use crate::store::place::{check_place, check_replaced};
use crate::store::{Patch, Shard};

/// Which patch, in which form, and where to.
#[derive(Args)]
#[command(group = ArgGroup::new("form").required(true).args(["lora", "delta"]))]
pub struct Export {
    /// The patch
    patch: PathBuf,
    /// Write a LoRA adapter as PEFT reads it into a new folder
    #[arg(long, value_name = "DIR")]
    lora: Option<PathBuf>,
    /// The adapter's rank: 8, 16, 32, 64, 128, 256, 320 or 512 [default: the smallest that holds
    /// the patch]
    #[arg(long, value_name = "R", conflicts_with = "delta", value_parser = rank)]
    rank: Option<usize>,
    /// Write the changed tensors in full, as the checkpoint stores them, into a safetensors file
    #[arg(long, value_name = "FILE", requires = "model")]
    delta: Option<PathBuf>,
    /// Folder of the checkpoint the patch is for; an adapter names it as its base
    #[arg(long)]
    model: Option<PathBuf>,
}

fn rank(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().map_err(|_| "is no number".to_owned())?;
    export::check_rank(number).map_err(|e| e.to_string())
}

impl Export {
    /// Writes the adapter or the tensors.
    pub fn run(&self, context: &Context) -> Result<()> {
        let patch = Patch::read(&self.patch)?;
        match (&self.lora, &self.delta, &self.model) {
            (Some(dir), ..) => self.lora(context, &patch, dir),
            (None, Some(file), Some(model)) => self.delta(context, patch, file, model),
            _ => Err(Error::refused("no form to export", "ask for --lora, or --delta and --model")),
        }
    }

    fn lora(&self, context: &Context, patch: &Patch, dir: &Path) -> Result<()> {
        let terminal = &context.terminal;
        if let Some(model) = &self.model {
            apply::check(model, std::slice::from_ref(patch), &context.device, terminal)?;
        }
        let base = self.model.as_ref().map(|model| model.display().to_string());
        let adapter = export::lora(patch, self.rank, base.as_deref(), dir, terminal)?;
        let r = adapter.rank;
        adapter.modules.iter().for_each(|module| warn(terminal, module, r));
        if context.json {
            let modules: Vec<_> = adapter.modules.iter().map(module_json).collect();
            let told = json!({"written": dir, "rank": r, "alpha": r, "modules": modules});
            return terminal.json(&told);
        }
        for m in &adapter.modules {
            let (lost, energy) = (percent(m.lost), percent(m.lost * m.lost));
            let (tensor, k) = (&m.tensor, m.rank);
            terminal
                .line(format!("{tensor}: rank {k} in {r}, lost {lost} of Δ, {energy} of ‖Δ‖²"))?;
        }
        let (shown, modules) = (dir.display(), counted(adapter.modules.len() as u64, "module"));
        terminal.line(format!("{shown}: LoRA adapter, r = alpha = {r}, for {modules}"))
    }

    fn delta(&self, context: &Context, patch: Patch, file: &Path, model: &Path) -> Result<()> {
        let terminal = &context.terminal;
        check_place(file, &[&self.patch, model])?;
        let names = |s: Arc<Shard>| s.header().tensors.keys().cloned().collect::<BTreeSet<_>>();
        let ours = patch.changes.iter().map(|c| c.tensor.clone()).collect();
        let older = Shard::open(file).is_ok_and(|s| names(s) == ours);
        check_replaced(file, older, "file of these tensors")?;
        let report = apply::to_file(model, &[patch], Side::After, file, &context.device, terminal)?;
        if context.json {
            return terminal.json(&json!({"written": file, "tensors": report.tensors}));
        }
        say(terminal, &report)?;
        let n = counted(report.tensors.len() as u64, "tensor");
        terminal.line(format!("{}: {n} in full", file.display()))
    }
}

fn warn(terminal: &Terminal, m: &Module, r: usize) {
    if m.lost > 0.0 {
        let larger = if r < RANKS[RANKS.len() - 1] { "ask for a larger --rank, or " } else { "" };
        let (lost, energy) = (percent(m.lost), percent(m.lost * m.lost));
        terminal.warn(&format!(
            "{}: rank {} was cut to {r}, and the adapter lacks {lost} of the change ({energy} of \
             ‖Δ‖²); {larger}write the tensors in full with --delta FILE --model MODEL",
            m.tensor, m.rank,
        ));
    }
}

fn module_json(m: &Module) -> serde_json::Value {
    json!({
        "tensor": m.tensor, "module": m.module, "rank": m.rank, "lost": m.lost,
        "energy_lost": m.lost * m.lost,
    })
}
