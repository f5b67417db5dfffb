//! Folders of results, made by hand.

use std::path::Path;

use incise::eval::folder::Folder;
use incise::eval::results::{CaseResult, ChangeNorm, FactResult, PromptResult};
use incise::eval::session::{Session, StageCost};
use serde_json::{Value, json};

/// What a run of a mode was asked for.
pub fn run(mode: &str, seed: u64, data: &str) -> Value {
    json!({
        "program": "0.1.0", "model": "models/small", "method": "memit", "mode": mode, "seed": seed,
        "data": [{"file": "records.json", "fingerprint": data}],
    })
}

/// A case with a value of efficacy before and after.
pub fn case(place: usize, edited: usize, [before, after]: [f64; 2]) -> CaseResult {
    CaseResult {
        id: format!("case-{place}"),
        place,
        edited,
        form: "counterfact".to_owned(),
        facts: vec![FactResult {
            prompt: format!("The capital of country {place} is"),
            target_new: format!("city {place}"),
            relation: Some(if place.is_multiple_of(3) { "P36" } else { "P17" }.to_owned()),
            p_target: [0.002, after],
            taken: after == 1.0,
            why: (after < 1.0).then(|| "says something else".to_owned()),
            ..FactResult::default()
        }],
        values: vec![value("counterfact.es", [before, after])],
        changes: vec![
            ChangeNorm { matrix: "layers.5.down".to_owned(), norm: 1.0, weight: 40.0, s: None },
            ChangeNorm {
                matrix: "layers.6.down".to_owned(),
                norm: 2.0,
                weight: 40.0,
                s: Some(0.7),
            },
        ],
        seconds: [1.0, 0.5],
    }
}

/// A value of a metric.
pub fn value(metric: &str, [before, after]: [f64; 2]) -> PromptResult {
    let (metric, prompt) = (metric.to_owned(), "a prompt".to_owned());
    PromptResult { metric, prompt, before, after: Some(after) }
}

/// Writes a run's folder; returns its summary.
pub fn write(dir: &Path, run: Value, cases: Vec<CaseResult>) -> Value {
    let mut folder = Folder::open(dir, run).unwrap();
    let n = cases.len();
    cases.into_iter().for_each(|case| folder.add(case).unwrap());
    let stage = |stage: &str, seconds, peak_bytes| {
        let stage = stage.to_owned();
        StageCost { stage, seconds, peak_bytes }
    };
    let session = Session {
        command: ["incise", "eval", "models/small"].map(str::to_owned).to_vec(),
        program: "0.1.0".to_owned(),
        device: "cpu".to_owned(),
        threads: 2,
        facts: n,
        cases: n,
        stages: vec![stage("fact", 3.0 * n as f64, 5_000_000), stage("measure", 1.5, 7_000_000)],
        hyperparameters: Some([json!({"v_lr": 0.5}), json!({"v_lr": "set"})]),
    };
    folder.ended(session).unwrap();
    folder.summarise(0).unwrap()
}
