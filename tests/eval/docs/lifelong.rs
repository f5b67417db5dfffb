//! docs/survey.md: what is left of a thousand edits, by how many came after them.

use serde_json::Value;

use super::{hold, measured};

/// What is shown of an age.
const METRICS: [&str; 3] = ["taken", "counterfact.es", "counterfact.ns"];

/// A row a method, a column an age: taken, ES and NS.
fn lifelong(model: &str) -> String {
    let all = measured(model).unwrap_or_default();
    let cells = all["cells"].as_object().into_iter().flatten();
    let mut of_methods: Vec<(&str, &Value)> =
        cells.filter_map(|(name, cell)| Some((name.strip_suffix(" lifelong")?, cell))).collect();
    of_methods.sort_by_key(|(method, _)| *method);
    let Some((_, first)) = of_methods.first() else { return "Not measured yet.\n".to_owned() };
    let ages = |cell: &Value| cell["by_age"].as_array().unwrap().clone();
    let titles: Vec<String> =
        ages(first).iter().map(|age| age["group"].as_str().unwrap().to_owned()).collect();
    let mut table = format!(
        "| method | {} | arg-max moved |\n|{}\n",
        titles.join(" | "),
        " --- |".repeat(titles.len() + 2)
    );
    for (method, cell) in of_methods {
        let shown = |age: &Value| {
            let success = age["success"].as_array().unwrap();
            let number = |metric: &str| {
                let found = success.iter().find(|one| one["metric"] == metric)?;
                Some(format!("{:.0}", found["mean"].as_f64()?))
            };
            METRICS.map(|metric| number(metric).unwrap_or("–".to_owned())).join(" / ")
        };
        let moved = &cell["metrics"]["drift.argmax"]["mean"];
        table += &format!(
            "| {method} | {} | {:.1} |\n",
            ages(cell).iter().map(shown).collect::<Vec<_>>().join(" | "),
            moved.as_f64().unwrap()
        );
    }
    table
}

#[test]
fn the_page_of_the_survey_says_what_is_left_of_a_thousand_edits() {
    hold("survey.md", "lifelong", &lifelong("factlm-gpt2"));
}
