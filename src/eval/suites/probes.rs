//! Locality and portability by the probes' kinds: what must stay as it is, and what must follow.
//!
//! ```text
//! locality.agreement      the likeliest tokens at the answer's places are those of before
//! locality.correct        greedy decoding says a right answer, in any spelling
//! portability             the same of what follows from the edit
//! ```

use crate::base::Result;
use crate::data::{Case, Probe, Role};
use crate::eval::item::{Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit};
use crate::eval::suite::Suite;
use crate::eval::words::Words;

const fn metric(name: &'static str, definition: &'static str) -> Metric {
    Metric { name, definition, comparable_group: None, unit: MetricUnit::Share }
}

static AGREEMENT: Metric = metric(
    "locality.agreement",
    "share of the answer's places where the likeliest token is the one before the edit",
);
static CORRECT: Metric =
    metric("locality.correct", "greedy decoding says a right answer, in any of its spellings");
static PORTABILITY: Metric = metric(
    "portability",
    "greedy decoding says a right answer, in any of its spellings, to what follows from the edit",
);

/// What the edit has nothing to do with.
pub const LOCALITY: Suite =
    Suite { name: "locality", metrics: &[&AGREEMENT, &CORRECT], items: locality, by_default: true };

/// What follows from it.
pub const PORTABILITY_SUITE: Suite =
    Suite { name: "portability", metrics: &[&PORTABILITY], items: portability, by_default: true };

/// A question a spelling of any right answer.
fn spellings(words: &Words, probe: &Probe) -> Result<Vec<Question>> {
    let all = probe.answers.iter().flatten();
    all.map(|answer| Ok(Question::Takes(words.candidate(&probe.prompt, answer, None)?))).collect()
}

fn locality(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let mut items = Vec::new();
    for probe in case.role(Role::Locality).filter(|probe| probe.target().is_some()) {
        let questions = spellings(words, probe)?;
        let prompt = || probe.prompt.clone();
        items.push(TestItem {
            metric: AGREEMENT.of(&probe.kind),
            prompt: prompt(),
            questions: questions[..1].to_vec(),
            rule: Rule::Agrees,
        });
        let metric = CORRECT.of(&probe.kind);
        items.push(TestItem { metric, prompt: prompt(), questions, rule: Rule::Said });
    }
    Ok(items)
}

fn portability(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let there = case.role(Role::Portability).filter(|probe| probe.target().is_some());
    there
        .map(|probe| {
            Ok(TestItem {
                metric: PORTABILITY.of(&probe.kind),
                prompt: probe.prompt.clone(),
                questions: spellings(words, probe)?,
                rule: Rule::Said,
            })
        })
        .collect()
}
