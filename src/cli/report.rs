//! What an edit prints: lines and warnings for people, or a JSON result.

use std::path::Path;

use serde_json::json;

use super::context::Context;
use crate::base::units::{counted, percent};
use crate::base::{Progress, Result, stages};
use crate::data::Fact;
use crate::edit::fact_report::FactReport;
use crate::edit::search::LossStep;
use crate::editor::report::{fact_json, path};
use crate::editor::{Artifact, Edit};
use crate::eval::session::StageCost;
use crate::store::Delta;

/// Facts up to which each has its lines on the terminal; more have a summary.
const SHOWN: usize = 20;

/// `‖Δ‖/‖W‖` of a fact alone, or `‖δ‖/‖t₀‖` where facts were planned together; nothing where
/// neither is a fact's.
pub fn share(o: &FactReport) -> Option<String> {
    let (what, [part, whole]) = match (o.plan.change, o.plan.value) {
        (Some(change), _) => ("‖Δ‖/‖W‖", change),
        (None, value) => ("‖δ‖/‖t₀‖", value?),
    };
    Some(format!("{what} {}", percent(part / whole)))
}

/// Prints warnings and the result of an edit that was written to `output`.
pub fn print(context: &Context, edit: &Edit, output: &Path) -> Result<()> {
    let stages = context.terminal.stages();
    let seconds = stages::seconds(&stages);
    edit.warn(&context.terminal);
    if context.json {
        let mut json = edit.summary();
        json["output"] = json!(output);
        json["report"] = json!(path(output));
        json["facts"] = edit.facts().iter().map(fact_json).collect();
        json["seconds"] = json!(seconds);
        json["stages"] = json!(StageCost::of(&stages));
        return context.terminal.json(&json);
    }
    print_lines(context, edit, output, seconds)?;
    context.terminal.line(stages::line(&stages))
}

/// Lines for people: facts, or how they did on the whole, then layers.
fn print_lines(context: &Context, edit: &Edit, output: &Path, seconds: f64) -> Result<()> {
    let terminal = &context.terminal;
    if edit.facts().len() <= SHOWN {
        for (request, o) in edit.requests().iter().zip(edit.facts()) {
            fact_lines(request, o).iter().try_for_each(|line| terminal.line(line))?;
        }
    } else {
        terminal.line(summary(edit.facts()))?;
    }
    for s in edit.superseded().iter().take(SHOWN) {
        let how = if s.repeats { "repeats" } else { "gives way to" };
        terminal.line(format!("{}: {how} {}", s.request.id, s.by))?;
    }
    if edit.superseded().len() > SHOWN {
        let more = (edit.superseded().len() - SHOWN) as u64;
        terminal.line(format!("… and {} more, see the report", counted(more, "request")))?;
    }
    for c in edit.changes() {
        let rank = match &c.delta {
            Delta::LowRank { r, .. } => format!("rank {r}"),
            Delta::Dense(_) => "dense".to_owned(),
        };
        let s = c.s.map_or(String::new(), |s| format!(", s from {s:.2}"));
        let reach = edit.reach().map_or(String::new(), |reach| {
            format!(", adds at most {} of the stream", percent(reach[c.id.layer]))
        });
        terminal.line(format!(
            "{} ({}): ‖Δ‖ {:.3e}, {} of ‖W‖, {rank}{s}{reach}",
            c.id,
            edit.tensor(c.id),
            c.norm,
            percent(c.norm / c.weight)
        ))?;
    }
    let (facts, output) = (counted(edit.facts().len() as u64, "fact"), output.display());
    if let Artifact::Memory(memory) = edit.artifact() {
        let entries = memory.entries();
        let noun = if entries == 1 { "entry" } else { "entries" };
        terminal.line(format!(
            "{}: {entries} {noun} beside the weights, which stay as they are; attach them with \
             `incise generate MODEL --with {output}`",
            memory.place()
        ))?;
    }
    terminal.line(format!("{output}: {facts} in {seconds:.1} s"))
}

fn summary(facts: &[FactReport]) -> String {
    let n = facts.len() as f64;
    let mean = |of: &dyn Fn(&FactReport) -> f64| facts.iter().map(of).sum::<f64>() / n;
    let took = facts.iter().filter(|o| o.taken).count();
    let search = if facts.iter().all(|o| o.plan.trace.is_empty()) {
        String::new()
    } else {
        format!(
            "; {:.1} steps a fact, mean loss {:.2} → {:.2}",
            mean(&|o| o.plan.trace.len() as f64),
            mean(&|o| o.plan.trace.first().map_or(0.0, |s| s.total())),
            mean(&|o| o.plan.trace.last().map_or(0.0, |s| s.total())),
        )
    };
    format!(
        "{took} of {} taken; mean P of the target {} → {}{search}",
        counted(facts.len() as u64, "fact"),
        percent(mean(&|o| o.p_target[0])),
        percent(mean(&|o| o.p_target[1])),
    )
}

/// What a fact did, in two lines for people.
fn fact_lines(request: &Fact, o: &FactReport) -> [String; 2] {
    let (token, at, of) = &o.token;
    let share = share(o).map_or(String::new(), |share| format!("; {share}"));
    let fact = request.prompt.replace("{}", &request.subject);
    let taken = if o.taken { "taken" } else { "not taken" };
    let trace = &o.plan.trace;
    let search = trace.first().zip(trace.last()).map(|ends| {
        let [from, to] = <[_; 2]>::from(ends).map(LossStep::total);
        format!("; {} steps, loss {from:.2} → {to:.2}", trace.len())
    });
    let neurons = o.plan.neurons.map(|n| format!("; {}", counted(n as u64, "neuron")));
    let work = neurons.or(search).unwrap_or_default();
    [
        format!("{}: {fact} → {}", o.id, request.target_new.trim()),
        format!(
            "  {taken}; P of the target {} → {}; token {at} of {of} {token:?}, then \
             {:?}{work}{share}",
            percent(o.p_target[0]),
            percent(o.p_target[1]),
            o.target_token,
        ),
    ]
}
