//! A point of what is tried, and what it did.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::eval::measure::{Measure, measures};
use crate::eval::results::CaseResult;

/// Hyperparameters by their names.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Point(pub BTreeMap<String, Value>);

impl Point {
    /// Of names and values.
    pub fn new<'a>(values: impl IntoIterator<Item = (&'a str, Value)>) -> Point {
        Point(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// With other numbers.
    pub fn with(&self, values: &[(&str, f64)]) -> Point {
        let mut point = self.clone();
        point.0.extend(values.iter().map(|&(name, value)| (name.to_owned(), json!(value))));
        point
    }

    /// Without a setting: of points that are alike but for it, the same.
    pub fn without(&self, name: Option<&str>) -> Point {
        let mut point = self.clone();
        name.map(|name| point.0.remove(name));
        point
    }

    /// What of it differs from another, in words.
    pub fn words(&self, names: &[&str]) -> String {
        let word = |name: &&str| Some(format!("{name} {}", self.0.get(*name)?));
        names.iter().filter_map(word).collect::<Vec<_>>().join(", ")
    }
}

/// What a point did for some facts, in percent; all against the same records unedited.
#[derive(Clone, Debug, Serialize)]
pub struct TuneTrial {
    /// The settings.
    pub point: Point,
    /// Facts.
    pub facts: usize,
    /// Of which so many were edited together: at once, or by rome and r-rome one upon the other.
    pub at_once: usize,
    /// Efficacy.
    pub es: f64,
    /// Efficacy unedited.
    pub es_before: f64,
    /// Paraphrases.
    pub ps: f64,
    /// Neighbourhood.
    pub ns: f64,
    /// The harmonic mean of the three.
    pub score: f64,
    /// How much neighbourhood fell, or rose.
    pub ns_change: f64,
    /// Facts that greedy decoding says.
    pub taken: usize,
    /// The smallest s of a layer, where it is known.
    pub s: Option<f64>,
    /// Seconds that it took to edit, and to measure.
    pub seconds: [f64; 2],
}

/// What efficacy and paraphrases are to reach, in percent: what goes beyond it counts no more.
const ENOUGH: [f64; 2] = [97.5, 95.0];
/// What a point that neighbourhood lost counts, beside one that the others lack.
const NEIGHBOURS: f64 = 2.0;

impl TuneTrial {
    /// Of results; none where they lack one of the metrics.
    pub fn new(point: Point, at_once: usize, results: &[&CaseResult]) -> Option<TuneTrial> {
        let all = measures(results);
        let find = |name: &str| all.iter().find(|measure| measure.name == name);
        let after = |measure: &Measure| measure.mean(&measure.after);
        let of = |name| find(name).and_then(after);
        let ns = find("counterfact.ns")?;
        let facts = || results.iter().flat_map(|result| &result.facts);
        let changes = results.iter().flat_map(|result| &result.changes);
        Some(TuneTrial {
            point,
            facts: results.len(),
            at_once,
            es: of("counterfact.es")?,
            es_before: find("counterfact.es").and_then(|es| es.mean(&es.before))?,
            ps: of("counterfact.ps")?,
            ns: after(ns)?,
            score: of("counterfact.score")?,
            ns_change: after(ns)? - ns.mean(&ns.before)?,
            taken: facts().filter(|fact| fact.taken).count(),
            s: changes.filter_map(|change| change.s).reduce(f64::min),
            seconds: [0, 1].map(|i| results.iter().map(|result| result.seconds[i]).sum()),
        })
    }

    /// By which trials are compared: what efficacy and paraphrases lack of enough, and twice what
    /// neighbourhood lost, in points.
    pub fn cost(&self) -> f64 {
        let [es, ps] = ENOUGH;
        (es - self.es).max(0.0) + (ps - self.ps).max(0.0) - NEIGHBOURS * self.ns_change.min(0.0)
    }

    /// All that was measured.
    pub fn numbers(&self) -> [f64; 6] {
        [self.es, self.ps, self.ns, self.ns_change, self.taken as f64, self.s.unwrap_or(0.0)]
    }

    /// In words.
    pub fn words(&self, names: &[&str]) -> String {
        let s = self.s.map_or(String::new(), |s| format!(", s from {s:.2}"));
        format!(
            "{}: ES {:.1}, PS {:.1}, NS {:.1} ({:+.1}), score {:.1}, {} of {} taken{s}",
            self.point.words(names),
            self.es,
            self.ps,
            self.ns,
            self.ns_change,
            self.score,
            self.taken,
            self.facts,
        )
    }
}

/// The best first; of equals the one with the higher score.
pub fn sort(trials: &mut [TuneTrial]) {
    trials.sort_by(|a, b| a.cost().total_cmp(&b.cost()).then(b.score.total_cmp(&a.score)));
}
