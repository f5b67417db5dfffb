//! Measures single R-ROME edits of the demo model, each on the unedited model.
//!
//! `cargo run --release --example demo_scores` measures with `demo/hparams.json` on the odd records
//! of `demo/edits.json` and writes `demo/scores.json`. With `-- choose` it tries layers and clamps
//! on the even records instead and prints the trade-off; with `-- redraw` it measures the odd
//! records with another new object each, drawn from those of the same relation. A README table is
//! made of the scores; a test holds the two together.
//!
//! A rewrite or paraphrase succeeds where the new object is likelier than the old one, a neighbour
//! where the old one still is: per-token geometric means, first averaged within a record.

#![allow(clippy::print_stdout, reason = "a tool for people")]

#[path = "scores_table.rs"]
mod scores_table;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use incise::base::{Quiet, Rng};
use incise::data::{Corpus, Fact, request};
use incise::model::completion::Completion;
use incise::model::fingerprint;
use incise::model::score;
use incise::stats::origin::Origin;
use incise::stats::{Collect, Input, LayerInput, collect};
use incise::store::Checkpoint;
use incise::{Editor, TextModel};
use scores_table::{Row, Scores};
use serde_json::{Value, json};

const LAYERS: usize = 3;
const CLAMPS: [f64; 6] = [0.5, 0.75, 1.0, 1.5, 2.0, 3.0];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let editor = Editor::open(&dir)?
        .method("r-rome")?
        .hparams(dir.join("hparams.json"))?
        .contexts(dir.join("contexts.json"))?;
    let mut requests = request::read(dir.join("edits.json"))?;
    let wanted = std::env::args().nth(1);
    if wanted.as_deref() == Some("choose") {
        return choose(&dir, &editor, &requests);
    }
    let editor = editor.statistics(dir.join("stats"))?;
    if wanted.as_deref() == Some("redraw") {
        requests = redrawn(&dir.join("edits.json"))?;
        print!("{}", scores_table::markdown(&measure(&editor, &requests, 1)?));
        return Ok(());
    }
    let scores = measure(&editor, &requests, 1)?;
    fs::write(dir.join("scores.json"), serde_json::to_string_pretty(&scores)? + "\n")?;
    print!("{}", scores_table::markdown(&scores));
    Ok(())
}

/// The records with another new object each, of those that records of the same relation name.
fn redrawn(path: &Path) -> Result<Vec<Fact>, Box<dyn Error>> {
    let mut records: Vec<Value> = serde_json::from_slice(&fs::read(path)?)?;
    let part = |r: &Value, at: &str| r["requested_rewrite"].pointer(at).cloned();
    let mut objects: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for r in &records {
        let relation = part(r, "/relation_id").ok_or("relation_id")?.to_string();
        for at in ["/target_new/str", "/target_true/str"] {
            let object = part(r, at).ok_or("target")?.as_str().unwrap_or_default().to_owned();
            objects.entry(relation.clone()).or_default().insert(object);
        }
    }
    let mut rng = Rng::new(2, "another new object");
    for r in &mut records {
        let relation = part(r, "/relation_id").ok_or("relation_id")?.to_string();
        let used = ["/target_new/str", "/target_true/str"].map(|at| part(r, at));
        let unused = |o: &&String| !used.contains(&Some(Value::from(o.as_str())));
        let others: Vec<&String> = objects[&relation].iter().filter(unused).collect();
        let drawn = others[(rng.uniform() * others.len() as f64) as usize];
        r["requested_rewrite"]["target_new"]["str"] = Value::from(drawn.as_str());
    }
    Ok(request::parse(path, &serde_json::to_vec(&records)?)?)
}

/// The trade-off over the first layers and clamps on the even records.
fn choose(dir: &Path, editor: &Editor, requests: &[Fact]) -> Result<(), Box<dyn Error>> {
    let layers: Vec<usize> = (0..LAYERS).collect();
    let corpus = Corpus::open(&[dir.join("corpus.txt")])?;
    let text_model = editor.model();
    let model = text_model.inner();
    let origin = Origin {
        model: fingerprint(&Checkpoint::open(dir)?, &Quiet)?,
        corpus: "-".into(),
        context_length: model.arch.max_positions,
        normed: false,
    };
    let inputs = LayerInput::all(&layers, &[Input::Key]);
    let what = Collect { inputs, max_tokens: u64::MAX, origin, share: None };
    let folder = tempfile::tempdir()?;
    let texts = corpus.documents();
    for moment in collect(model, text_model.tokenizer(), texts, &what, folder.path(), &Quiet)? {
        moment.write(folder.path())?;
    }
    println!("layer  clamp  rewrite  paraphrase  neighbour");
    for layer in layers {
        for clamp in CLAMPS {
            let editor = editor
                .clone()
                .statistics(folder.path())?
                .set("layers", json!([layer]))?
                .set("clamp_norm_factor", clamp)?;
            let row = measure(&editor, requests, 0)?.after;
            let [r, p, n] = [row.rewrite, row.paraphrase, row.neighbour];
            println!("{layer:>5} {clamp:>6} {r:>8.1} {p:>11.1} {n:>10.1}");
        }
    }
    Ok(())
}

/// Scores of every second record, from record `first` on.
fn measure(editor: &Editor, requests: &[Fact], first: usize) -> Result<Scores, Box<dyn Error>> {
    let mut before = vec![];
    let mut after = vec![];
    let mut used = (0, 0.0);
    for request in requests.iter().skip(first).step_by(2) {
        let edit = editor.plan(std::slice::from_ref(request))?;
        let [by, _] = edit.hyperparameters();
        let layer = by["layers"][0].as_u64().ok_or("layers")? as usize;
        used = (layer, by["clamp_norm_factor"].as_f64().ok_or("clamp_norm_factor")?);
        before.push(score(&editor.model(), request)?);
        after.push(score(&edit.model()?, request)?);
    }
    let (layer, clamp) = used;
    let (edits, before, after) = (after.len(), mean(&before), mean(&after));
    Ok(Scores { edits, layer, clamp, before, after })
}

/// Success in percent at the rewrite, the paraphrases and the neighbours of one record.
fn score(text: &TextModel, r: &Fact) -> Result<Row, Box<dyn Error>> {
    let tokenizer = text.tokenizer();
    let old = r.target_true.as_deref().ok_or("a record without target_true")?;
    // +1 where the new object is likelier than the old one.
    let wins = |prompts: &[&str]| -> Result<Vec<bool>, Box<dyn Error>> {
        let mut texts = vec![];
        for prompt in prompts {
            let ids = tokenizer.encode(prompt)?;
            for target in [&r.target_new, old] {
                let target = tokenizer.encode_target(prompt, target, r.space)?;
                texts.push(Completion::new(&ids, &target));
            }
        }
        let scores = score::score(text.inner(), &texts)?;
        Ok(scores.chunks_exact(2).map(|p| p[0].nll() < p[1].nll()).collect())
    };
    let share = |of: Vec<bool>, which: bool| {
        100.0 * of.iter().filter(|&&w| w == which).count() as f64 / of.len() as f64
    };
    let filled = r.prompt.replace("{}", &r.subject);
    let paraphrases: Vec<&str> = r.paraphrases.iter().map(String::as_str).collect();
    let neighbours: Vec<&str> = r.neighbourhood.iter().map(|p| &*p.prompt).collect();
    Ok(Row {
        rewrite: share(wins(&[&filled])?, true),
        paraphrase: share(wins(&paraphrases)?, true),
        neighbour: share(wins(&neighbours)?, false),
    })
}

fn mean(rows: &[Row]) -> Row {
    let of = |part: fn(&Row) -> f64| rows.iter().map(part).sum::<f64>() / rows.len() as f64;
    Row {
        rewrite: of(|r| r.rewrite),
        paraphrase: of(|r| r.paraphrase),
        neighbour: of(|r| r.neighbour),
    }
}
