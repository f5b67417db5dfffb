//! What an edit tells: lines and warnings for people, a JSON result, and a file with a line a fact.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Context;
use super::output::{counted, percent};
use crate::base::file::read_file;
use crate::base::{Error, Progress, Result};
use crate::data::Request;
use crate::data::conflicts::Superseded;
use crate::edit::facts::Fact;
use crate::edit::outcome::Outcome;
use crate::edit::plan::Planned;
use crate::edit::spread::Layer;
use crate::model::Model;
use crate::store::{Delta, write};

/// Facts up to which each has its lines on the terminal; more have a summary.
const SHOWN: usize = 20;
/// Failed facts named on the terminal.
const NAMED: usize = 10;

/// A planned edit, and what it was asked for.
pub struct Report<'a> {
    /// The model before it.
    pub model: &'a Model,
    /// What was planned.
    pub planned: &'a Planned,
    /// The facts, in the order of their outcomes.
    pub facts: &'a [Fact],
    /// Requests that others took the place of.
    pub superseded: &'a [Superseded],
    /// The patch.
    pub output: &'a Path,
}

/// ‖Δ‖/‖W‖ of a fact alone, or ‖δ‖/‖t₀‖ where facts were planned together.
pub fn share(o: &Outcome) -> f64 {
    let [part, whole] = o.change.unwrap_or(o.value);
    part / whole
}

/// `PATCH.report.jsonl`.
pub fn path(patch: &Path) -> PathBuf {
    write::beside(patch, ".report.jsonl")
}

/// Whether a file is a report: its first line is a request's.
pub fn is_one(path: &Path) -> bool {
    let text = read_file(path, 1 << 32).unwrap_or_default();
    let first = text.split(|&b| b == b'\n').next().unwrap_or_default();
    let line: Value = serde_json::from_slice(first).unwrap_or_default();
    line.get("probability").or(line.get("superseded_by")).is_some()
}

impl Report<'_> {
    /// Writes a line a fact, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self) -> Result<()> {
        let path = path(self.output);
        let failed = |e| Error::io(&path, "write", e);
        let mut file = write::temporary(&path)?;
        for line in self.lines() {
            writeln!(file, "{line}").map_err(failed)?;
        }
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    fn lines(&self) -> impl Iterator<Item = Value> {
        let done = self.facts.iter().zip(&self.planned.outcomes).map(|(fact, o)| {
            let Request { prompt, subject, target_new, .. } = &fact.request;
            let mut line = fact_json(o);
            line["prompt"] = json!(prompt);
            line["subject"] = json!(subject);
            line["target_new"] = json!(target_new);
            line
        });
        done.chain(self.superseded.iter().map(|s| {
            let Request { id, prompt, subject, target_new, .. } = &s.request;
            json!({
                "id": id, "prompt": prompt, "subject": subject, "target_new": target_new,
                "superseded_by": s.by, "repeats": s.repeats,
            })
        }))
    }

    /// The whole result, for machines; `more` is added to it.
    pub fn json(&self, more: Value) -> Value {
        let mut all = json!({
            "output": self.output,
            "report": path(self.output),
            "layers": self.planned.layers.iter().map(|l| self.layer_json(l)).collect::<Vec<_>>(),
            "facts": self.planned.outcomes.iter().map(fact_json).collect::<Vec<_>>(),
            "superseded": self.superseded.len(),
        });
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    }

    fn layer_json(&self, l: &Layer) -> Value {
        let rank = match &l.delta {
            Delta::LowRank { r, .. } => Some(r),
            Delta::Dense(_) => None,
        };
        json!({
            "layer": l.layer, "tensor": self.model.editable(l.layer).tensor, "rank": rank,
            "norm": l.norm, "weight": l.weight, "ridge": l.ridge,
        })
    }

    /// Warnings: layers that changed too much, facts that did not take.
    pub fn warn(&self, progress: &dyn Progress) {
        for l in &self.planned.layers {
            if l.norm > l.weight {
                progress.warn(&format!(
                    "the change of layer {} is {:.1} times as large as the matrix itself (norm \
                     {:.3e}), and the model will suffer: the layer's keys are nearly silent, or \
                     the facts too many for it; edit another layer or more of them",
                    l.layer,
                    l.norm / l.weight,
                    l.norm,
                ));
            }
        }
        let pairs = || self.facts.iter().zip(&self.planned.outcomes);
        let name = |f: &Fact| format!("{} ({})", f.request.id, f.request.subject);
        let failed: Vec<_> = pairs().filter_map(|(f, o)| Some((name(f), o.failed()?))).collect();
        if failed.len() > NAMED {
            progress.warn(&format!(
                "{} of {} did not take; the report says of each why, and here are {NAMED}",
                failed.len(),
                counted(self.facts.len() as u64, "fact"),
            ));
        }
        for (name, why) in failed.iter().take(NAMED) {
            progress.warn(&format!("{name}: {why}"));
        }
        let merged: Vec<_> = pairs().filter(|(_, o)| o.merged > 0).map(|(f, _)| name(f)).collect();
        if let Some(first) = merged.first() {
            progress.warn(&format!(
                "{}, {first} first: in some rows tokens merge over the seam of prompt and target, \
                 so the search trains on other tokens than the target's own; end the prompt at a \
                 word's end",
                counted(merged.len() as u64, "fact"),
            ));
        }
    }

    /// Lines for people: facts, or how they did on the whole, then layers.
    ///
    /// # Errors
    ///
    /// Nobody reads.
    pub fn tell(&self, context: &Context, seconds: f64) -> Result<()> {
        let terminal = &context.terminal;
        if self.facts.len() <= SHOWN {
            for (fact, o) in self.facts.iter().zip(&self.planned.outcomes) {
                terminal.line(fact_line(&fact.request, o))?;
            }
        } else {
            terminal.line(self.summary())?;
        }
        for s in self.superseded.iter().take(SHOWN) {
            let how = if s.repeats { "repeats" } else { "gives way to" };
            terminal.line(format!("{}: {how} {}", s.request.id, s.by))?;
        }
        if self.superseded.len() > SHOWN {
            let more = (self.superseded.len() - SHOWN) as u64;
            terminal.line(format!("… and {} more, see the report", counted(more, "request")))?;
        }
        for l in &self.planned.layers {
            let tensor = &self.model.editable(l.layer).tensor;
            let rank = match &l.delta {
                Delta::LowRank { r, .. } => format!("rank {r}"),
                Delta::Dense(_) => "dense".to_owned(),
            };
            terminal.line(format!(
                "layer {} ({tensor}): ‖Δ‖ {:.3e}, {} of ‖W‖, {rank}",
                l.layer,
                l.norm,
                percent(l.norm / l.weight)
            ))?;
        }
        let facts = counted(self.facts.len() as u64, "fact");
        terminal.line(format!("{}: {facts} in {seconds:.1} s", self.output.display()))
    }

    fn summary(&self) -> String {
        let outcomes = &self.planned.outcomes;
        let n = outcomes.len() as f64;
        let mean = |of: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / n;
        let took = outcomes.iter().filter(|o| o.failed().is_none()).count();
        format!(
            "{took} of {} took; mean P {} → {}; {:.1} steps a fact, mean loss {:.2} → {:.2}",
            counted(outcomes.len() as u64, "fact"),
            percent(mean(&|o| o.probability[0])),
            percent(mean(&|o| o.probability[1])),
            mean(&|o| o.trace.len() as f64),
            mean(&|o| o.trace.first().map_or(0.0, |s| s.total())),
            mean(&|o| o.trace.last().map_or(0.0, |s| s.total())),
        )
    }
}

/// Two lines for people.
fn fact_line(request: &Request, o: &Outcome) -> String {
    let (token, at, of) = &o.token;
    let (first, last) = (o.trace[0].total(), o.trace[o.trace.len() - 1].total());
    let what = if o.change.is_some() { "‖Δ‖/‖W‖" } else { "‖δ‖/‖t₀‖" };
    format!(
        "{}: {} → {}\n  token {at} of {of} {token:?}; {} steps, loss {first:.2} → {last:.2}; \
         P {} → {}; {what} {}",
        o.id,
        request.prompt.replace("{}", &request.subject),
        request.target_new.trim(),
        o.trace.len(),
        percent(o.probability[0]),
        percent(o.probability[1]),
        percent(share(o)),
    )
}

fn fact_json(o: &Outcome) -> Value {
    let trace: Vec<_> = o
        .trace
        .iter()
        .map(|s| json!({"total": s.total(), "nll": s.nll, "kl": s.kl, "decay": s.weight_decay}))
        .collect();
    let mut json = json!({
        "id": o.id, "token": o.token.0, "lookup": o.token.1, "steps": o.trace.len(),
        "loss": o.trace.last().map(|s| s.total()), "trace": trace, "probability": o.probability,
        "value_change": o.value[0], "value": o.value[1], "merged": o.merged,
        "left_out": o.left_out, "failed": o.failed(),
    });
    if let Some([norm, weight]) = o.change {
        json["norm"] = json!(norm);
        json["weight"] = json!(weight);
    }
    json
}
