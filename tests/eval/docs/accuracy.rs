//! docs/accuracy.md: how well edits hold, by method and mode.

use serde_json::Value;

use super::{hold, measured};

pub(super) const MODELS: [&str; 3] = ["smollm2", "factlm-gpt2", "gemma3-270m"];

/// What a column shows: its title, the metric, and digits.
const COLUMNS: [(&str, &str); 5] = [
    ("ES", "counterfact.es"),
    ("PS", "counterfact.ps"),
    ("NS", "counterfact.ns"),
    ("score", "counterfact.score"),
    ("arg-max moved", "drift.argmax"),
];

/// Rows by method and mode; none where nothing was measured yet.
fn accuracy(model: &str) -> String {
    let Some(all) = measured(model) else { return "Not measured yet.\n".to_owned() };
    let titles: Vec<&str> = COLUMNS.iter().map(|&(title, _)| title).collect();
    let mut table = format!(
        "| method | mode | facts | taken | {} | entropy | s a fact |\n|{}\n",
        titles.join(" | "),
        " --- |".repeat(COLUMNS.len() + 6)
    );
    let cells = all["cells"].as_object().unwrap();
    let of_words = |method: &str| {
        &cells.get(&format!("{method} words")).unwrap_or(&Value::Null)["metrics"]["fluency.entropy"]
    };
    let order = all["order"].as_array().unwrap().iter().filter_map(Value::as_str);
    for name in order.filter(|name| cells.contains_key(*name)) {
        let (method, mode) = name.split_once(' ').unwrap();
        if ["words", "follows", "zsre", "cost"].contains(&mode) {
            continue; // docs/survey.md has these
        }
        let cell = &cells[name];
        let number = |metric: &Value| match metric["mean"].as_f64() {
            Some(mean) => {
                let [low, high] = ["low", "high"].map(|end| metric[end].as_f64().unwrap());
                format!("{mean:.1} [{low:.1}, {high:.1}]")
            }
            None => "–".to_owned(),
        };
        let shown: Vec<String> =
            COLUMNS.iter().map(|&(_, metric)| number(&cell["metrics"][metric])).collect();
        let entropy = match mode {
            "single" => number(of_words(method)),
            _ => "–".to_owned(),
        };
        let facts = cell["facts"].as_f64().unwrap();
        // None where the machine did other work meanwhile.
        let each = |cell: &Value| Some(cell["seconds"].as_f64()? / cell["facts"].as_f64()?);
        let alone = cells.get(&format!("{method} cost")).filter(|_| mode == "single");
        let seconds = each(cell).or(alone.and_then(each)).map(|seconds| format!("{seconds:.2}"));
        let seconds = seconds.unwrap_or("–".to_owned());
        table += &format!(
            "| {method} | {mode} | {facts} | {} | {} | {entropy} | {seconds} |\n",
            cell["taken"],
            shown.join(" | ")
        );
    }
    let first = cells.values().find(|cell| cell["metrics"]["counterfact.es"].is_object());
    let before: Vec<String> = COLUMNS
        .iter()
        .map(|&(_, metric)| {
            let before = first.and_then(|cell| cell["metrics"][metric]["before"].as_f64());
            before.map_or("–".to_owned(), |before| format!("{before:.1}"))
        })
        .collect();
    table + &format!("| unedited | | | | {} | – | – |\n", before.join(" | "))
}

#[test]
fn the_page_of_accuracy_is_what_was_measured() {
    for model in MODELS {
        hold("accuracy.md", model, &accuracy(model));
    }
}
