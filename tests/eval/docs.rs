//! docs/evaluation.md has the table of metrics that suites have, docs/accuracy.md the tables of
//! benches/results/accuracy-*.json, which tools/accuracy writes.

use std::fs;

use incise::eval::metric::MetricUnit;
use incise::eval::suites::SUITES;
use serde_json::{Value, json};

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

const MODELS: [&str; 3] = ["smollm2", "factlm-gpt2", "gemma3-270m"];

/// p of each, and whether a norm stands behind its MLP.
const SIZES: [(u64, bool); 3] = [(134_515_008, false), (8_481_280, false), (268_098_176, true)];

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
    let path = root().join(format!("benches/results/accuracy-{model}.json"));
    let Ok(text) = fs::read_to_string(path) else { return "Not measured yet.\n".to_owned() };
    let all: Value = serde_json::from_str(&text).unwrap();
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
        if mode == "words" {
            continue;
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
        let seconds = cell["seconds"].as_f64().map(|seconds| format!("{:.2}", seconds / facts));
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
    let path = root().join("docs/accuracy.md");
    let mut page = fs::read_to_string(&path).unwrap();
    for model in MODELS {
        let begin = format!(
            "<!-- {model}: `INCISE_WRITE_DOCS=1 cargo test --release docs::` writes it -->\n"
        );
        let end = format!("<!-- end of {model} -->\n");
        let (head, rest) = page.split_once(&begin).unwrap();
        let (found, tail) = rest.split_once(&end).unwrap();
        if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
            page = [head, &begin, &accuracy(model), &end, tail].concat();
            fs::write(&path, &page).unwrap();
            continue;
        }
        assert!(
            found == accuracy(model),
            "docs/accuracy.md is old: the page says how to write it again"
        );
    }
}

fn measured_model(model: &str, [parameters, norm_behind]: [Value; 2]) -> Option<Value> {
    let path = root().join(format!("benches/results/accuracy-{model}.json"));
    let all: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).unwrap();
    let cells = all["cells"].as_object().unwrap();
    let seconds_a_fact = |cell: &Value| {
        let seconds = cell["seconds"].as_f64()?;
        Some((1e3 * seconds / cell["facts"].as_f64().unwrap()).round() / 1e3)
    };
    let order = all["order"].as_array().unwrap().iter().filter_map(Value::as_str);
    let rows: Vec<Value> = order
        .filter_map(|name| {
            let (method, mode) = name.split_once(' ').unwrap();
            let cell = cells.get(name)?;
            // The same method with other settings has no name of its own.
            if method.contains(':') || !["single", "batch", "sequential"].contains(&mode) {
                return None;
            }
            let mean = |metric: &str| {
                cell["metrics"][format!("counterfact.{metric}")]["mean"].as_f64().map(tenths)
            };
            let cost = cells.get(&format!("{method} cost"));
            Some(json!({
                "method": method, "mode": mode, "facts": cell["facts"],
                "es": mean("es")?, "ps": mean("ps")?, "ns": mean("ns")?, "score": mean("score")?,
                "ns_before": cell["metrics"]["counterfact.ns"]["before"].as_f64().map(tenths),
                "seconds": seconds_a_fact(cell).or(cost.and_then(seconds_a_fact)),
                "peak_bytes": cell["peak_bytes"],
            }))
        })
        .collect();
    Some(json!({
        "model": model, "parameters": parameters, "norm_behind": norm_behind, "rows": rows,
    }))
}

fn tenths(x: f64) -> f64 {
    (10.0 * x).round() / 10.0
}

#[test]
fn what_is_recommended_rests_on_what_was_measured() {
    let models = MODELS.into_iter().zip(SIZES);
    let all: Vec<Value> = models
        .filter_map(|(model, (p, behind))| measured_model(model, [p.into(), behind.into()]))
        .collect();
    let mut text = String::from("[");
    for (i, mut model) in all.into_iter().enumerate() {
        let rows = model.as_object_mut().unwrap().remove("rows").unwrap();
        let head = model.to_string();
        text += &format!(
            "{}{},\n \"rows\": [\n",
            if i > 0 { ",\n" } else { "" },
            &head[..head.len() - 1]
        );
        let rows: Vec<String> = rows.as_array().unwrap().iter().map(|r| format!("  {r}")).collect();
        text += &format!("{}\n]}}", rows.join(",\n"));
    }
    text += "]\n";
    let path = root().join("src/edit/measured.json");
    if std::env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    assert!(
        fs::read_to_string(&path).unwrap() == text,
        "src/edit/measured.json is old: `INCISE_WRITE_DOCS=1 cargo test --release docs::` writes it"
    );
}
