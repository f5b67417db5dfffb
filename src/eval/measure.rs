//! A number over cases: what it is made of, where it lies, and how it differs from another.
//!
//! ```text
//! m_j    the mean over cases of column j, a case's value the mean over its prompts
//! a metric is m_1; the score is the harmonic mean of m_1 (es), m_2 (ps), m_3 (ns)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::interval::{self, Column, Interval, TWO_SIDED, bootstrap, of_shares};
use super::metric::MetricUnit;
use super::results::{CaseResult, PromptResult, Summary};
use super::suites;

/// The harmonic mean of efficacy, paraphrase and neighbourhood success.
pub const SCORE: &str = "counterfact.score";

/// What it is made of.
const PARTS: [&str; 3] = ["counterfact.es", "counterfact.ps", "counterfact.ns"];

/// A number over cases, of the unedited model and of the edited one.
#[derive(Clone)]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// What it is.
    pub definition: String,
    /// EasyEdit's name for numbers it may be compared with.
    pub comparable_group: Option<&'static str>,
    /// What a value is.
    pub unit: MetricUnit,
    /// Of the unedited model: a column a part, with a value a case.
    pub before: Vec<Column>,
    /// Of the edited one; columns of nothing where there was none.
    pub after: Vec<Column>,
}

/// All numbers of some cases: the metrics in the order of their suites, then the score.
pub fn measures(cases: &[&CaseResult]) -> Vec<Measure> {
    let names: BTreeSet<&str> =
        cases.iter().flat_map(|case| case.values.iter().map(|value| &value.metric[..])).collect();
    let mut all: Vec<Measure> =
        names.into_iter().filter_map(|name| Measure::new(name, cases)).collect();
    all.sort_by_key(|measure| suites::place(&measure.name));
    all.extend(Measure::score(&all));
    all
}

/// The summary of each number of some cases by its name.
pub fn summarise(cases: &[&CaseResult], seed: u64) -> BTreeMap<String, Summary> {
    summaries(&measures(cases), seed)
}

/// The summary of each number by its name.
pub fn summaries(measures: &[Measure], seed: u64) -> BTreeMap<String, Summary> {
    let summary = |measure: &Measure| Some((measure.name.clone(), measure.summary(seed)?));
    measures.iter().filter_map(summary).collect()
}

impl Measure {
    /// A metric by its name; none where no suite has it.
    fn new(name: &str, cases: &[&CaseResult]) -> Option<Measure> {
        let metric = suites::metric(name)?.metric;
        let mean = |of: fn(&PromptResult) -> Option<f64>| {
            let case = |case: &&CaseResult| {
                let own = case.values.iter().filter(|value| value.metric == name);
                interval::mean(&own.map(of).collect::<Vec<_>>())
            };
            cases.iter().map(case).collect()
        };
        Some(Measure {
            name: name.to_owned(),
            definition: metric.definition.to_owned(),
            comparable_group: metric.comparable_group,
            unit: metric.unit,
            before: vec![mean(|value| Some(value.before))],
            after: vec![mean(|value| value.after)],
        })
    }

    /// Of its parts; none where one is missing.
    fn score(all: &[Measure]) -> Option<Measure> {
        let of = |name| all.iter().find(|measure| measure.name == name);
        let parts: Vec<&Measure> = PARTS.into_iter().map(of).collect::<Option<_>>()?;
        Some(Measure {
            name: SCORE.to_owned(),
            definition: "harmonic mean of counterfact.es, .ps and .ns".to_owned(),
            comparable_group: None,
            unit: MetricUnit::Share,
            before: parts.iter().map(|part| part.before[0].clone()).collect(),
            after: parts.iter().map(|part| part.after[0].clone()).collect(),
        })
    }

    /// Its columns: after the edit, if there was one.
    pub fn values(&self) -> &[Column] {
        let edited = self.after.iter().all(|column| interval::mean(column).is_some());
        if edited { &self.after } else { &self.before }
    }

    /// The number itself, as it is shown.
    pub fn mean(&self, columns: &[Column]) -> Option<f64> {
        let means: Option<Vec<f64>> = columns.iter().map(|c| interval::mean(c)).collect();
        Some(self.unit.scale() * of_means(&means?))
    }

    /// Where it lies, as it is shown.
    pub fn interval(&self, columns: &[Column], seed: u64) -> Option<Interval> {
        let Interval { low, high } = match (columns, self.unit) {
            ([column], MetricUnit::Share) => of_shares(column, TWO_SIDED, seed),
            _ => bootstrap(&slices(columns), of_means, TWO_SIDED, seed),
        }?;
        let scale = self.unit.scale();
        Some(Interval { low: scale * low, high: scale * high })
    }

    /// How much higher the number is in one set of columns than in another, over the cases that
    /// both have, with its interval.
    pub fn difference(&self, from: &[Column], to: &[Column], seed: u64) -> Option<[f64; 3]> {
        let scale = self.unit.scale();
        let (mean, Interval { low, high }) = match (from, to) {
            ([from], [to]) => {
                let change = interval::change(from, to);
                let of_change = bootstrap(&[&change], of_means, TWO_SIDED, seed)?;
                (scale * interval::mean(&change)?, of_change)
            }
            _ => {
                let parts = from.len();
                let both: Vec<&[Option<f64>]> = [slices(from), slices(to)].concat();
                let change = |m: &[f64]| of_means(&m[parts..]) - of_means(&m[..parts]);
                let mean = self.mean(to)? - self.mean(from)?;
                (mean, bootstrap(&both, change, TWO_SIDED, seed)?)
            }
        };
        Some([mean, scale * low, scale * high])
    }

    /// Cases that have it.
    pub fn n(&self) -> usize {
        self.values().iter().map(|column| column.iter().flatten().count()).min().unwrap_or(0)
    }

    /// What is said of it.
    pub fn summary(&self, seed: u64) -> Option<Summary> {
        let values = self.values();
        let Interval { low, high } = self.interval(values, seed)?;
        Some(Summary {
            mean: self.mean(values)?,
            low,
            high,
            before: self.mean(&self.before)?,
            change: self.difference(&self.before, &self.after, seed),
            n: self.n(),
            definition: self.definition.clone(),
            comparable_group: self.comparable_group.map(str::to_owned),
        })
    }
}

fn slices(columns: &[Column]) -> Vec<&[Option<f64>]> {
    columns.iter().map(|column| &column[..]).collect()
}

/// The mean of a metric, the harmonic one of several.
fn of_means(means: &[f64]) -> f64 {
    match means {
        [mean] => *mean,
        means => harmonic_mean(means),
    }
}

/// 0 where one of them is.
pub fn harmonic_mean(values: &[f64]) -> f64 {
    match values.contains(&0.0) {
        true => 0.0,
        false => values.len() as f64 / values.iter().map(|value| 1.0 / value).sum::<f64>(),
    }
}
