//! What was measured: a line a case, and the summary of all.
//!
//! `results.jsonl` has a [`CaseResult`] a line, in the order in which cases were done;
//! `summary.json` has, under `metrics`, a [`Summary`] a metric. Values of a line are as they were
//! measured (shares from 0 to 1), those of the summary as they are shown (percent).

use serde::{Deserialize, Serialize};

use super::sheet::Sheet;

/// What was measured of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's id.
    pub id: String,
    /// Its place among the cases, from 0: the order in which they are edited.
    #[serde(default)]
    pub place: usize,
    /// Cases that were edited when it was measured; 0 for an unedited model.
    pub edited: usize,
    /// The form of its record.
    pub form: String,
    /// Its facts.
    pub facts: Vec<FactResult>,
    /// Its values, an item each.
    pub values: Vec<PromptResult>,
    /// The change of each matrix that it was measured with, which it may share with others.
    #[serde(default)]
    pub changes: Vec<ChangeNorm>,
    /// Its share of the seconds that the edit took and that measuring took.
    pub seconds: [f64; 2],
}

/// How far a matrix was moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeNorm {
    /// `layers.5.down`.
    pub matrix: String,
    /// ‖Δ‖.
    pub norm: f64,
    /// ‖W‖ before it.
    pub weight: f64,
    /// s: 1/(1 + s) is the most that the layer misses of what it was to give of a value; nothing
    /// where it is not known.
    #[serde(default)]
    pub s: Option<f64>,
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
        let of = |(i, item): (usize, &super::item::TestItem)| PromptResult {
            metric: item.metric.to_string(),
            prompt: item.prompt.clone(),
            before: before[i],
            after: after.map(|after| after[i]),
        };
        self.items.iter().enumerate().map(of).collect()
    }
}
