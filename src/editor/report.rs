//! The report of an edit: a JSON line a request, beside the patch.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::base::file::read_file;
use crate::base::{Result, escape};
use crate::data::Fact;
use crate::data::broken::Broken;
use crate::data::conflicts::Superseded;
use crate::edit::fact_report::{FactPlan, FactReport};
use crate::edit::search::LossStep;
use crate::edit::solve::layers::MatrixChange;
use crate::store::{Delta, write};

/// `PATCH.report.jsonl`.
pub fn path(patch: &Path) -> PathBuf {
    write::beside(patch, ".report.jsonl")
}

/// Whether a file is a report: its first line is a request's.
pub fn is_report(path: &Path) -> bool {
    let text = read_file(path, 1 << 32).unwrap_or_default();
    let first = text.split(|&b| b == b'\n').next().unwrap_or_default();
    let line: Value = serde_json::from_slice(first).unwrap_or_default();
    // Older versions wrote `probability`.
    ["p_target", "probability", "superseded_by"].iter().any(|field| line.get(field).is_some())
}

/// Writes a report, whole or not at all.
///
/// # Errors
///
/// A file that cannot be written.
pub fn write(path: &Path, lines: &[Value]) -> Result<()> {
    let line = |line: &Value| format!("{}\n", escape::json(&line.to_string()));
    write::whole(path, lines.iter().map(line).collect::<String>().as_bytes())
}

/// The line of a request that was edited.
pub fn line(request: &Fact, fact: &FactReport, device: &Value) -> Value {
    let Fact { prompt, subject, target_new, .. } = request;
    let mut line = fact_json(fact);
    line["prompt"] = json!(prompt);
    line["subject"] = json!(subject);
    line["target_new"] = json!(target_new);
    line["device"] = device.clone();
    line
}

/// The line of a request that another one took the place of.
pub fn superseded_line(s: &Superseded) -> Value {
    let Fact { id, prompt, subject, target_new, .. } = &s.request;
    json!({
        "id": id, "prompt": prompt, "subject": subject, "target_new": target_new,
        "superseded_by": s.by, "repeats": s.repeats,
    })
}

/// The line of a record that cannot be used.
pub fn skipped_line(broken: &Broken) -> Value {
    json!({"id": broken.id, "skipped": broken.reason()})
}

/// What an edit did to a matrix, which a tensor holds.
pub fn change_json(tensor: &str, c: &MatrixChange) -> Value {
    let rank = match &c.delta {
        Delta::LowRank { r, .. } => Some(r),
        Delta::Dense(_) => None,
    };
    json!({
        "matrix": c.id.to_string(), "layer": c.id.layer, "tensor": tensor, "rank": rank,
        "norm": c.norm, "weight": c.weight, "ridge": c.ridge, "s": c.s,
    })
}

/// What an edit did to a fact.
pub fn fact_json(o: &FactReport) -> Value {
    let step = |s: &LossStep| {
        let decay = s.weight_decay;
        json!({"total": s.total(), "nll": s.nll, "kl": s.kl, "decay": decay})
    };
    let FactPlan { trace, value, left_out, change, key_cosine, neurons } = &o.plan;
    let [moved, norm] = value.map_or([None; 2], |both| both.map(Some));
    let last = trace.last().map(|s| s.total());
    let steps: Vec<Value> = trace.iter().map(step).collect();
    let (token, lookup, _) = &o.token;
    let mut json = json!({
        "id": o.id, "token": token, "lookup": lookup, "target_token": o.target_token,
        "steps": trace.len(), "loss": last,
        "trace": steps,
        "p_target": o.p_target, "p_min_token": o.p_min_token, "taken": o.taken,
        "failed": o.failed(), "value_change": moved, "value": norm, "merged": o.merged,
        "left_out": left_out,
    });
    if let Some(cosine) = key_cosine {
        json["key_cosine"] = json!(cosine);
    }
    if let Some(neurons) = neurons {
        json["neurons"] = json!(neurons);
    }
    if let Some([norm, weight]) = change {
        json["norm"] = json!(norm);
        json["weight"] = json!(weight);
    }
    json
}
