//! src/edit/measured.json: what recommendations rest on.

use std::fs;

use serde_json::{Value, json};

use super::accuracy::MODELS;
use super::measured;
use crate::support::root;

/// p of each, and whether a norm stands behind its MLP.
const SIZES: [(u64, bool); 3] = [(134_515_008, false), (8_481_280, false), (268_098_176, true)];

fn measured_model(model: &str, [parameters, norm_behind]: [Value; 2]) -> Option<Value> {
    let all = measured(model)?;
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
