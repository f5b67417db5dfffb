//! `incise compare RUN RUN… [-o DIR]`: several evaluations side by side.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use crate::base::file::make_folder;
use crate::base::{Result, Stage, escape};
use crate::eval::compare::{ComparedMetric, Comparison};
use crate::eval::report;
use crate::store::write::whole;

/// Which runs, and where the table is written.
#[derive(Args)]
pub struct Compare {
    /// Folders of `incise eval`; the others are compared with the first
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    runs: Vec<PathBuf>,
    /// Write compare.json and compare.html into this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Compare {
    /// Compares, prints and writes.
    pub fn run(&self, context: &Context) -> Result<()> {
        let comparison = Comparison::read(&self.runs, context.seed)?;
        if let Some(dir) = &self.output {
            context.terminal.enter(Stage::WriteResults);
            make_folder(dir)?;
            let text = escape::pretty_json(&json!(comparison));
            whole(&dir.join("compare.json"), text.as_bytes())?;
            whole(&dir.join("compare.html"), report::comparison(&comparison)?.as_bytes())?;
        }
        match context.json {
            true => context.terminal.json(&json!(comparison)),
            false => self.print(context, &comparison),
        }
    }

    fn print(&self, context: &Context, comparison: &Comparison) -> Result<()> {
        let terminal = &context.terminal;
        terminal.line(format!("{} cases that all runs measured", comparison.cases))?;
        for metric in &comparison.metrics {
            terminal.line(format!("{}  n {}", metric.metric, metric.n))?;
            lines(comparison, metric).iter().try_for_each(|line| terminal.line(line))?;
        }
        for range in &comparison.orders {
            terminal.line(format!("orders of edits: {}", range.runs.join(", ")))?;
            for (name, [mean, low, high]) in &range.metrics {
                terminal.line(format!("  {name:44} {mean:7.2}  {low:6.2} to {high:6.2}"))?;
            }
        }
        if !comparison.left_out.is_empty() {
            terminal.line(format!("not in all runs: {}", comparison.left_out.join(", ")))?;
        }
        match &self.output {
            Some(dir) => terminal.line(dir.display().to_string()),
            None => Ok(()),
        }
    }
}

/// A line a run.
fn lines(comparison: &Comparison, metric: &ComparedMetric) -> Vec<String> {
    let width = comparison.runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0);
    let rows = comparison.runs.iter().zip(&metric.runs);
    rows.map(|(run, value)| {
        let own = format!("{:7.2} [{:6.2}, {:6.2}]", value.mean, value.low, value.high);
        let difference = value.difference.map_or(String::new(), |[mean, low, high]| {
            format!("  difference {mean:+7.2} [{low:+6.2}, {high:+6.2}]")
        });
        let p = value.p.zip(value.p_holm);
        let p = p.map(|p| [p.0, p.1].map(report::p_value));
        let p = p.map_or(String::new(), |[p, holm]| format!("  p {p}, Holm {holm}"));
        format!("  {:width$}  {own}{difference}{p}", run.name)
    })
    .collect()
}
