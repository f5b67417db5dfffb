//! `incise apply FILE.gguf`: patches into a quantised file, and what it then says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::context::Context;
use super::import::ModelFolder;
use super::output::Terminal;
use crate::base::units::{counted, percent};
use crate::base::{Error, Progress, Result};
use crate::data::Fact;
use crate::edit::quantised::{self, RoundedTensor, Rounding};
use crate::editor::Editor;
use crate::editor::quantised::{WrittenFact, requests, written_facts};
use crate::store::Patch;
use crate::store::place::check_place;

/// What was asked for.
pub(super) struct ApplyGguf<'a> {
    pub file: &'a Path,
    pub patches: &'a [PathBuf],
    pub statistics: Option<&'a Path>,
    pub requests: Option<&'a Path>,
    pub other_base: bool,
    pub raise: bool,
    pub asks: bool,
    pub output: Option<&'a Path>,
}

impl ApplyGguf<'_> {
    /// Writes the file, opens it again and asks it.
    pub fn run(&self, patches: &[Patch], context: &Context) -> Result<()> {
        let terminal = &context.terminal;
        let statistics = self.statistics;
        let facts = match self.asks {
            true => requests(self.requests, self.patches)?,
            false => vec![],
        };
        if self.asks {
            ModelFolder::check(self.file, context)?; // what would fail later, fails now
        }
        let how = Rounding { statistics, other_base: self.other_base, raise: self.raise };
        let (written, tensors) = match self.output {
            Some(out) => {
                let inputs = self.patches.iter().map(PathBuf::as_path).chain([self.file]);
                let inputs = inputs.chain(statistics).chain(self.requests);
                check_place(out, &inputs.collect::<Vec<_>>())?;
                (out, quantised::to_file(self.file, patches, how, out, terminal)?)
            }
            None => (self.file, quantised::in_place(self.file, patches, how, terminal)?),
        };
        // The file stands there now, whatever becomes of the questions.
        let asked = match self.asks {
            true => self.ask(written, &facts, patches, context),
            false => Ok(vec![]),
        };
        if context.json {
            terminal.json(&json!({
                "written": written, "tensors": tensors, "facts": asked.as_ref().ok(),
            }))?;
            return asked.map(drop).map_err(|e| not_asked(written, e));
        }
        tensors.iter().try_for_each(|tensor| say(terminal, tensor))?;
        let facts = asked.map_err(|e| not_asked(written, e))?;
        if self.asks {
            say_facts(terminal, &facts)?;
        }
        let back = if self.output.is_none() { "; `incise undo` puts every byte back" } else { "" };
        terminal.line(format!("{}: written{back}", written.display()))
    }

    /// How the written file takes the facts.
    fn ask(
        &self,
        written: &Path,
        facts: &[Fact],
        patches: &[Patch],
        context: &Context,
    ) -> Result<Vec<WrittenFact>> {
        let noted = |name: &str, note: fn(&Value) -> bool| {
            patches.iter().any(|patch| note(&patch.metadata.notes[name]))
        };
        if noted("chat", |note| !note.is_null()) {
            let what = "facts were edited in a chat template, and are asked as plain text";
            context.terminal.warn(what);
        }
        let space = noted("space", |note| *note == false).then_some(false);
        let folder = ModelFolder::open(written, context)?;
        let editor = Editor::open_on(folder.path(), &context.device, &context.terminal)?;
        written_facts(&editor, facts, space, &context.terminal)
    }
}

/// What is said where the file was written and then not asked.
fn not_asked(written: &Path, e: Error) -> Error {
    let there = format!("{} is written, and its facts were not asked", written.display());
    match e {
        Error::Interrupted { .. } => Error::Interrupted { kept: there },
        e => Error::refused(format!("{there}: {e}"), "ask them of the file that is there"),
    }
}

fn say(terminal: &Terminal, of: &RoundedTensor) -> Result<()> {
    let RoundedTensor { name, kind, keyless, soft_keys, .. } = of;
    let key = of.worst_key.map_or("no keys".to_owned(), |worst| {
        format!("{} keep their change but for {}", counted(of.keys as u64, "key"), percent(worst))
    });
    let text = of
        .text
        .map_or(String::new(), |text| format!("text pays {text:.2} of what the edit costs it; "));
    terminal.line(format!(
        "{name} ({kind}): ‖Δ‖/‖W‖ {}, {key}; {text}{} of codes changed, {} held back",
        percent(of.change / of.weight),
        percent(of.changed),
        percent(of.saturated),
    ))?;
    if *keyless > 0 {
        terminal.warn(&format!(
            "{name}: {} without keys: rounded by the statistics alone, so facts may be lost",
            counted(*keyless as u64, "patch"),
        ));
    }
    if *soft_keys > 0 {
        terminal.warn(&format!(
            "{name}: {} of {} keys count as running text only, since more than a quarter of its \
             width cannot be spared",
            soft_keys, of.keys,
        ));
    }
    Ok(())
}

fn say_facts(terminal: &Terminal, facts: &[WrittenFact]) -> Result<()> {
    for fact in facts {
        let p = percent(fact.p_target);
        let said = match &fact.says {
            None => format!("says {:?}, P {p}", fact.target_new),
            Some(says) => format!("does not say {:?} (P {p}) but {says:?}", fact.target_new),
        };
        terminal.line(format!("  {}: {} {said}", fact.id, fact.prompt))?;
    }
    let taken = facts.iter().filter(|fact| fact.taken).count();
    terminal.line(format!("{taken} of {} taken", counted(facts.len() as u64, "fact")))
}
