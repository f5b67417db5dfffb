//! Text that the model writes about an edited subject, as ROME's evaluation has it: ten prompts a
//! record, sampled among the five likeliest tokens, to 100 tokens in all.

use crate::base::Result;
use crate::data::{Case, Role};
use crate::eval::item::{Continuing, Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit, Named};
use crate::eval::suite::Suite;
use crate::eval::words::Words;
use crate::model::generate::Sampling;

/// Tokens of prompt and text together.
const TOKENS: usize = 100;

const SAMPLING: Sampling = Sampling { temperature: 1.0, top_k: 5, top_p: 1.0 };

static ENTROPY: Metric = Metric {
    name: "fluency.entropy",
    definition: "100 (2/3 H2 + 4/3 H3)/2 bits, H2 and H3 the entropies of bigrams and \
                 trigrams of words in sampled text",
    comparable_group: None,
    unit: MetricUnit::CentiBits,
};

/// Entropy of sampled text.
pub const SUITE: Suite = Suite { name: "fluency", metrics: &[&ENTROPY], items, by_default: false };

fn items(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let probes: Vec<_> = case.role(Role::Generation).collect();
    let item = |(i, probe): (usize, &&crate::data::Probe)| {
        let ids = words.ids(&probe.prompt)?;
        let question = Continuing {
            most: TOKENS.saturating_sub(ids.len()),
            ids,
            stops: vec![],
            sampling: SAMPLING,
            seed: (words.seed, format!("fluency of {}, prompt {i}", case.id)),
        };
        Ok(TestItem {
            metric: Named::from(&ENTROPY),
            prompt: probe.prompt.clone(),
            questions: vec![Question::Says(question)],
            rule: Rule::Entropy(probe.prompt.clone()),
        })
    };
    probes.iter().enumerate().map(item).collect()
}
