//! What was measured: a line a case, and the summary of all.
//!
//! `results.jsonl` has a [`CaseResult`] a line, in the order in which cases were done;
//! `summary.json` has, under `metrics`, a [`Summary`] a metric. Values of a line are as they were
//! measured (shares from 0 to 1), those of the summary as they are shown (percent).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::interval::{self, Column, Interval, TWO_SIDED, bootstrap, of_shares};
use super::metric::{Named, Unit};
use super::sheet::Sheet;
use super::suites;

/// What was measured of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's id.
    pub id: String,
    /// Cases that were edited when it was measured; 0 for an unedited model.
    pub edited: usize,
    /// The form of its record.
    pub form: String,
    /// Its facts.
    pub facts: Vec<FactResult>,
    /// Its values, an item each.
    pub values: Vec<PromptResult>,
    /// Seconds that the edit took and that measuring took.
    pub seconds: [f64; 2],
}

/// What became of one fact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FactResult {
    /// The prompt, its subject filled in.
    pub prompt: String,
    /// The new target.
    pub target_new: String,
    /// The true one, if it is known.
    pub target_true: Option<String>,
    /// Wikidata's property, if it is known.
    pub relation: Option<String>,
    /// P of the whole new target before and after.
    pub p_target: [f64; 2],
    /// Whether greedy decoding says it after the edit.
    pub taken: bool,
    /// Why it was not taken.
    pub why: Option<String>,
}

/// A value of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptResult {
    /// Its name, with its kind.
    pub metric: String,
    /// What it was measured on.
    pub prompt: String,
    /// Of the unedited model.
    pub before: f64,
    /// Of the edited one; nothing where none was asked for.
    pub after: Option<f64>,
}

/// What is said of a metric over all cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The mean over cases of their means over prompts: after the edit, if there was one.
    pub mean: f64,
    /// The lower end of its interval of 95 %.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The mean of the unedited model.
    pub before: f64,
    /// After less before, paired by case, with its interval; of an edited model.
    pub change: Option<[f64; 3]>,
    /// Cases that have it.
    pub n: usize,
    /// What it is.
    pub definition: String,
    /// EasyEdit's name for numbers it may be compared with.
    pub comparable_group: Option<String>,
}

impl Sheet {
    /// The values as they are kept.
    pub fn results(&self, before: &[f64], after: Option<&[f64]>) -> Vec<PromptResult> {
        let of = |(i, item): (usize, &super::item::Item)| PromptResult {
            metric: item.metric.to_string(),
            prompt: item.prompt.clone(),
            before: before[i],
            after: after.map(|after| after[i]),
        };
        self.items.iter().enumerate().map(of).collect()
    }
}

/// A metric's values: a mean a case.
struct Columns {
    metric: Named,
    before: Column,
    after: Column,
}

/// The summary of each metric by its name, in percent where its values are shares.
pub fn summarise(cases: &[&CaseResult], seed: u64) -> BTreeMap<String, Summary> {
    let names: BTreeSet<&str> =
        cases.iter().flat_map(|case| case.values.iter().map(|value| &value.metric[..])).collect();
    let names = names.into_iter().filter_map(suites::metric);
    let columns: Vec<Columns> = names.map(|name| columns(cases, &name)).collect();
    let mut all: BTreeMap<String, Summary> = columns
        .iter()
        .filter_map(|columns| Some((columns.metric.to_string(), summary(columns, seed)?)))
        .collect();
    if let Some(score) = score(&columns, seed) {
        all.insert("counterfact.score".to_owned(), score);
    }
    all
}

fn columns(cases: &[&CaseResult], metric: &Named) -> Columns {
    let name = metric.to_string();
    let mean = |of: fn(&PromptResult) -> Option<f64>| {
        let case = |case: &&CaseResult| {
            let own = case.values.iter().filter(|value| value.metric == name);
            interval::mean(&own.map(of).collect::<Vec<_>>())
        };
        cases.iter().map(case).collect()
    };
    Columns { metric: metric.clone(), before: mean(|v| Some(v.before)), after: mean(|v| v.after) }
}

fn summary(columns: &Columns, seed: u64) -> Option<Summary> {
    let metric = columns.metric.metric;
    let before = interval::mean(&columns.before)?;
    let edited = interval::mean(&columns.after).is_some();
    let values = if edited { &columns.after } else { &columns.before };
    let of_values = match metric.unit {
        Unit::Share => of_shares(values, TWO_SIDED, seed),
        _ => bootstrap(&[values], |means| means[0], TWO_SIDED, seed),
    };
    let change = interval::change(&columns.before, &columns.after);
    let of_change = bootstrap(&[&change], |means| means[0], TWO_SIDED, seed);
    let scale = metric.unit.scale();
    let Interval { low, high } = of_values?;
    Some(Summary {
        mean: scale * interval::mean(values)?,
        low: scale * low,
        high: scale * high,
        before: scale * before,
        change: interval::mean(&change)
            .zip(of_change)
            .map(|(mean, Interval { low, high })| [mean, low, high].map(|x| scale * x)),
        n: values.iter().flatten().count(),
        definition: metric.definition.to_owned(),
        comparable_group: metric.comparable_group.map(str::to_owned),
    })
}

/// 0 where one of them is.
pub fn harmonic_mean(values: &[f64]) -> f64 {
    match values.iter().any(|&value| value == 0.0) {
        true => 0.0,
        false => values.len() as f64 / values.iter().map(|value| 1.0 / value).sum::<f64>(),
    }
}

/// The harmonic mean of the means of efficacy, paraphrase and neighbourhood success.
fn score(all: &[Columns], seed: u64) -> Option<Summary> {
    const PARTS: [&str; 3] = ["counterfact.es", "counterfact.ps", "counterfact.ns"];
    let of = |name| all.iter().find(|columns| columns.metric.metric.name == name);
    let parts: Vec<&Columns> = PARTS.into_iter().map(of).collect::<Option<_>>()?;
    let before: Vec<&[Option<f64>]> = parts.iter().map(|part| &part.before[..]).collect();
    let after: Vec<&[Option<f64>]> = parts.iter().map(|part| &part.after[..]).collect();
    let mean = |columns: &[&[Option<f64>]]| {
        let means: Vec<f64> = columns.iter().map(|c| interval::mean(c)).collect::<Option<_>>()?;
        Some(harmonic_mean(&means))
    };
    let edited = mean(&after).is_some();
    let values = if edited { &after } else { &before };
    let Interval { low, high } = bootstrap(values, harmonic_mean, TWO_SIDED, seed)?;
    let both: Vec<&[Option<f64>]> = before.iter().chain(&after).copied().collect();
    let change = |m: &[f64]| harmonic_mean(&m[3..]) - harmonic_mean(&m[..3]);
    let of_change = bootstrap(&both, change, TWO_SIDED, seed);
    Some(Summary {
        mean: 100.0 * mean(values)?,
        low: 100.0 * low,
        high: 100.0 * high,
        before: 100.0 * mean(&before)?,
        change: mean(&after).zip(of_change).zip(mean(&before)).map(|((after, change), before)| {
            [after - before, change.low, change.high].map(|x| 100.0 * x)
        }),
        n: values.iter().map(|column| column.iter().flatten().count()).min()?,
        definition: "harmonic mean of counterfact.es, .ps and .ns".to_owned(),
        comparable_group: None,
    })
}
