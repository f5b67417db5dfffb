//! docs/evaluation.md has the table of metrics that suites have.

use std::fs;

use incise::eval::metric::MetricUnit;
use incise::eval::suites::SUITES;

use crate::support::root;

const BEGIN: &str =
    "<!-- metrics: `INCISE_WRITE_DOCS=1 cargo test --release docs::` writes them -->\n";
const END: &str = "<!-- end of metrics -->\n";

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
    let path = root().join("docs/evaluation.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (found, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&path, [head, BEGIN, &table(), END, tail].concat()).unwrap();
        return;
    }
    assert!(found == table(), "docs/evaluation.md is old: the page says how to write it again");
}
