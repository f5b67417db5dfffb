//! General ability: tasks as lm-evaluation-harness measures them.
//!
//! ```text
//! ll_j          Σ_t ln p(choice_j,t | context, choice_j,<t)
//! acc           1 where the right choice has the largest ll
//! acc_norm      … the largest ll over its characters         (of the choice, without delimiter)
//! acc_bytes     … the largest ll over its bytes of UTF-8
//! exact_match   1 where greedy decoding, up to a stop, says the answer, both trimmed
//! ```
//!
//! Context and choice become tokens together, and the choice has those after as many as the context
//! has alone; white space that ends the context goes to the choice. Of equal choices the first
//! counts.
//! Source: EleutherAI/lm-evaluation-harness 0.4.13.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ask::Respondent;
use super::interval::{self, Column, TWO_SIDED, bootstrap, change, of_shares};
use super::item::{Answer, Continuing, Question};
use super::results::Summary;
use crate::base::{Error, Result};
use crate::data::{TaskDocument, TaskQuestion};
use crate::model::completion::Completion;
use crate::text::Tokenizer;

/// What a model answered to a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskAnswer {
    /// ll of each choice, and whether greedy decoding says it.
    Choices(Vec<(f64, bool)>),
    /// What it said, up to a stop.
    Text(String),
}

/// A document and what was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The document.
    pub document: TaskDocument,
    /// The unedited model's answer.
    pub before: TaskAnswer,
    /// The edited one's, if there is one.
    pub after: Option<TaskAnswer>,
}

/// A metric and what it is.
struct TaskMetric {
    name: &'static str,
    definition: &'static str,
}

const OF_CHOICES: [TaskMetric; 3] = [
    TaskMetric { name: "acc", definition: "the right choice has the largest log-likelihood" },
    TaskMetric {
        name: "acc_norm",
        definition: "the right choice has the largest log-likelihood over its characters",
    },
    TaskMetric {
        name: "acc_bytes",
        definition: "the right choice has the largest log-likelihood over its bytes",
    },
];
const OF_TEXT: [TaskMetric; 1] = [TaskMetric {
    name: "exact_match",
    definition: "greedy decoding says the answer up to a stop, both trimmed of white space",
}];

/// What documents ask.
pub struct TaskSheet<'a> {
    asked: Vec<(&'a TaskDocument, Vec<Question>)>,
    /// Documents that are left out, because a text is longer than the model's context.
    pub too_long: usize,
}

impl<'a> TaskSheet<'a> {
    /// Of documents, for a model of so many positions.
    ///
    /// # Errors
    ///
    /// A text that the tokenizer fails on; a choice that has no tokens.
    pub fn new(
        documents: &'a [TaskDocument],
        tokenizer: &Tokenizer,
        positions: usize,
    ) -> Result<TaskSheet<'a>> {
        let ask = |document| Ok((document, questions(tokenizer, document)?));
        let mut asked = documents.iter().map(ask).collect::<Result<Vec<_>>>()?;
        asked.retain(|(_, questions)| questions.iter().all(|q| q.positions() <= positions));
        Ok(TaskSheet { too_long: documents.len() - asked.len(), asked })
    }

    /// How many documents it asks about.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Whether it asks nothing.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Some of the documents.
    pub fn documents(&self, some: Range<usize>) -> impl Iterator<Item = &'a TaskDocument> {
        self.asked[some].iter().map(|(document, _)| *document)
    }

    /// A model's answers to some of them.
    ///
    /// # Errors
    ///
    /// A device out of memory; a text that the tokenizer cannot decode.
    pub fn answers(&self, by: &Respondent, some: Range<usize>) -> Result<Vec<TaskAnswer>> {
        let asked: Vec<&[Question]> =
            self.asked[some].iter().map(|(_, questions)| &questions[..]).collect();
        Ok(by.answers(&asked)?.iter().map(|answers| told(answers)).collect())
    }
}

fn questions(tokenizer: &Tokenizer, document: &TaskDocument) -> Result<Vec<Question>> {
    let context = document.context.trim_end();
    let space = &document.context[context.len()..];
    match &document.asked {
        TaskQuestion::Choices { choices, delimiter, .. } => {
            let start = tokenizer.encode(context)?.len();
            let question = |choice: &String| {
                let read = tokenizer.encode(&format!("{context}{space}{delimiter}{choice}"))?;
                let labels = read.get(start..).unwrap_or_default().to_vec();
                if labels.is_empty() || start == 0 {
                    let (task, place) = (&document.task, document.place);
                    let what = format!("{task}, document {place}: a choice without tokens");
                    return Err(Error::refused(what, "write another choice"));
                }
                let read = read[..read.len() - 1].to_vec();
                Ok(Question::Takes(Completion { read, labels }))
            };
            choices.iter().map(question).collect()
        }
        TaskQuestion::Text { stops, max_tokens, .. } => {
            let ids = tokenizer.encode(&document.context)?;
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            Ok(vec![Question::Says(Continuing::greedy(ids, *max_tokens, &stops))])
        }
    }
}

fn told(answers: &[Answer]) -> TaskAnswer {
    let choice = |answer: &Answer| match answer {
        Answer::Takes(score) => {
            (-score.nll() * score.tokens.len() as f64, score.missed().is_none())
        }
        other => panic!("no score: {other:?}"),
    };
    match answers {
        [Answer::Says { text, .. }] => TaskAnswer::Text(text.clone()),
        scores => TaskAnswer::Choices(scores.iter().map(choice).collect()),
    }
}

impl TaskResult {
    fn metrics(&self) -> &'static [TaskMetric] {
        match self.document.asked {
            TaskQuestion::Choices { .. } => &OF_CHOICES,
            TaskQuestion::Text { .. } => &OF_TEXT,
        }
    }

    /// The value of each metric, in order.
    pub fn values(&self, answer: &TaskAnswer) -> Vec<f64> {
        let share = |yes: bool| f64::from(u8::from(yes));
        match (&self.document.asked, answer) {
            (TaskQuestion::Choices { choices, gold, .. }, TaskAnswer::Choices(lls)) => {
                let best = |length: &dyn Fn(&str) -> usize| {
                    let over =
                        |(choice, (ll, _)): (&String, &(f64, bool))| ll / length(choice) as f64;
                    let values: Vec<f64> = choices.iter().zip(lls).map(over).collect();
                    let largest =
                        (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b]));
                    share(largest == Some(*gold))
                };
                vec![best(&|_| 1), best(&|choice| choice.chars().count()), best(&str::len)]
            }
            (TaskQuestion::Text { answer, .. }, TaskAnswer::Text(text)) => {
                vec![share(answer.trim() == text.trim())]
            }
            other => panic!("an answer to another question: {other:?}"),
        }
    }

    /// A line of `samples_*.jsonl`, with the keys of lm-evaluation-harness.
    pub fn sample(&self, answer: &TaskAnswer) -> Value {
        let TaskDocument { context, doc, doc_hash, place, .. } = &self.document;
        let (target, arguments): (String, Vec<[Value; 2]>) = match &self.document.asked {
            TaskQuestion::Choices { choices, gold, delimiter } => {
                let pair =
                    |choice: &String| [json!(context), json!(format!("{delimiter}{choice}"))];
                (gold.to_string(), choices.iter().map(pair).collect())
            }
            TaskQuestion::Text { answer, stops, max_tokens } => {
                let how = json!({"until": stops, "max_gen_toks": max_tokens, "do_sample": false});
                (answer.clone(), vec![[json!(context), how]])
            }
        };
        let responses: Vec<Value> = match answer {
            TaskAnswer::Choices(lls) => {
                let one = |(ll, greedy): &(f64, bool)| {
                    json!([format!("{ll:?}"), if *greedy { "True" } else { "False" }])
                };
                lls.iter().map(one).collect()
            }
            TaskAnswer::Text(text) => vec![json!(text)],
        };
        let named = |[a, b]: &[Value; 2]| json!({"arg_0": a, "arg_1": b});
        let arguments: serde_json::Map<String, Value> = arguments
            .iter()
            .enumerate()
            .map(|(i, pair)| (format!("gen_args_{i}"), named(pair)))
            .collect();
        let mut sample = json!({
            "doc_id": place, "doc": doc, "target": target, "arguments": arguments,
            "resps": responses.iter().map(|one| json!([one])).collect::<Vec<_>>(),
            "filtered_resps": responses, "filter": "none",
            "metrics": self.metrics().iter().map(|metric| metric.name).collect::<Vec<_>>(),
            "doc_hash": doc_hash.clone().unwrap_or_else(|| sha256(&format!("{doc:#}"))),
            "prompt_hash": sha256(context),
            "target_hash": sha256(&target),
        });
        for (metric, value) in self.metrics().iter().zip(self.values(answer)) {
            sample[metric.name] = json!(value);
        }
        sample
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The summary of each metric of each task, as `task.NAME.METRIC`.
pub fn summarise(results: &[TaskResult], seed: u64) -> BTreeMap<String, Summary> {
    let mut tasks: BTreeMap<&str, Vec<&TaskResult>> = BTreeMap::new();
    for result in results {
        tasks.entry(&result.document.task).or_default().push(result);
    }
    let mut all = BTreeMap::new();
    for (task, results) in tasks {
        for (i, metric) in results[0].metrics().iter().enumerate() {
            let same =
                |result: &&&TaskResult| result.metrics()[0].name == results[0].metrics()[0].name;
            let column = |of: &dyn Fn(&TaskResult) -> Option<f64>| -> Column {
                results.iter().filter(same).map(|result| of(result)).collect()
            };
            let before = column(&|result| Some(result.values(&result.before)[i]));
            let after = column(&|result| Some(result.values(result.after.as_ref()?)[i]));
            let name = format!("task.{task}.{}", metric.name);
            all.extend(summary(metric, [&before, &after], seed).map(|summary| (name, summary)));
        }
    }
    all
}

fn summary(metric: &TaskMetric, [before, after]: [&Column; 2], seed: u64) -> Option<Summary> {
    let edited = interval::mean(after).is_some();
    let shown = if edited { after } else { before };
    let interval = of_shares(shown, TWO_SIDED, seed)?;
    let moved = change(before, after);
    let of_change = bootstrap(&[&moved], |means| means[0], TWO_SIDED, seed);
    Some(Summary {
        mean: 100.0 * interval::mean(shown)?,
        low: 100.0 * interval.low,
        high: 100.0 * interval.high,
        before: 100.0 * interval::mean(before)?,
        change: interval::mean(&moved)
            .zip(of_change)
            .map(|(mean, of)| [mean, of.low, of.high].map(|x| 100.0 * x)),
        n: shown.len(),
        definition: metric.definition.to_owned(),
        comparable_group: None,
    })
}
