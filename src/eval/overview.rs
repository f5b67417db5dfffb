//! What the results of a run say on the whole: its numbers, by kinds of case, and what it cost.
//!
//! ```text
//! success in a group     the mean over its cases of a metric, or of the share of facts taken
//! age of a case          t − i: cases that were edited after it, t in all and it as the i-th
//! ratio of a change      ‖Δ‖ / ‖W‖
//! ```

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::drift;
use super::interval::{self, Column, Interval, TWO_SIDED, of_shares};
use super::kept::Kept;
use super::measure::{Measure, measures, summaries};
use super::metric::MetricUnit;
use super::results::{CaseResult, ChangeNorm, Summary};
use super::session::{Session, SharedCost, costs};
use super::task;

/// What greedy decoding says, as a share of facts.
pub const TAKEN: &str = "taken";

/// Metrics that are shown by groups.
const SHOWN: usize = 3;

/// Cases that are the first or the last.
const COHORT: usize = 100;

/// Ages by how many cases were edited since, the bound in it.
const AGES: [(usize, &str); 4] = [
    (1, "at most 1 edit later"),
    (10, "2 to 10 edits later"),
    (100, "11 to 100 edits later"),
    (usize::MAX, "more than 100 edits later"),
];

/// P of the new target before the edit, the bound not in it.
const PROBABILITIES: [(f64, &str); 5] = [
    (1e-4, "below 0.01 %"),
    (1e-3, "0.01 to 0.1 %"),
    (1e-2, "0.1 to 1 %"),
    (1e-1, "1 to 10 %"),
    (f64::INFINITY, "10 % and more"),
];

/// What is said of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// Cases that its numbers are of.
    pub cases: usize,
    /// Facts in them.
    pub facts: usize,
    /// Facts of which the edited model says the new target; none where nothing was edited.
    pub taken: Option<usize>,
    /// Each metric by its name.
    pub metrics: BTreeMap<String, Summary>,
    /// Tokens of the text that was measured.
    pub tokens_of_text: usize,
    /// Success by Wikidata's property, the most frequent first.
    pub by_relation: Vec<Cohort>,
    /// By how many cases were edited since; of edits one upon the other.
    pub by_age: Vec<Cohort>,
    /// Cases that are in no cohort of an age, since a later case asks the same for another target.
    pub overwritten: usize,
    /// By P of the new target before the edit.
    pub by_probability: Vec<Cohort>,
    /// How far matrices were moved, in the order of the edit.
    pub changes: Vec<MovedMatrix>,
    /// Where time and memory went.
    pub costs: Vec<SharedCost>,
    /// The calls that did the work.
    pub sessions: Vec<Session>,
}

/// Cases that have something in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cohort {
    /// What.
    pub group: String,
    /// How many they are.
    pub cases: usize,
    /// How they did.
    pub success: Vec<CohortValue>,
}

/// A number over a cohort, in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CohortValue {
    /// A metric, or [`TAKEN`].
    pub metric: String,
    /// Its mean over the cohort's cases.
    pub mean: f64,
    /// The lower end of its interval of 95 %.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How far edits moved a matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MovedMatrix {
    /// `layers.5.down`.
    pub matrix: String,
    /// The mean over cases of ‖Δ‖.
    pub norm: f64,
    /// The mean of ‖Δ‖/‖W‖.
    pub ratio: f64,
    /// The largest.
    pub ratio_max: f64,
}

impl Overview {
    /// Of a run's results. The seed is that of intervals.
    pub fn new(kept: &Kept, seed: u64) -> Overview {
        let cases = kept.last();
        let measures = measures(&cases);
        let edits = kept.run["method"].is_string();
        let sequential = kept.is_sequential();
        let success = Success { metrics: success_metrics(edits, &measures), seed };
        let facts = || cases.iter().flat_map(|case| &case.facts);
        let overwritten = Overwritten::new(&kept.results);
        let by_age = if sequential { ages(&kept.results, &overwritten) } else { vec![] };
        let by_probability = if edits { probabilities(&cases) } else { vec![] };
        let lost = || cases.iter().filter(|case| overwritten.has(case)).count();
        let mut metrics = summaries(&measures, seed);
        metrics.extend(drift::summarise(&kept.documents, seed));
        metrics.extend(task::summarise(&kept.tasks, seed));
        Overview {
            cases: cases.len(),
            facts: facts().count(),
            taken: edits.then(|| facts().filter(|fact| fact.taken).count()),
            metrics,
            tokens_of_text: kept.documents.iter().map(|document| document.tokens).sum(),
            by_relation: success.cohorts(relations(&cases)),
            by_age: success.cohorts(by_age),
            overwritten: if sequential { lost() } else { 0 },
            by_probability: success.cohorts(by_probability),
            changes: moved(&cases),
            costs: costs(&kept.sessions),
            sessions: kept.sessions.clone(),
        }
    }
}

/// What success is by groups: whether facts were taken, if we know, and the first metrics of the
/// first suite that are shares.
fn success_metrics(edits: bool, measures: &[Measure]) -> Vec<String> {
    let suite = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let shares = || measures.iter().filter(|m| m.unit == MetricUnit::Share && m.after.len() == 1);
    let first = shares().next().map(|measure| suite(&measure.name));
    let own = shares().filter(|measure| Some(suite(&measure.name)) == first).take(SHOWN);
    edits.then(|| TAKEN.to_owned()).into_iter().chain(own.map(|m| m.name.clone())).collect()
}

/// Results by what they have in common. A case may be in one several times, measured when other
/// numbers of cases were edited.
type Groups<'a> = Vec<(String, Vec<&'a CaseResult>)>;

fn relations<'a>(cases: &[&'a CaseResult]) -> Groups<'a> {
    let mut all: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
    for &case in cases {
        if let Some(relation) = case.facts.iter().find_map(|fact| fact.relation.as_deref()) {
            all.entry(relation).or_default().push(case);
        }
    }
    let mut all: Groups = all.into_iter().map(|(name, cases)| (name.to_owned(), cases)).collect();
    all.sort_by_key(|(_, cases)| std::cmp::Reverse(cases.len()));
    all
}

fn probabilities<'a>(cases: &[&'a CaseResult]) -> Groups<'a> {
    let p = |case: &CaseResult| {
        let facts = case.facts.iter().map(|fact| Some(fact.p_target[0]));
        interval::mean(&facts.collect::<Vec<_>>()).unwrap_or(0.0)
    };
    let mut groups: Groups = PROBABILITIES.map(|(_, name)| (name.to_owned(), vec![])).into();
    for &case in cases {
        let bin = PROBABILITIES.iter().position(|(bound, _)| p(case) < *bound);
        groups[bin.unwrap_or(PROBABILITIES.len() - 1)].1.push(case);
    }
    groups
}

fn ages<'a>(results: &'a [CaseResult], overwritten: &Overwritten) -> Groups<'a> {
    let mut groups: Groups = AGES.map(|(_, name)| (name.to_owned(), vec![])).into();
    let kept = || results.iter().filter(|result| !overwritten.has(result));
    for result in kept() {
        let age = result.edited.saturating_sub(result.place + 1);
        let bin = AGES.iter().position(|(bound, _)| age <= *bound);
        groups[bin.unwrap_or(AGES.len() - 1)].1.push(result);
    }
    let last = results.iter().map(|result| result.edited).max().unwrap_or(0);
    if last > COHORT {
        let at_the_end = || kept().filter(|result| result.edited == last);
        let first = at_the_end().filter(|result| result.place < COHORT).collect();
        let newest = at_the_end().filter(|result| result.place >= last - COHORT).collect();
        groups.push((format!("the first {COHORT}, after all {last}"), first));
        groups.push((format!("the last {COHORT}, after all {last}"), newest));
    }
    groups
}

/// Who asks each prompt for what, by place.
struct Overwritten<'a>(HashMap<&'a str, Vec<(usize, &'a str)>>);

impl<'a> Overwritten<'a> {
    fn new(results: &'a [CaseResult]) -> Overwritten<'a> {
        let mut asked: HashMap<&str, Vec<(usize, &str)>> = HashMap::new();
        for result in results {
            for fact in &result.facts {
                asked.entry(&fact.prompt).or_default().push((result.place, &fact.target_new));
            }
        }
        Overwritten(asked)
    }

    /// Whether a case that was edited after this one, and before it was measured, asks one of its
    /// prompts for another target.
    fn has(&self, result: &CaseResult) -> bool {
        let later = result.place + 1..result.edited.max(result.place + 1);
        result.facts.iter().any(|fact| {
            let mut others = self.0.get(&*fact.prompt).into_iter().flatten();
            others.any(|(i, target)| later.contains(i) && *target != fact.target_new)
        })
    }
}

/// What is looked at in groups.
struct Success {
    metrics: Vec<String>,
    seed: u64,
}

impl Success {
    fn cohorts(&self, groups: Groups) -> Vec<Cohort> {
        let cohort = |(group, results): (String, Vec<&CaseResult>)| {
            let mut by_case: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
            for result in results {
                by_case.entry(&result.id).or_default().push(result);
            }
            let of = |metric: &String| {
                let case = |results: &Vec<&CaseResult>| {
                    let values = results.iter().map(|result| value(metric, result));
                    interval::mean(&values.collect::<Vec<_>>())
                };
                let column: Column = by_case.values().map(case).collect();
                let mean = 100.0 * interval::mean(&column)?;
                let Interval { low, high } = of_shares(&column, TWO_SIDED, self.seed)?;
                let (metric, low, high) = (metric.clone(), 100.0 * low, 100.0 * high);
                Some(CohortValue { metric, mean, low, high })
            };
            let success = self.metrics.iter().filter_map(of).collect();
            Cohort { group, cases: by_case.len(), success }
        };
        groups.into_iter().filter(|(_, results)| !results.is_empty()).map(cohort).collect()
    }
}

/// How a case did by a metric, after the edit if there was one.
fn value(metric: &str, result: &CaseResult) -> Option<f64> {
    let values: Vec<Option<f64>> = match metric {
        TAKEN => result.facts.iter().map(|fact| Some(f64::from(u8::from(fact.taken)))).collect(),
        metric => {
            let own = result.values.iter().filter(|value| value.metric == metric);
            own.map(|value| Some(value.after.unwrap_or(value.before))).collect()
        }
    };
    interval::mean(&values)
}

fn moved(cases: &[&CaseResult]) -> Vec<MovedMatrix> {
    let changes = || cases.iter().flat_map(|case| &case.changes);
    let mut names: Vec<&str> = Vec::new();
    for change in changes().filter(|change| change.weight > 0.0) {
        if !names.contains(&&*change.matrix) {
            names.push(&change.matrix);
        }
    }
    let of = |name: &str| {
        let own: Vec<&ChangeNorm> = changes().filter(|change| change.matrix == name).collect();
        let ratios = || own.iter().map(|change| change.norm / change.weight);
        let n = own.len() as f64;
        MovedMatrix {
            matrix: name.to_owned(),
            norm: own.iter().map(|change| change.norm).sum::<f64>() / n,
            ratio: ratios().sum::<f64>() / n,
            ratio_max: ratios().fold(0.0, f64::max),
        }
    };
    names.into_iter().map(of).collect()
}
