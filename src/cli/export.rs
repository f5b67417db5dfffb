//! `incise export`: a patch for servers, as an adapter, as whole tensors, or as a version.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::apply::say;
use super::context::Context;
use super::output::Terminal;
use crate::base::units::{count, counted, percent};
use crate::base::{Error, Progress, Result};
use crate::edit::apply::{self, PatchSide, Report};
use crate::edit::export::adapter::{self, Adapter, Module, RANKS};
use crate::edit::export::gguf;
use crate::edit::export::versions::{self, Encoding, Version};
use crate::editor::Editor;
use crate::ops::proof;
use crate::store::Patch;
use crate::store::place::{
    check_distinct, check_new_folder, check_outside, check_place, check_replaced,
};

/// Which patch, in which form, and where to.
#[derive(Args)]
#[command(group = ArgGroup::new("form").required(true)
    .args(["lora", "lora_gguf", "delta", "delta_dir", "disk_delta", "widened"]))]
#[command(group = ArgGroup::new("of_checkpoint").multiple(true)
    .args(["lora_gguf", "delta", "delta_dir", "disk_delta", "widened"]).requires("model"))]
#[command(group = ArgGroup::new("adapter").multiple(true).args(["lora", "lora_gguf"]))]
pub struct Export {
    /// The patch, or with --widened the memory
    patch: PathBuf,
    /// Write neurons beside the MLP (t-patcher, calinet) as a checkpoint with wider MLPs, into a
    /// new folder
    #[arg(long, value_name = "DIR")]
    widened: Option<PathBuf>,
    /// Write a LoRA adapter as PEFT reads it into a new folder
    #[arg(long, value_name = "DIR")]
    lora: Option<PathBuf>,
    /// Write it as llama.cpp reads it into a file
    #[arg(long, value_name = "FILE")]
    lora_gguf: Option<PathBuf>,
    /// The adapter's rank: 8, 16, 32, 64, 128, 256, 320 or 512 [default: the smallest that holds
    /// the patch]
    #[arg(long, value_name = "R", requires = "adapter", value_parser = rank)]
    rank: Option<usize>,
    /// What the adapter names as its base: the text that the server was started with [default: the
    /// whole path of --model]
    #[arg(long, value_name = "NAME", requires = "lora")]
    #[arg(conflicts_with_all = ["lora_gguf", "delta", "delta_dir", "disk_delta", "widened"])]
    base: Option<String>,
    /// Write the changed tensors in full, as the checkpoint stores them, into a safetensors file
    #[arg(long, value_name = "FILE")]
    delta: Option<PathBuf>,
    /// Write them as the one file, model.safetensors, of a new folder
    #[arg(long, value_name = "DIR")]
    delta_dir: Option<PathBuf>,
    /// With it, write the same tensors as they were into another new folder: what takes it back
    #[arg(long, value_name = "DIR", requires = "delta_dir")]
    #[arg(conflicts_with_all = ["lora", "lora_gguf", "delta", "disk_delta", "widened"])]
    before: Option<PathBuf>,
    /// Publish the bytes that differ as the next version in a folder, for /pull_weights of SGLang
    #[arg(long, value_name = "DIR")]
    disk_delta: Option<PathBuf>,
    /// How they are written: xor, or positions and values
    #[arg(long, value_parser = ["xor", "overwrite"], default_value = "xor")]
    #[arg(requires = "disk_delta")]
    #[arg(conflicts_with_all = ["lora", "lora_gguf", "delta", "delta_dir", "widened"])]
    encoding: String,
    /// Publish the version that takes the patch back
    // What another form conflicts with is not required any more.
    #[arg(long, requires = "disk_delta")]
    #[arg(conflicts_with_all = ["lora", "lora_gguf", "delta", "delta_dir", "widened"])]
    undo: bool,
    /// Folder of the checkpoint the patch is for
    #[arg(long)]
    model: Option<PathBuf>,
}

/// A rank that servers take.
pub(super) fn rank(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().map_err(|_| "is no number".to_owned())?;
    adapter::check_rank(number).map_err(|e| e.to_string())
}

impl Export {
    /// Writes what is asked for.
    pub fn run(&self, context: &Context) -> Result<()> {
        if let (Some(dir), Some(model)) = (&self.widened, &self.model) {
            check_new_folder(dir, &[&self.patch, model])?;
            let editor = Editor::open_on(model, &context.device, &context.terminal)?
                .progress(context.terminal.clone());
            let neurons = editor.export_widened(&self.patch, dir)?;
            return say_widened(context, neurons, dir);
        }
        let patch = Patch::read(&self.patch)?;
        if let Some(dir) = &self.lora {
            return self.lora(context, &patch, dir);
        }
        let model = self.model.as_deref().ok_or_else(|| {
            Error::refused("no checkpoint to export for", "name its folder with --model")
        })?;
        match (&self.lora_gguf, &self.delta, &self.delta_dir, &self.disk_delta) {
            (Some(file), ..) => self.lora_gguf(context, &patch, model, file),
            (_, Some(file), ..) => self.delta(context, patch, model, file),
            (_, _, Some(dir), _) => self.delta_dir(context, patch, model, dir),
            (_, _, _, Some(dir)) => self.disk_delta(context, patch, model, dir),
            _ => Err(Error::refused("no form to export", "ask for one, as --lora DIR")),
        }
    }

    fn lora(&self, context: &Context, patch: &Patch, dir: &Path) -> Result<()> {
        let terminal = &context.terminal;
        let inputs = [Some(&*self.patch), self.model.as_deref()];
        check_new_folder(dir, &inputs.into_iter().flatten().collect::<Vec<_>>())?;
        if let Some(model) = &self.model {
            apply::check(model, std::slice::from_ref(patch), &context.device, terminal)?;
        }
        let model = self.model.as_deref().map(adapter::name_of);
        let base = self.base.clone().or(model);
        let adapter = adapter::write(patch, self.rank, base.as_deref(), dir, terminal)?;
        say_adapter(context, &adapter, dir)
    }

    fn lora_gguf(&self, context: &Context, patch: &Patch, model: &Path, file: &Path) -> Result<()> {
        let terminal = &context.terminal;
        check_place(file, &[&self.patch, model])?;
        check_replaced(file, gguf::is_adapter(file), "adapter")?;
        apply::check(model, std::slice::from_ref(patch), &context.device, terminal)?;
        let adapter = Adapter::of(patch, self.rank, terminal)?;
        gguf::write(&adapter, model, file)?;
        say_adapter(context, &adapter, file)?;
        terminal.remark(
            "llama.cpp may answer from its prompt cache after a change of the adapter's scale: \
             start it with --cache-ram 0",
        );
        Ok(())
    }

    fn delta(&self, context: &Context, patch: Patch, model: &Path, file: &Path) -> Result<()> {
        let terminal = &context.terminal;
        let patches = [patch];
        apply::check_tensors_file(file, &patches, &[&self.patch, model])?;
        let side = PatchSide::After;
        let report = apply::to_file(model, &patches, side, file, &context.device, terminal)?;
        say_tensors(context, &report, &[file])
    }

    fn delta_dir(&self, context: &Context, patch: Patch, model: &Path, dir: &Path) -> Result<()> {
        let Context { terminal, device, .. } = context;
        let before = self.before.as_deref();
        let outputs: Vec<&Path> = [Some(dir), before].into_iter().flatten().collect();
        check_distinct(&outputs)?;
        check_distinct(&outputs.iter().rev().copied().collect::<Vec<_>>())?;
        outputs.iter().try_for_each(|dir| check_new_folder(dir, &[&self.patch, model]))?;
        let patches = [patch];
        let write =
            |side, dir| apply::to_file_in_folder(model, &patches, side, dir, device, terminal);
        // What takes it back first: with the other alone nobody could.
        if let Some(before) = before {
            write(PatchSide::Before, before)?;
        }
        let written = write(PatchSide::After, dir).inspect_err(|_| {
            let _ = before.map(fs::remove_dir_all); // half of an answer would be in the way
        });
        say_tensors(context, &written?, &outputs)
    }

    fn disk_delta(&self, context: &Context, patch: Patch, model: &Path, dir: &Path) -> Result<()> {
        let terminal = &context.terminal;
        check_outside(dir, &[model])?;
        let by = &proof::start(context.device.now(), 0, terminal)?[0];
        let patches = [patch];
        let read = |side| apply::to_memory(model, &patches, side, by, terminal);
        let [(old, _), (new, _)] = [read(PatchSide::Before)?, read(PatchSide::After)?];
        let (from, to) = if self.undo { (&new, &old) } else { (&old, &new) };
        if self.undo {
            versions::check_published(dir, from)?;
        }
        let encoding = if self.encoding == "xor" { Encoding::Xor } else { Encoding::Overwrite };
        say_version(context, &versions::publish(dir, from, to, encoding, terminal)?)
    }
}

/// What was written of an adapter.
fn say_adapter(context: &Context, adapter: &Adapter, written: &Path) -> Result<()> {
    let (terminal, r) = (&context.terminal, adapter.rank);
    adapter.modules.iter().for_each(|module| warn(terminal, module, r));
    if context.json {
        let modules: Vec<_> = adapter.modules.iter().map(module_json).collect();
        let told = json!({"written": written, "rank": r, "alpha": r, "modules": modules});
        return terminal.json(&told);
    }
    for m in &adapter.modules {
        let (lost, energy) = (percent(m.lost), percent(m.lost * m.lost));
        let (tensor, k) = (&m.tensor, m.rank);
        terminal.line(format!("{tensor}: rank {k} in {r}, lost {lost} of Δ, {energy} of ‖Δ‖²"))?;
    }
    let (shown, modules) = (written.display(), counted(adapter.modules.len() as u64, "module"));
    terminal.line(format!("{shown}: LoRA adapter, r = alpha = {r}, for {modules}"))
}

/// What was written of tensors.
fn say_tensors(context: &Context, report: &Report, written: &[&Path]) -> Result<()> {
    let terminal = &context.terminal;
    if context.json {
        let (before, tensors) = (written.get(1), &report.tensors);
        let told = json!({"written": written[0], "before": before, "tensors": tensors});
        return terminal.json(&told);
    }
    say(terminal, report)?;
    let n = counted(report.tensors.len() as u64, "tensor");
    for (path, when) in written.iter().zip(["with the patch", "without it"]) {
        terminal.line(format!("{}: {n} {when}", path.display()))?;
    }
    Ok(())
}

/// What was published.
fn say_version(context: &Context, version: &Version) -> Result<()> {
    let terminal = &context.terminal;
    if context.json {
        let tensors: Vec<_> = version
            .tensors
            .iter()
            .map(|t| {
                json!({
                    "name": t.name, "bytes": t.bytes, "changed": t.changed, "written": t.written,
                })
            })
            .collect();
        let (written, number) = (&version.dir, version.number);
        return terminal.json(&json!({"written": written, "version": number, "tensors": tensors}));
    }
    for t in &version.tensors {
        let (changed, written) = (percent(t.changed as f64 / t.bytes as f64), count(t.written));
        terminal.line(format!("{}: {changed} of the bytes differ, in {written} bytes", t.name))?;
    }
    terminal.line(format!("{}: version {}", version.dir.display(), version.number))
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

fn say_widened(context: &Context, neurons: usize, dir: &Path) -> Result<()> {
    if context.json {
        return context.terminal.json(&json!({"output": dir, "neurons": neurons}));
    }
    let n = counted(neurons as u64, "neuron");
    context.terminal.line(format!("{}: every MLP wider by {n}", dir.display()))
}

fn module_json(m: &Module) -> serde_json::Value {
    json!({
        "tensor": m.tensor, "module": m.module, "rank": m.rank, "lost": m.lost,
        "energy_lost": m.lost * m.lost,
    })
}
