//! The demo's scores and the table README shows of them; shared by the tool that measures and the
//! test that compares.

use serde::{Deserialize, Serialize};

/// Successes in percent.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub rewrite: f64,
    pub paraphrase: f64,
    pub neighbour: f64,
}

/// What `demo/scores.json` holds.
#[derive(Serialize, Deserialize)]
pub struct Scores {
    pub edits: usize,
    pub layer: usize,
    pub clamp: f64,
    pub before: Row,
    pub after: Row,
}

/// The table.
pub fn markdown(s: &Scores) -> String {
    let row = |name: &str, r: &Row| {
        format!("| {name} | {:.1} % | {:.1} % | {:.1} % |\n", r.rewrite, r.paraphrase, r.neighbour)
    };
    format!(
        "| {} single R-ROME edits, layer {}, clamp {} | rewrite | paraphrase | neighbour |\n\
         | --- | --- | --- | --- |\n{}{}",
        s.edits,
        s.layer,
        s.clamp,
        row("before", &s.before),
        row("after", &s.after),
    )
}
