//! docs/trained-editors.md: trained editors beside one step of fine-tuning that keeps as many
//! neighbours, which `tools/against_one_step` measured.

use std::fs;

use serde_json::Value;

use super::hold;
use crate::support::root;

/// A row an editor: of ES and PS its own, then that of one step.
fn one_step() -> String {
    let path = root().join("benches/results/one-step-factlm-gpt2.json");
    let told: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut table = "| method | samples | NS | ES | of one step | PS | of one step |\n".to_owned();
    table += &format!("|{}\n", " --- |".repeat(7));
    for row in told["editors"].as_array().unwrap() {
        let number = |value: &Value| format!("{:.1}", value.as_f64().unwrap());
        let both = |metric: &str| [number(&row[metric][0]), number(&row["one_step"][metric])];
        let cells = [vec![number(&row["ns"][0])], both("es").into(), both("ps").into()].concat();
        table += &format!(
            "| {} | {} | {} |\n",
            row["method"].as_str().unwrap(),
            row["hyperparameters"]["max_iters"],
            cells.join(" | ")
        );
    }
    table
}

#[test]
fn the_page_of_trained_editors_says_what_one_step_does() {
    hold("trained-editors.md", "one step", &one_step());
}
