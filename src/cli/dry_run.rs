//! `incise edit --dry-run`: what would be done, and what it would take.
//!
//! With `--json` an object, whose keys docs/many-facts.md lists.

use serde_json::json;

use super::context::Context;
use crate::base::Result;
use crate::base::units::{count, counted, metric};
use crate::editor::Prepared;

/// Prints what an edit would take.
pub fn print(context: &Context, prepared: &Prepared) -> Result<()> {
    let cost = prepared.cost()?;
    let facts = prepared.own_facts();
    let tokens: usize = facts.iter().flat_map(|f| &f.rows.rewriting).map(|r| r.ids.len()).sum();
    let (layers, search_layer, room) =
        (prepared.layers(), prepared.search_layer(), prepared.memory());
    let system = cost.system.map(|route| route.words());
    if context.json {
        let [hyperparameters, _] = prepared.hyperparameters();
        return context.terminal.json(&json!({
            "dry_run": true, "facts": facts.len(), "tokens": tokens,
            "superseded": prepared.superseded().len(), "skipped": prepared.skipped().len(),
            "hyperparameters": hyperparameters,
            "layers": layers, "search_layer": search_layer,
            "bytes_a_fact": cost.bytes_a_fact, "fixed_bytes": cost.fixed_bytes,
            "room_bytes": room, "at_a_time": cost.at_a_time,
            "system": system, "solve_bytes": cost.solve_bytes, "flop": cost.flop,
            "matrix_bytes": cost.training.map(|t| t.matrices),
            "stream_bytes": cost.training.map(|t| if t.keeps { t.stream } else { 0 }),
        }));
    }
    let line = |what: &str, text: String| context.terminal.line(format!("{what:<9} {text}"));
    let bytes = |n: u64| format!("{}B", metric(n as f64));
    let all = counted(prepared.facts().len() as u64, "fact");
    let of = prepared.share().map_or(String::new(), |share| format!(", shard {share} of {all}"));
    let n = counted(facts.len() as u64, "fact");
    let tokens = count(tokens as u64);
    context.terminal.line(format!("dry run: {n}{of}, {tokens} tokens in all rows"))?;
    let shown: Vec<String> = layers.iter().map(usize::to_string).collect();
    let searched = search_layer.map(|l| format!("; values are searched at {l}"));
    line("layers", shown.join(", ") + &searched.unwrap_or_default())?;
    if let Some(training) = &cost.training {
        let all = bytes(cost.fixed_bytes);
        line("matrices", format!("{} of that which is for all", bytes(training.matrices)))?;
        let (kept, stream) = match training.keeps {
            true => ("once, and kept", bytes(training.stream)),
            false => ("in every epoch, for want of room", "nothing".to_owned()),
        };
        line("below", format!("is run {kept}: {stream} of {all} for all"))?;
    }
    line(
        if cost.training.is_some() { "training" } else { "searches" },
        format!(
            "{} at a time: {} for each and {} for all, of {} that may be taken",
            counted(cost.at_a_time, "fact"),
            bytes(cost.bytes_a_fact),
            bytes(cost.fixed_bytes),
            bytes(room),
        ),
    )?;
    match system {
        Some(size) => {
            let most = bytes(cost.solve_bytes);
            line("solves", format!("{size} a layer (F neurons, n facts), up to {most}"))?;
        }
        None if cost.solve_bytes > 0 => {
            line("solves", format!("with C, which takes {}", bytes(cost.solve_bytes)))?;
        }
        None => {}
    }
    line("work", format!("{}FLOP", metric(cost.flop)))
}
