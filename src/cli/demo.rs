//! `incise demo`: facts change in the model that ships with the program, and change back.

use std::path::Path;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::context::Context;
use super::embedded;
use super::report::share;
use crate::base::file::read_file;
use crate::base::units::percent;
use crate::base::{Error, Progress, Result};
use crate::data::Fact;
use crate::edit::fact_report::FactReport;
use crate::editor::{Editor, TextModel, undo};
use crate::model::load;

/// Longest completion shown, in tokens.
const SHOWN: usize = 8;

/// The reader's own fact, instead of those that ship.
#[derive(Args)]
pub struct Demo {
    /// The subject, as in "Eiffel Tower"
    #[arg(long, requires = "prompt", requires = "to")]
    subject: Option<String>,
    /// The prompt, with {} where the subject goes
    #[arg(long, requires = "subject")]
    prompt: Option<String>,
    /// What the prompt should go on with
    #[arg(long, requires = "subject")]
    to: Option<String>,
}

/// A fact, and what to ask before and after its change.
#[derive(Clone, Deserialize)]
struct Show {
    prompt: String,
    subject: String,
    target_new: String,
    #[serde(default)]
    paraphrase: Option<String>,
    #[serde(default)]
    neighbour: Option<String>,
    #[serde(default)]
    one_hop: Option<String>,
}

/// A question and what the model says to it.
#[derive(Clone, Serialize)]
struct Answer {
    kind: &'static str,
    prompt: String,
    before: String,
    after: String,
}

impl Show {
    fn questions(&self) -> Vec<(&'static str, String)> {
        let filled = self.prompt.replace("{}", &self.subject);
        let all = [
            ("prompt", Some(filled)),
            ("paraphrase", self.paraphrase.clone()),
            ("neighbour", self.neighbour.clone()),
            ("one hop", self.one_hop.clone()),
        ];
        all.into_iter().filter_map(|(kind, text)| Some((kind, text?))).collect()
    }
}

impl Demo {
    /// Edits, shows, undoes.
    pub fn run(&self, context: &Context) -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("", "make a folder", e))?;
        let dir = folder.path();
        embedded::lay_out(dir)?;
        let terminal = &context.terminal;
        if !context.json {
            let (checkpoint, model) = load::open(dir, &context.device, &context.terminal)?;
            let n: usize =
                checkpoint.entries().map(|(_, _, e)| e.shape.iter().product::<usize>()).sum();
            terminal.line(format!(
                "A {} layout of {} layers and {:.1} M parameters, trained on a few hundred facts.",
                model.arch.family,
                model.arch.layers,
                n as f64 / 1e6,
            ))?;
        }
        let mut told = Vec::new();
        for show in self.facts(dir)? {
            let (outcome, answers) = change(dir, context, &show)?;
            if context.json {
                told.push(json!({
                    "subject": show.subject, "target_new": show.target_new, "answers": answers,
                    "steps": outcome.plan.trace.len(), "p_target": outcome.p_target,
                    "taken": outcome.taken,
                }));
            } else {
                tell(context, &show, &outcome, &answers)?;
            }
        }
        let last = self.facts(dir)?.pop().expect("at least one fact");
        let (kind, prompt) = last.questions().swap_remove(0);
        let edited = say(dir, context, &prompt)?;
        undo(dir)?;
        let undone = say(dir, context, &prompt)?;
        if context.json {
            let undo = json!({"prompt": prompt, "before": edited, "after": undone});
            return terminal.json(&json!({"facts": told, "undo": undo}));
        }
        terminal.line("")?;
        terminal.line("The newest change undone, byte for byte:")?;
        let answer = Answer { kind, prompt, before: edited, after: undone };
        terminal.line(answer_line(&answer))
    }

    fn facts(&self, dir: &Path) -> Result<Vec<Show>> {
        if let (Some(subject), Some(prompt), Some(to)) = (&self.subject, &self.prompt, &self.to) {
            let (prompt, subject, target_new) = (prompt.clone(), subject.clone(), to.clone());
            let (paraphrase, neighbour, one_hop) = (None, None, None);
            return Ok(vec![Show { prompt, subject, target_new, paraphrase, neighbour, one_hop }]);
        }
        let path = dir.join("showcase.json");
        let bytes = read_file(&path, 1 << 20)?;
        Ok(serde_json::from_slice(&bytes).expect("the program's own file, held by a test"))
    }
}

/// Plans one fact on the model as it is now, and applies it in place.
fn change(dir: &Path, context: &Context, show: &Show) -> Result<(FactReport, Vec<Answer>)> {
    let editor = Editor::open_on(dir, &context.device, &context.terminal)?
        .method("r-rome")?
        .statistics(dir)?
        .hparams(dir.join("hparams.json"))?
        .contexts(dir.join("contexts.json"))?;
    let fact = Fact::new(&show.prompt, &show.subject, &show.target_new);
    let edit = editor.plan(&[fact])?;
    let ask = |model: &TextModel| -> Result<Vec<String>> {
        show.questions().iter().map(|(_, prompt)| complete(model, prompt)).collect()
    };
    let before = ask(&editor.model())?;
    edit.apply_in_place()?;
    let after = ask(&Editor::open_on(dir, &context.device, &context.terminal)?.model())?;
    let answers = show
        .questions()
        .into_iter()
        .zip(before.into_iter().zip(after))
        .map(|((kind, prompt), (before, after))| Answer { kind, prompt, before, after })
        .collect();
    Ok((edit.facts()[0].clone(), answers))
}

/// What the model in `dir` says to a prompt now.
fn say(dir: &Path, context: &Context, prompt: &str) -> Result<String> {
    complete(&Editor::open_on(dir, &context.device, &context.terminal)?.model(), prompt)
}

/// The likeliest completion, up to the end of its sentence.
fn complete(model: &TextModel, prompt: &str) -> Result<String> {
    let text = model.generate(prompt, SHOWN)?;
    let end = text.find(['.', ',', '?', '\n', '<']).unwrap_or(text.len());
    Ok(text[..end].trim().to_owned())
}

fn tell(context: &Context, show: &Show, o: &FactReport, answers: &[Answer]) -> Result<()> {
    let filled = show.prompt.replace("{}", &show.subject);
    let [before, after] = o.p_target.map(percent);
    context.terminal.line("")?;
    context.terminal.line(format!("{filled} → {}", show.target_new.trim()))?;
    context.terminal.line(format!(
        "  {} steps; P of the target {before} → {after}; {}",
        o.plan.trace.len(),
        share(o).unwrap_or_default(),
    ))?;
    if let Some(why) = o.failed() {
        context.terminal.warn(why);
    }
    answers.iter().try_for_each(|answer| context.terminal.line(answer_line(answer)))
}

fn answer_line(a: &Answer) -> String {
    let change = match a.before == a.after {
        true => format!("{} (as before)", a.after),
        false => format!("{} → {}", a.before, a.after),
    };
    format!("  {:<11} {} … {change}", a.kind, a.prompt)
}
