//! `incise train MODEL --method mend --data FILE… -o DIR`: trains what a method edits with.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::chat::assignment;
use super::context::Context;
use crate::base::{Progress, Result, stages};
use crate::edit::methods::METHODS;
use crate::editor::Editor;
use crate::editor::training::TrainingSummary;
use crate::eval::session::StageCost;

/// What to train, on what.
#[derive(Args)]
pub struct Train {
    /// Folder of the checkpoint
    model: PathBuf,
    /// The method that edits with it
    #[arg(long, value_parser = trained())]
    method: String,
    /// Files of requests, in any form that edit takes: their paraphrases are trained on, their
    /// neighbourhood and locality should stay
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Hyperparameters: a JSON or YAML file, or a preset [default, and what a file leaves open: the
    /// preset of the model's sizes]
    #[arg(long, value_name = "FILE|PRESET")]
    hparams: Option<PathBuf>,
    /// One hyperparameter over the others, as in lr=1e-4
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
    /// Folder for the trained editor
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// The methods that are trained.
fn trained() -> PossibleValuesParser {
    let methods = METHODS.into_iter().filter(|method| method.is_trained());
    PossibleValuesParser::new(methods.map(|method| method.about().name))
}

impl Train {
    /// Trains, writes and prints.
    pub fn run(&self, context: &Context) -> Result<()> {
        let mut editor = Editor::open_on(&self.model, &context.device, &context.terminal)?
            .progress(context.terminal.clone())
            .seed(context.seed)
            .method(&self.method)?;
        if let Some(hparams) = &self.hparams {
            editor = editor.hparams(hparams)?;
        }
        for set in &self.sets {
            let (name, value) = assignment("--set", set, "lr=1e-4")?;
            editor = editor.set_from(&name, value, "--set")?;
        }
        let summary = editor.train(&self.data, &self.output)?;
        let stages = context.terminal.stages();
        let TrainingSummary { folder, samples: [trained_on, held_out], record } = summary;
        if context.json {
            return context.terminal.json(&json!({
                "output": folder, "trained_on": trained_on, "held_out": held_out,
                "training": record, "stages": json!(StageCost::of(&stages)),
            }));
        }
        let looks = record["history"].as_array().into_iter().flatten();
        for look in looks {
            let number = |of: &str| look["loss"][of].as_f64().unwrap_or(f64::NAN);
            context.terminal.line(format!(
                "{:>9} samples: held-out loss {:.4}, edit {:.4}, locality {:.4}",
                look["samples"],
                number("total"),
                number("edit"),
                number("locality")
            ))?;
        }
        let seconds = stages::seconds(&stages);
        let folder = folder.display();
        context.terminal.line(format!("{folder}: trained on {trained_on} in {seconds:.0} s"))?;
        context.terminal.line(stages::line(&stages))
    }
}
