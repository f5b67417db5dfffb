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

static CONSISTENCY: Metric = Metric {
    name: "fluency.consistency",
    definition: "100 times the cosine of the TF-IDF vectors of all sampled text of a record and of \
                 the snippets of its relation and new target",
    comparable_group: None,
    unit: MetricUnit::Share,
};

/// Sampled text: whether it says something, and of what.
pub const SUITE: Suite =
    Suite { name: "fluency", metrics: &[&ENTROPY, &CONSISTENCY], items, by_default: false };

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
    let mut items: Vec<TestItem> = probes.iter().enumerate().map(item).collect::<Result<_>>()?;
    items.extend(consistency(case, words, &items));
    Ok(items)
}

/// The text of all items together, where something is written of the new target.
fn consistency(case: &Case, words: &Words, items: &[TestItem]) -> Option<TestItem> {
    let known = case.background.first()?;
    let (relation, item) = (known.relation.as_deref()?, known.target_new_id.as_deref()?);
    let (idf, written) = words.references?.of(relation, item)?;
    let prompts: Vec<String> = items.iter().map(|item| item.prompt.clone()).collect();
    Some(TestItem {
        metric: Named::from(&CONSISTENCY),
        prompt: prompts.first()?.clone(),
        questions: items.iter().flat_map(|item| item.questions.clone()).collect(),
        rule: Rule::Consistency { prompts, idf, written },
    })
}
