//! zsRE as the code of ROME and MEMIT scores it.
//!
//! ```text
//! t = 0 … T−1    the likeliest token after x + decode(o_0 … o_{t−1})
//!                is the first id of o_t encoded alone
//! ```
//!
//! The share over t, averaged over a record's prompts. Its specificity counts right answers, where
//! EasyEdit's locality counts unchanged ones.

use crate::base::Result;
use crate::data::{Case, Form, Role};
use crate::eval::item::{Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit, Named};
use crate::eval::suite::Suite;
use crate::eval::words::Words;
use crate::model::completion::Completion;

const fn metric(name: &'static str, definition: &'static str) -> Metric {
    Metric { name, definition, comparable_group: None, unit: MetricUnit::Share }
}

static EFFICACY: Metric = metric(
    "zsre.efficacy",
    "share of the new answer's tokens that are the likeliest after the question and those before",
);
static PARAPHRASE: Metric = metric("zsre.paraphrase", "zsre.efficacy on the rephrased question");
static SPECIFICITY: Metric = metric(
    "zsre.specificity",
    "the same of the right answer to a question that has nothing to do with the edit",
);

/// Efficacy, paraphrase, specificity.
pub const SUITE: Suite = Suite {
    name: "zsre",
    metrics: &[&EFFICACY, &PARAPHRASE, &SPECIFICITY],
    items,
    by_default: true,
};

fn items(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    if case.form != Form::Zsre {
        return Ok(vec![]);
    }
    let mut items = Vec::new();
    for fact in &case.facts {
        items.push(item(words, &EFFICACY, &fact.filled(), &fact.target_new)?);
        for probe in case.role(Role::Paraphrase) {
            items.push(item(words, &PARAPHRASE, &probe.prompt, &fact.target_new)?);
        }
    }
    for probe in case.role(Role::Locality).filter(|probe| probe.kind == "unrelated") {
        if let Some(answer) = probe.target() {
            items.push(item(words, &SPECIFICITY, &probe.prompt, answer)?);
        }
    }
    Ok(items)
}

fn item(words: &Words, metric: &'static Metric, x: &str, answer: &str) -> Result<TestItem> {
    let ids = words.tokenizer.encode_after("a", &format!(" {}", answer.trim_start()))?;
    let question = |t| {
        let before = words.tokenizer.decode_after(&ids[..t])?;
        let piece = words.tokenizer.decode_after(&ids[t..=t])?;
        let label = words.tokenizer.encode_bare(&piece)?.ids;
        let read = words.ids(&format!("{x}{before}"))?;
        // A byte of a character is no text of its own.
        let labels = vec![label.first().copied().unwrap_or(ids[t])];
        Ok(Question::Takes(Completion { read, labels }))
    };
    Ok(TestItem {
        metric: Named::from(metric),
        prompt: x.to_owned(),
        questions: (0..ids.len()).map(question).collect::<Result<_>>()?,
        rule: Rule::Share,
    })
}
