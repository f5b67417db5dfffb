//! Every metric against an independent computation by the framework (`tools/reference_eval.py`), on
//! real records of every form: in f64, before an edit and after it.
//!
//! Shares are equal: `closest` in each file says that no two logits that decided one were nearer
//! than 1e-9. Differences of probabilities and nats are within 1e-9: 2¹² products of 2⁻⁵³ each a
//! layer would be 1e-11, and the file rounds to 12 digits.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use incise::base::Quiet;
use incise::data::{Case, Corpus, Demonstrations, cases};
use incise::edit::apply::{self, PatchSide};
use incise::eval::ask::Respondent;
use incise::eval::drift;
use incise::eval::fluency::{Idf, entropy, words};
use incise::eval::item::Answer;
use incise::eval::sheet::Sheet;
use incise::eval::suite::Suite;
use incise::eval::suites::SUITES;
use incise::eval::words::{Compat, Words};
use incise::model::Model;
use incise::store::{Checkpoint, Patch};
use incise::tensor::Precision;
use incise::text::Tokenizer;

use crate::support::root;
use crate::support::shared::shared;

const TOLERANCE: f64 = 1e-9;

/// Records of each case that run here; all do in `tools/slow_tests`.
const FEW: usize = 1;

struct Recorded {
    case: Value,
    json: Value,
    data: PathBuf,
    model: Model,
    edited: Model,
    tokenizer: Tokenizer,
}

fn golden() -> PathBuf {
    root().join("tests/golden/eval")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

impl Recorded {
    /// Nothing where its model or data are not here.
    fn open(test: &str, case: &Value) -> Option<Recorded> {
        let name = case["name"].as_str().unwrap();
        let model = case["model"].as_str()?;
        let dir = match case["shared"].as_bool() {
            Some(true) => shared(test, model)?,
            _ => root().join("tests/golden").join(model),
        };
        let file = case["data"].as_str().unwrap();
        let own = golden().join(file);
        let data = if own.exists() { own } else { shared(test, file)? };
        let json = read(&golden().join(format!("{name}.json")));
        let load = || Model::load(&Checkpoint::open(&dir).unwrap(), Precision::F64).unwrap();
        let model = load();
        let mut edited = load();
        if let Some(patch) = case["patch"].as_str() {
            let patches = [Patch::read(&golden().join(patch)).unwrap()];
            let by = &model.compute;
            let made = apply::to_memory(&dir, &patches, PatchSide::After, by, &Quiet).unwrap();
            for tensor in made.0 {
                edited = edited.with_stored(&tensor.name, tensor.dtype, Arc::new(tensor.bytes));
            }
        }
        let tokenizer = Tokenizer::open(&dir).unwrap();
        Some(Recorded { case: case.clone(), json, data, model, edited, tokenizer })
    }

    fn name(&self) -> &str {
        self.case["name"].as_str().unwrap()
    }

    /// Holds some of its records; returns how many values were compared.
    fn hold(&self, most: usize) -> usize {
        let demonstrations = self.case["demonstrations"].as_str().map(|folder| {
            let own = golden().join(folder);
            let folder = if own.exists() { own } else { shared("", folder).unwrap() };
            Demonstrations::read(folder).unwrap()
        });
        let words = Words {
            tokenizer: &self.tokenizer,
            compat: match self.case["compat"].as_str() {
                Some("memit") => Compat::Memit,
                Some(_) => Compat::AlphaEdit,
                None => Compat::None,
            },
            demonstrations: demonstrations.as_ref(),
            references: None,
            seed: 0,
            positions: self.model.arch.max_positions,
        };
        let records = self.json["records"].as_array().unwrap();
        let mut compared = 0;
        let mut all = cases(&self.data).unwrap().filter_map(Result::ok);
        for record in records.iter().take(most) {
            let id = record["id"].as_str().unwrap();
            let case = all.find(|case| case.id == id).unwrap_or_else(|| panic!("{id} is no case"));
            compared += self.hold_case(&case, &words, &record["metrics"]);
        }
        compared
    }

    fn hold_case(&self, case: &Case, words: &Words, recorded: &Value) -> usize {
        let suites: Vec<&Suite> = SUITES.iter().collect();
        let mut sheet = Sheet::new(case, &suites, words).unwrap();
        let wanted = recorded.as_object().unwrap();
        sheet.keep(|item| wanted.contains_key(&item.metric.to_string()));
        let [before, after] = [&self.model, &self.edited].map(|model| self.answers(model, &sheet));
        let values = [&before, &after].map(|now| sheet.values(&before, now));
        let mut compared = 0;
        for (metric, want) in wanted {
            for (values, when) in values.iter().zip(["before", "after"]) {
                let own = sheet.items.iter().zip(values);
                let own = own.filter(|(item, _)| item.metric.to_string() == *metric);
                let got: Vec<f64> = own.map(|(_, &value)| value).collect();
                let Some(want) = want[when].as_array() else { continue };
                let mut want: Vec<Option<f64>> = want.iter().map(Value::as_f64).collect();
                // Of MQuAKE's questions any counts; the record has each.
                if metric.starts_with("mquake.multi_hop") {
                    let any = want.into_iter().flatten().reduce(f64::max);
                    want = any.map(Some).into_iter().collect();
                }
                // Where there is no room, ours are not there, and the framework's are null. It
                // reads a target's last token too: it may have no room for what fits here.
                if got.len() != want.len() {
                    want.retain(Option::is_some);
                }
                if want.is_empty() {
                    continue;
                }
                let name = format!("{}, {}, {metric} {when}", self.name(), case.id);
                assert_eq!(got.len(), want.len(), "{name}: {got:?}, not {want:?}");
                for (got, want) in got.iter().zip(&want) {
                    let Some(want) = want else { continue };
                    assert!((got - want).abs() <= TOLERANCE, "{name}: {got}, not {want}");
                    compared += 1;
                }
            }
        }
        compared
    }

    fn answers(&self, model: &Model, sheet: &Sheet) -> Vec<Answer> {
        let (before, tokenizer) = (&self.model, &self.tokenizer);
        let ends = tokenizer.end.as_slice();
        let asked = Respondent { model, before, tokenizer, ends, tokens: 1024 };
        asked.answers(&[&sheet.asked]).unwrap().remove(0)
    }

    /// Holds the figures of a text.
    fn hold_text(&self) {
        let corpus = Corpus::open(&[&self.data]).unwrap();
        let count = self.case["records"].as_u64().unwrap() as usize;
        let lines = corpus.documents().take(count).map(Result::unwrap);
        let each: Vec<_> = lines
            .map(|line| {
                let ids = self.tokenizer.encode(&line).unwrap();
                drift::document(&self.model, &self.edited, &ids).unwrap()
            })
            .collect();
        let summary = drift::summarise(&each, 0);
        for (metric, want) in self.json["summary"].as_object().unwrap() {
            let got = &summary[metric];
            let scale = if metric == "drift.argmax" { 100.0 } else { 1.0 };
            let want_after = scale * want["after"].as_f64().unwrap();
            let bound = TOLERANCE * want_after.abs().max(1.0);
            assert!((got.mean - want_after).abs() <= bound, "{metric}: {}, {want}", got.mean);
            if let Some(want) = want["before"].as_f64() {
                assert!((got.before - want).abs() <= TOLERANCE * want, "{metric}: {}", got.before);
            }
        }
    }
}

fn recorded(test: &'static str) -> impl Iterator<Item = Recorded> {
    let all = read(&golden().join("cases.json"));
    let all = all["cases"].as_array().unwrap().clone();
    all.into_iter().filter_map(move |case| Recorded::open(test, &case))
}

#[test]
fn every_metric_is_the_frameworks() {
    for recorded in recorded("eval::reference::every_metric_is_the_frameworks") {
        match recorded.case["form"].as_str() {
            Some("text") => recorded.hold_text(),
            _ => assert!(recorded.hold(FEW) > 0, "{}: nothing was compared", recorded.name()),
        }
    }
}

/// Words, entropy and consistency of fixed texts: NLTK's and scikit-learn's.
#[test]
fn fluency_is_romes() {
    let all = read(&golden().join("cases.json"));
    let case = all["cases"].as_array().unwrap().iter().find(|case| case["form"] == "fluency");
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let case = case.unwrap();
    let idf = Idf::new(texts(&case["snippets"]).iter().map(String::as_str));
    let recorded = read(&golden().join("fluency.json"));
    let groups = case["groups"].as_array().unwrap();
    for (group, record) in groups.iter().zip(recorded["records"].as_array().unwrap()) {
        let written = texts(&group["texts"]);
        for (text, want) in written.iter().zip(record["words"].as_array().unwrap()) {
            assert_eq!(words(text), texts(want));
        }
        let want = &record["metrics"];
        for (text, want) in written.iter().zip(want["fluency.entropy"]["after"].as_array().unwrap())
        {
            assert!((entropy(text) - want.as_f64().unwrap()).abs() < TOLERANCE, "{text}");
        }
        let got = idf.cosine(&written.join(" "), &texts(&group["references"]).join(" "));
        let want = want["fluency.consistency"]["after"][0].as_f64().unwrap();
        assert!((got - want).abs() < TOLERANCE, "{got}, not {want}");
    }
}

/// Minutes: by `tools/slow_tests`.
#[test]
#[ignore = "runs in tools/slow_tests"]
fn every_recorded_value_is_the_frameworks() {
    let mut all = 0;
    for recorded in recorded("eval::reference::every_recorded_value_is_the_frameworks") {
        if recorded.case["form"] != "text" {
            let compared = recorded.hold(usize::MAX);
            println!("{}: {compared} values", recorded.name());
            all += compared;
        }
    }
    println!("{all} values in all");
}
