//! `incise neurons MODEL --prompt P`: which neurons of the MLPs an answer rests on.

use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use crate::base::Result;
use crate::edit::attribution::{IntegratedGradients, NeuronSite};
use crate::editor::Editor;
use crate::editor::neurons::NeuronQuestion;

/// What to look for, and how.
#[derive(Args)]
pub struct Neurons {
    /// Folder of the checkpoint
    model: PathBuf,
    /// A text to go on from; of several, one question in different words, what they share is found
    #[arg(long, required = true)]
    prompt: Vec<String>,
    /// What follows [default: the token that the model says after the first prompt]
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
    /// Points between no activation and all of it at which gradients are taken
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// The share of the most that rests on a neuron, above which others are shown too
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    threshold: f64,
    /// The share of prompts of which a neuron has to be in more
    #[arg(long, value_name = "SHARE", default_value_t = 0.4)]
    share: f64,
    /// What a neuron's activation is: what the down projection reads, or what comes before the
    /// activation (of gated MLPs the gate's)
    #[arg(long, value_parser = NeuronSite::NAMED.map(|(name, _)| name), default_value = "key")]
    site: String,
}

impl Neurons {
    /// Finds and prints them.
    pub fn run(&self, context: &Context) -> Result<()> {
        let editor = Editor::open_on(&self.model, &context.device, &context.terminal)?
            .progress(context.terminal.clone());
        let named = |(name, _): &(&str, NeuronSite)| *name == self.site;
        let site = NeuronSite::NAMED.into_iter().find(named).expect("one of the names").1;
        let found = editor.neurons(&NeuronQuestion {
            prompts: self.prompt.clone(),
            answer: self.answer.clone(),
            ways: IntegratedGradients { steps: self.steps.into(), site },
            threshold: self.threshold,
            share: self.share,
        })?;
        if context.json {
            return context.terminal.json(&found.json());
        }
        found.lines().iter().try_for_each(|line| context.terminal.line(line))
    }
}
