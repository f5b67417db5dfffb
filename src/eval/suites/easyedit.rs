//! EasyEdit's teacher-forced token accuracy (`test_prediction_acc` for decoders).
//!
//! ```text
//! y = ids(x + " " + o)   s = |ids(x)|        the share of t ≥ s with arg max p(· | y_<t) = y_t
//! ```
//!
//! The two texts are tokenised apart, so that where a prompt's last token merges with what follows
//! the labels are shifted as they are there. Locality is not whether the answer is right, but the
//! share of its places where the likeliest token is the one it was before.

use crate::base::Result;
use crate::data::{Case, Role};
use crate::eval::item::{Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit, Named};
use crate::eval::suite::Suite;
use crate::eval::words::Words;

const ACCURACY: &str = "lm.decoder_only_teacher_forcing.token_accuracy";
const AGREEMENT: &str = "locality.lm.pre_post_argmax_token_match";

const fn metric(name: &'static str, group: &'static str, definition: &'static str) -> Metric {
    Metric { name, definition, comparable_group: Some(group), unit: MetricUnit::Share }
}

static REWRITE: Metric = metric(
    "easyedit.token_accuracy.rewrite",
    ACCURACY,
    "share of the target's tokens that are the likeliest, each after the target's own before it",
);
static REPHRASE: Metric = metric(
    "easyedit.token_accuracy.rephrase",
    ACCURACY,
    "easyedit.token_accuracy.rewrite after paraphrases",
);
static PORTABILITY: Metric = metric(
    "easyedit.token_accuracy.portability",
    ACCURACY,
    "the same of the first spelling of what follows from the edit",
);
static LOCALITY: Metric = metric(
    "easyedit.token_agreement.locality",
    AGREEMENT,
    "share of the answer's places where the likeliest token is the one before the edit",
);

/// Token accuracies.
pub const SUITE: Suite = Suite {
    name: "easyedit",
    metrics: &[&REWRITE, &REPHRASE, &PORTABILITY, &LOCALITY],
    items,
    by_default: true,
};

fn items(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let mut items = Vec::new();
    let mut add = |metric: Named, x: &str, target: &str, rule: Rule| {
        // EasyEdit drops what has no token.
        if let Some(completion) = words.easyedit(x, target)? {
            let questions = vec![Question::Takes(completion)];
            items.push(TestItem { metric, prompt: x.to_owned(), questions, rule });
        }
        Result::Ok(())
    };
    for fact in &case.facts {
        add(Named::from(&REWRITE), &fact.filled(), &fact.target_new, Rule::Share)?;
    }
    for probe in &case.probes {
        let new = &case.facts[probe.fact].target_new[..];
        let target = probe.target();
        let (metric, target, rule) = match probe.role {
            Role::Paraphrase => (Named::from(&REPHRASE), Some(new), Rule::Share),
            Role::Portability => (PORTABILITY.of(&probe.kind), target, Rule::Share),
            Role::Locality => (LOCALITY.of(&probe.kind), target, Rule::Agrees),
            Role::Neighbourhood => (LOCALITY.of("neighbourhood"), target, Rule::Agrees),
            Role::Attribute | Role::Generation => continue,
        };
        if let Some(target) = target {
            add(metric, &probe.prompt, target, rule)?;
        }
    }
    Ok(items)
}
