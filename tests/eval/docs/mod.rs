//! docs/evaluation.md has the table of metrics that suites have; other pages and the program's own
//! table have what tools/accuracy measured, which is in benches/results/accuracy-*.json.

mod accuracy;
mod lifelong;
mod one_step;
mod recommended;
mod survey;

use std::fs;

use incise::eval::metric::MetricUnit;
use incise::eval::suites::SUITES;
use serde_json::Value;

use crate::support::root;

/// What was measured of a model, if anything was.
fn measured(model: &str) -> Option<Value> {
    let path = root().join(format!("benches/results/accuracy-{model}.json"));
    Some(serde_json::from_str(&fs::read_to_string(path).ok()?).unwrap())
}

/// Holds the part of a page between two comments to what it should be, or writes it.
fn hold(page: &str, part: &str, want: &str) {
    let path = root().join("docs").join(page);
    let text = fs::read_to_string(&path).unwrap();
    let begin =
        format!("<!-- {part}: `INCISE_WRITE_DOCS=1 cargo test --release docs::` writes it -->\n");
    let end = format!("<!-- end of {part} -->\n");
    let (head, rest) = text.split_once(&begin).unwrap();
    let (found, tail) = rest.split_once(&end).unwrap();
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&path, [head, &begin, want, &end, tail].concat()).unwrap();
        return;
    }
    assert!(found == want, "docs/{page} is old: the page says how to write it again");
}

fn table() -> String {
    let mut table =
        "| metric | is | unit | comparable group |\n| --- | --- | --- | --- |\n".to_owned();
    for metric in SUITES.iter().flat_map(|suite| suite.metrics) {
        let unit = match metric.unit {
            MetricUnit::Share => "%",
            MetricUnit::Difference => "points",
            MetricUnit::Nats => "nats",
            MetricUnit::CentiBits => "bits × 100",
        };
        let definition = metric.definition.replace('|', "\\|");
        let group = metric.comparable_group.map_or(String::new(), |group| format!("`{group}`"));
        table += &format!("| `{}` | {definition} | {unit} | {group} |\n", metric.name);
    }
    table
}

#[test]
fn the_page_of_metrics_is_what_suites_say() {
    hold("evaluation.md", "metrics", &table());
}
