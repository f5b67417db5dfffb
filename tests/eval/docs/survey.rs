//! docs/survey.md: the survey's comparison, by what tools/accuracy measured of one fact alone.

use serde_json::Value;

use super::{hold, measured};

/// A column: its title, the mode that measures it, and the metric.
const COLUMNS: [(&str, &str, &str); 12] = [
    ("reliability", "follows", "easyedit.token_accuracy.rewrite"),
    ("generalization", "follows", "easyedit.token_accuracy.rephrase"),
    ("neighbours", "follows", "easyedit.token_agreement.locality.neighbourhood"),
    ("other attribution", "follows", "easyedit.token_agreement.locality.other_attribution"),
    ("distracting", "follows", "easyedit.token_agreement.locality.distracting_neighbour"),
    ("subject replaced", "follows", "easyedit.token_accuracy.portability.subject_replace"),
    ("one hop", "follows", "easyedit.token_accuracy.portability.one_hop"),
    ("zsRE reliability", "zsre", "easyedit.token_accuracy.rewrite"),
    ("zsRE generalization", "zsre", "easyedit.token_accuracy.rephrase"),
    ("zsRE locality", "zsre", "easyedit.token_agreement.locality.unrelated"),
    ("inverse", "zsre", "easyedit.token_accuracy.portability.inverse_relation"),
    ("entropy", "words", "fluency.entropy"),
];

/// A row a method, of the cells there are.
fn survey(model: &str) -> String {
    let Some(all) = measured(model) else { return "Not measured yet.\n".to_owned() };
    let titles: Vec<&str> = COLUMNS.iter().map(|&(title, ..)| title).collect();
    let mut table = format!(
        "| method | {} | s a fact | s before | MB |\n|{}\n",
        titles.join(" | "),
        " --- |".repeat(COLUMNS.len() + 4)
    );
    let cells = all["cells"].as_object().unwrap();
    let mut methods = vec![];
    for name in all["order"].as_array().unwrap().iter().filter_map(Value::as_str) {
        let (method, _) = name.split_once(' ').unwrap();
        if name.ends_with(" follows") && cells.contains_key(name) {
            methods.push(method);
        }
    }
    let cell = |method: &str, mode: &str| cells.get(&format!("{method} {mode}"));
    let shown = |number: Option<f64>| number.map_or("–".to_owned(), |x| format!("{x:.1}"));
    for method in methods {
        let numbers = COLUMNS.iter().map(|&(_, mode, metric)| {
            shown(cell(method, mode).and_then(|cell| cell["metrics"][metric]["mean"].as_f64()))
        });
        let costs = cell(method, "cost").unwrap_or(&Value::Null);
        let seconds = costs["seconds"].as_f64().zip(costs["facts"].as_f64());
        let seconds =
            seconds.map_or("–".to_owned(), |(all, facts)| format!("{:.2}", all / facts));
        table += &format!(
            "| {method} | {} | {seconds} | {} | {} |\n",
            numbers.collect::<Vec<_>>().join(" | "),
            shown(costs["seconds_before"].as_f64()),
            shown(costs["peak_bytes"].as_f64().map(|bytes| bytes / 1e6)),
        );
    }
    let before = COLUMNS.iter().map(|&(_, mode, metric)| {
        let own = cells.iter().filter(|(name, _)| name.ends_with(mode));
        let mut found = own.filter_map(|(_, cell)| cell["metrics"][metric]["before"].as_f64());
        shown(found.next())
    });
    table + &format!("| unedited | {} | – | – | – |\n", before.collect::<Vec<_>>().join(" | "))
}

#[test]
fn the_page_of_the_survey_is_what_was_measured() {
    hold("survey.md", "factlm-gpt2", &survey("factlm-gpt2"));
}
