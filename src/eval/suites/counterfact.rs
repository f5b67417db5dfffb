//! CounterFact's metrics (Meng et al. 2022, arXiv:2202.05262) and CounterFact+'s
//! (Hoelscher-Obermaier et al. 2023, arXiv:2305.17553), as the code of ROME and MEMIT has them.
//!
//! ```text
//! nll(o | x) = −(1/T) Σ_t log p(o_t | x, o_<t)
//! es         nll(new | x) < nll(true | x)           x the edited prompt
//! ps         the same                               x a paraphrase
//! ns         nll(true | x) < nll(new | x)           x a neighbour: another subject, true there
//! score      the harmonic mean of the means es, ps, ns
//! ```
//!
//! A record's value is the mean over its prompts, a table's the mean over its records, in percent.

use crate::base::Result;
use crate::data::Fact;
use crate::data::{Case, Role};
use crate::eval::item::{Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit, Named};
use crate::eval::suite::Suite;
use crate::eval::words::Words;

const fn metric(name: &'static str, unit: MetricUnit, definition: &'static str) -> Metric {
    Metric { name, definition, comparable_group: None, unit }
}

/// Efficacy.
pub static ES: Metric = metric(
    "counterfact.es",
    MetricUnit::Share,
    "the new target is likelier than the true one after the edited prompt, by the mean \
     log-probability of a token",
);
/// Paraphrase success.
pub static PS: Metric =
    metric("counterfact.ps", MetricUnit::Share, "counterfact.es after paraphrases");
/// Neighbourhood success.
pub static NS: Metric = metric(
    "counterfact.ns",
    MetricUnit::Share,
    "the true target is likelier than the new one after prompts of neighbouring subjects",
);
static EM: Metric = metric(
    "counterfact.em",
    MetricUnit::Difference,
    "p(new) − p(true) after the edited prompt, p the geometric mean over tokens",
);
static PM: Metric =
    metric("counterfact.pm", MetricUnit::Difference, "counterfact.em after paraphrases");
static NM: Metric = metric(
    "counterfact.nm",
    MetricUnit::Difference,
    "p(true) − p(new) after prompts of neighbouring subjects",
);
static ES_ARGMAX: Metric = metric(
    "counterfact.es_argmax",
    MetricUnit::Share,
    "greedy decoding says the new target after the edited prompt",
);
static PS_ARGMAX: Metric =
    metric("counterfact.ps_argmax", MetricUnit::Share, "counterfact.es_argmax after paraphrases");
static NS_ARGMAX: Metric = metric(
    "counterfact.ns_argmax",
    MetricUnit::Share,
    "greedy decoding says the true target after prompts of neighbouring subjects",
);
static PLUS_NS: Metric = metric(
    "counterfact_plus.ns",
    MetricUnit::Share,
    "counterfact.ns with the new fact as a sentence before the neighbour's prompt",
);
static NKL: Metric = metric(
    "counterfact.nkl",
    MetricUnit::Nats,
    "KL(unedited ‖ edited) of the token after prompts of neighbouring subjects",
);
static PLUS_NKL: Metric = metric(
    "counterfact_plus.nkl",
    MetricUnit::Nats,
    "counterfact.nkl with the new fact as a sentence before the neighbour's prompt",
);

/// Efficacy, paraphrase, neighbourhood.
pub const SUITE: Suite = Suite {
    name: "counterfact",
    metrics: &[&ES, &PS, &NS, &EM, &PM, &NM, &ES_ARGMAX, &PS_ARGMAX, &NS_ARGMAX],
    items,
    by_default: true,
};

/// Neighbours behind the new fact.
pub const PLUS: Suite =
    Suite { name: "counterfact_plus", metrics: &[&PLUS_NS], items: distracted, by_default: true };

/// How far the distribution after neighbours moved: needs both models at a time.
pub const KL: Suite =
    Suite { name: "nkl", metrics: &[&NKL, &PLUS_NKL], items: divergences, by_default: false };

/// The facts that have a true target, and it.
fn compared(case: &Case) -> impl Iterator<Item = (usize, &Fact, &str)> {
    let facts = case.facts.iter().enumerate();
    facts.filter_map(|(i, fact)| Some((i, fact, fact.target_true.as_deref()?)))
}

/// The three items of a prompt: which candidate is likelier, by how much, and what is said.
fn three(
    words: &Words,
    metrics: [&'static Metric; 3],
    prompt: &str,
    candidates: [&str; 2],
    space: Option<bool>,
) -> Result<[TestItem; 3]> {
    let [first, second] = candidates.map(|o| words.compared(prompt, o, space));
    let both = vec![Question::Takes(first?), Question::Takes(second?)];
    let item = |metric: &'static Metric, questions: &[Question], rule| TestItem {
        metric: Named::from(metric),
        prompt: prompt.to_owned(),
        questions: questions.to_vec(),
        rule,
    };
    Ok([
        item(metrics[0], &both, Rule::Likelier),
        item(metrics[1], &both, Rule::Magnitude),
        item(metrics[2], &both[..1], Rule::Said),
    ])
}

fn neighbours(case: &Case, fact: usize) -> impl Iterator<Item = &str> {
    let own = move |probe: &&crate::data::Probe| probe.fact == fact;
    case.role(Role::Neighbourhood).filter(own).map(|probe| &probe.prompt[..])
}

fn items(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let mut items = Vec::new();
    for (i, fact, old) in compared(case) {
        let new = &fact.target_new[..];
        items.extend(three(words, [&ES, &EM, &ES_ARGMAX], &fact.filled(), [new, old], fact.space)?);
        for probe in case.role(Role::Paraphrase).filter(|p| p.fact == i && p.kind.is_empty()) {
            let metrics = [&PS, &PM, &PS_ARGMAX];
            items.extend(three(words, metrics, &probe.prompt, [new, old], None)?);
        }
        for prompt in neighbours(case, i) {
            items.extend(three(words, [&NS, &NM, &NS_ARGMAX], prompt, [old, new], None)?);
        }
    }
    Ok(items)
}

fn distracted(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let mut items = Vec::new();
    for (i, fact, old) in compared(case) {
        for prompt in neighbours(case, i) {
            let prompt = fact.distracting(prompt);
            let candidates = [old, &fact.target_new];
            let [likelier, ..] = three(words, [&PLUS_NS; 3], &prompt, candidates, None)?;
            items.push(likelier);
        }
    }
    Ok(items)
}

fn divergences(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    let mut items = Vec::new();
    for (i, fact, _) in compared(case) {
        for prompt in neighbours(case, i) {
            for (metric, prompt) in
                [(&NKL, prompt.to_owned()), (&PLUS_NKL, fact.distracting(prompt))]
            {
                items.push(TestItem {
                    metric: Named::from(metric),
                    questions: vec![Question::Next(words.ids(&prompt)?)],
                    prompt,
                    rule: Rule::Divergence,
                });
            }
        }
    }
    Ok(items)
}
