//! QAEdit's free generation (Yang et al. 2025, arXiv:2502.11177, WILD): the question alone, greedy,
//! at most 50 tokens, ended by the first of ".", a line's end and the model's own end of text; the
//! answer is right where it is the target after SQuAD's normalisation.
//!
//! EasyEdit's evaluation of the same name wraps questions in a chat template and goes on for 512
//! tokens: the numbers do not compare.

use crate::base::Result;
use crate::data::{Case, Form, Role};
use crate::eval::item::{Compared, Continuing, Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit, Named};
use crate::eval::suite::Suite;
use crate::eval::words::Words;

const STOPS: [&str; 2] = [".", "\n"];
const MOST: usize = 50;

const fn metric(name: &'static str, definition: &'static str) -> Metric {
    Metric { name, definition, comparable_group: None, unit: MetricUnit::Share }
}

static RELIABILITY: Metric = metric(
    "wild.reliability",
    "what the model says to the question, up to a stop, is the target by normalised exact match",
);
static GENERALISATION: Metric =
    metric("wild.generalisation", "wild.reliability on the rephrased question");
static LOCALITY: Metric = metric(
    "wild.locality",
    "to a question that has nothing to do with the edit it says the tokens it said before",
);
static STOPPED: Metric = metric(
    "wild.target_holds_stop",
    "the target holds a string that ends a text, so that it can never match",
);

/// Free generation.
pub const SUITE: Suite = Suite {
    name: "wild",
    metrics: &[&RELIABILITY, &GENERALISATION, &LOCALITY, &STOPPED],
    items,
    by_default: false,
};

fn items(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    if case.form != Form::QaEdit {
        return Ok(vec![]);
    }
    let mut items = Vec::new();
    for fact in &case.facts {
        let target = &fact.target_new;
        let right = || Rule::Answers { right: vec![target.clone()], by: Compared::Normalised };
        items.push(item(words, &RELIABILITY, &fact.filled(), right())?);
        for probe in case.role(Role::Paraphrase) {
            items.push(item(words, &GENERALISATION, &probe.prompt, right())?);
        }
        let stopped = STOPS.iter().any(|stop| target.contains(stop));
        items.push(TestItem {
            metric: Named::from(&STOPPED),
            prompt: fact.filled(),
            questions: vec![],
            rule: Rule::Known(f64::from(u8::from(stopped))),
        });
    }
    for probe in case.role(Role::Locality) {
        items.push(item(words, &LOCALITY, &probe.prompt, Rule::SaysTheSame)?);
    }
    Ok(items)
}

fn item(words: &Words, metric: &'static Metric, prompt: &str, rule: Rule) -> Result<TestItem> {
    let question = Continuing::greedy(words.ids(prompt)?, MOST, &STOPS);
    let (metric, prompt) = (Named::from(metric), prompt.to_owned());
    Ok(TestItem { metric, prompt, questions: vec![Question::Says(question)], rule })
}
