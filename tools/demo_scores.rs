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
use incise::data::{Contexts, Corpus, Request, request};
use incise::edit::facts::facts;
use incise::edit::hparams::{Hparams, Method, Values};
use incise::edit::plan::plan;
use incise::model::score::Completion;
use incise::model::{Model, fingerprint, load};
use incise::stats::{Collect, Covariance, Moment, Origin, collect};
use incise::tensor::Device;
use incise::text::Tokenizer;
use scores_table::{Row, Scores};
use serde_json::{Value, json};

const LAYERS: usize = 3;
const CLAMPS: [f64; 6] = [0.5, 0.75, 1.0, 1.5, 2.0, 3.0];

struct Demo {
    model: Model,
    tokenizer: Tokenizer,
    contexts: Contexts,
    values: Values,
    requests: Vec<Request>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let (checkpoint, model) = load::open(&dir, &Device::Cpu)?;
    let wanted = std::env::args().nth(1);
    let mut demo = Demo {
        tokenizer: Tokenizer::open(&dir)?,
        contexts: Contexts::read(dir.join("contexts.json"))?,
        values: Values::read(&dir.join("hparams.json"))?,
        requests: request::read(dir.join("edits.json"))?,
        model,
    };
    if wanted.as_deref() == Some("choose") {
        return demo.choose(&dir);
    }
    let hparams = demo.values.rome(&demo.model)?;
    let (layer, f) = (hparams.layer, demo.model.arch.inner);
    let name = fingerprint(&checkpoint)?;
    let c = Covariance::of(&Moment::read(&dir.join("stats"), layer, f, &name)?)?;
    if wanted.as_deref() == Some("redraw") {
        demo.requests = redrawn(&dir.join("edits.json"))?;
        print!("{}", scores_table::markdown(&demo.measure(&c, &hparams, 1)?));
        return Ok(());
    }
    let scores = demo.measure(&c, &hparams, 1)?;
    fs::write(dir.join("scores.json"), serde_json::to_string_pretty(&scores)? + "\n")?;
    print!("{}", scores_table::markdown(&scores));
    Ok(())
}

/// The records with another new object each, of those that records of the same relation name.
fn redrawn(path: &Path) -> Result<Vec<Request>, Box<dyn Error>> {
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

impl Demo {
    /// The trade-off over the first layers and clamps on the even records.
    fn choose(&self, dir: &Path) -> Result<(), Box<dyn Error>> {
        let layers: Vec<usize> = (0..LAYERS).collect();
        let corpus = Corpus::open(&[dir.join("corpus.txt")])?;
        let context_length = self.model.arch.max_positions;
        let origin = Origin { model: "-".into(), corpus: "-".into(), context_length };
        let max_tokens = u64::MAX;
        let what = Collect { layers: layers.clone(), max_tokens, origin, share: None };
        let folder = tempfile::tempdir()?;
        let (texts, to) = (corpus.documents(), folder.path());
        let moments = collect(&self.model, &self.tokenizer, texts, &what, to, &Quiet)?;
        println!("layer  clamp  rewrite  paraphrase  neighbour");
        for (layer, moment) in layers.into_iter().zip(&moments) {
            let c = Covariance::of(moment)?;
            for clamp in CLAMPS {
                let mut values = self.values.clone();
                values.put("layers", json!([layer]));
                values.put("clamp_norm_factor", json!(clamp));
                let row = self.measure(&c, &values.rome(&self.model)?, 0)?.after;
                let [r, p, n] = [row.rewrite, row.paraphrase, row.neighbour];
                println!("{layer:>5} {clamp:>6} {r:>8.1} {p:>11.1} {n:>10.1}");
            }
        }
        Ok(())
    }

    /// Scores of every second record, from record `first` on.
    fn measure(
        &self,
        c: &Covariance,
        by: &Hparams,
        first: usize,
    ) -> Result<Scores, Box<dyn Error>> {
        let (mut before, mut after) = (vec![], vec![]);
        for request in self.requests.iter().skip(first).step_by(2) {
            let (one, how) = (std::slice::from_ref(request), (Method::RRome, by));
            let (text, from) = ((&self.tokenizer, None), (Path::new("edits.json"), one));
            let facts = facts(&self.model, text, from, &self.contexts)?;
            let planned = plan(&self.model, Some(c), &facts, how, &Quiet)?;
            before.push(self.score(&self.model, request)?);
            after.push(self.score(&planned.model, request)?);
        }
        Ok(Scores {
            edits: after.len(),
            layer: by.layer,
            clamp: by.search.clamp,
            before: mean(&before),
            after: mean(&after),
        })
    }

    /// Success in percent at the rewrite, the paraphrases and the neighbours of one record.
    fn score(&self, model: &Model, r: &Request) -> Result<Row, Box<dyn Error>> {
        let new = self.tokenizer.encode_target(&r.target_new)?;
        let old = r.target_true.as_deref().ok_or("a record without target_true")?;
        let old = self.tokenizer.encode_target(old)?;
        // +1 where the new object is likelier than the old one.
        let wins = |prompts: &[&str]| -> Result<Vec<bool>, Box<dyn Error>> {
            let mut texts = vec![];
            for prompt in prompts {
                let ids = self.tokenizer.encode(prompt)?;
                for target in [&new, &old] {
                    let ids = [&ids[..], target].concat();
                    texts.push(Completion { ids, candidate: target.len() });
                }
            }
            let logp = model.log_probability(&texts)?;
            Ok(logp.chunks_exact(2).map(|p| p[0] > p[1]).collect())
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
}

fn mean(rows: &[Row]) -> Row {
    let of = |part: fn(&Row) -> f64| rows.iter().map(part).sum::<f64>() / rows.len() as f64;
    Row {
        rewrite: of(|r| r.rewrite),
        paraphrase: of(|r| r.paraphrase),
        neighbour: of(|r| r.neighbour),
    }
}
