//! `incise push`: a patch into a running server, and back.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::context::Context;
use super::export::rank;
use crate::base::units::percent;
use crate::base::{Error, Result};
use crate::edit::apply::PatchSide;
use crate::editor::report;
use crate::push::client::Client;
use crate::push::folders::{PushForm, PushSource};
use crate::push::questions::{self, AskedPrompt, ServerAnswer};
use crate::push::run::{Pushed, SERVERS, push};
use crate::store::Patch;

/// Which patch, which server, in which form.
#[derive(Args)]
pub struct PushCommand {
    /// The patch
    patch: PathBuf,
    /// Folder of the checkpoint the patch is for: that of the server, or a copy
    #[arg(long)]
    model: PathBuf,
    /// Folder for what the server reads; it sees it under the same path
    #[arg(long)]
    dir: PathBuf,
    /// The server, as in http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    to: String,
    /// What it is
    #[arg(long = "as", value_name = "KIND", value_parser = SERVERS.map(|server| server.name()))]
    kind: String,
    /// Change its weights [default, where the server can]
    #[arg(long, conflicts_with = "lora")]
    weights: bool,
    /// Add an adapter of this name; llama.cpp needs no name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    lora: Option<String>,
    /// What the adapter names as its base [default: the whole path of --model]
    #[arg(long, value_name = "NAME", requires = "lora")]
    base: Option<String>,
    /// The adapter's rank: 8, 16, 32, 64, 128, 256, 320 or 512 [default: the smallest that holds
    /// the patch]
    #[arg(long, value_name = "R", value_parser = rank)]
    rank: Option<usize>,
    /// Take the edit back
    #[arg(long)]
    undo: bool,
    /// Requests whose prompts are asked before and after [default: the patch's report, beside it]
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// Of them only the first so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// A header of every request, as in 'Authorization: Bearer KEY'
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// Seconds that a request may take; the pause waits for running requests
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

impl PushCommand {
    /// Tells the server, and prints what it says before and after.
    pub fn run(&self, context: &Context) -> Result<()> {
        let patch = Patch::read(&self.patch)?;
        let questions = self.questions()?;
        let server = SERVERS.into_iter().find(|server| server.name() == self.kind);
        let server = server.ok_or_else(|| Error::refused("no such server", "see --help"))?;
        let form = match (&self.lora, &self.kind[..]) {
            (Some(name), _) => PushForm::Adapter(name.clone()),
            (None, "llamacpp") if !self.weights => PushForm::Adapter(String::new()),
            (None, _) => PushForm::Weights,
        };
        if self.rank.is_some() && form == PushForm::Weights {
            let what = "a rank is of an adapter, and the weights are to be pushed";
            return Err(Error::refused(what, "add --lora NAME, or leave out --rank"));
        }
        let client = Client::new(&self.to, &self.header, Duration::from_secs(self.timeout))?;
        let side = if self.undo { PatchSide::Before } else { PatchSide::After };
        let (model, dir, base) = (&*self.model, &*self.dir, self.base.as_deref());
        let (patch, rank, device) = (&patch, self.rank, &context.device);
        let source = PushSource { model, patch, dir, base, rank, device };
        let pushed = push(server, &source, client, form, side, questions, &context.terminal)?;
        self.say(context, &pushed)
    }

    fn questions(&self) -> Result<Vec<AskedPrompt>> {
        if let Some(file) = &self.requests {
            return questions::read(file, self.limit as usize);
        }
        let file = report::path(&self.patch);
        if file.exists() {
            return questions::read(&file, self.limit as usize);
        }
        let what = "is not there, so there is nothing to ask the server";
        let remedy = "name the file of the edit's requests with --requests";
        Err(Error::input(file, "report", what, remedy))
    }

    fn say(&self, context: &Context, pushed: &Pushed) -> Result<()> {
        let hits = |i: usize| {
            let all = pushed.answers.iter();
            all.filter(|(question, answers)| answers[i].says(&question.target)).count()
        };
        let hits = [hits(0), hits(1)];
        if context.json {
            let line = |(question, [before, after]): &(AskedPrompt, [ServerAnswer; 2])| {
                json!({
                    "prompt": question.prompt, "target": question.target,
                    "before": before, "after": after,
                })
            };
            let answers: Vec<_> = pushed.answers.iter().map(line).collect();
            return context.terminal.json(&json!({
                "version": pushed.version, "undone": self.undo, "told": pushed.told,
                "hits": hits, "answers": answers,
            }));
        }
        if !pushed.told {
            let line =
                format!("{}: {} is not there: nothing to take back", self.to, pushed.version);
            return context.terminal.line(line);
        }
        for (question, answers) in &pushed.answers {
            context.terminal.line(&question.prompt)?;
            for (when, answer) in ["before", "after "].into_iter().zip(answers) {
                let hit = if answer.says(&question.target) { "+" } else { "-" };
                let p = answer.probability.map(percent).unwrap_or_default();
                context.terminal.line(format!("  {when} {hit} {p:>7} {:?}", answer.text))?;
            }
        }
        let n = pushed.answers.len();
        let done = if self.undo { "taken back" } else { "there" };
        context.terminal.line(format!(
            "{}: {} {done}; the new target {} of {n} times before, {} of {n} after",
            self.to, pushed.version, hits[0], hits[1]
        ))
    }
}
