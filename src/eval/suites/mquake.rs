//! MQuAKE's three levels (Zhong et al. 2023, arXiv:2305.14795).
//!
//! ```text
//! edit-wise      each edited fact, as a text to go on with
//! single hop     each hop of the new chain as a question, behind demonstrations of its relation
//! multi-hop      any of the three questions over the chain, behind demonstrations; with a chain of
//!                thought, what follows "Answer:"
//! ```
//!
//! Answers are greedy, to the line's end, and right where they are the answer or an alias of it.
//! Without demonstrations only the first level is measured.

use crate::base::Result;
use crate::data::{Case, Form, Role};
use crate::eval::item::{Compared, Continuing, Question, Rule, TestItem};
use crate::eval::metric::{Metric, MetricUnit, Named};
use crate::eval::suite::Suite;
use crate::eval::words::Words;

/// Tokens of an answer, and of a chain of thought.
const MOST: [usize; 2] = [32, 100];

const fn metric(name: &'static str, definition: &'static str) -> Metric {
    Metric { name, definition, comparable_group: None, unit: MetricUnit::Share }
}

static EDIT_WISE: Metric =
    metric("mquake.edit_wise", "greedy decoding says the new target after the edited prompt");
static SINGLE_HOP: Metric = metric(
    "mquake.single_hop",
    "behind demonstrations of its relation a hop of the new chain is answered right",
);
static MULTI_HOP: Metric = metric(
    "mquake.multi_hop",
    "behind demonstrations any of the questions over the whole chain is answered right",
);
static MULTI_HOP_COT: Metric = metric(
    "mquake.multi_hop_cot",
    "mquake.multi_hop with demonstrations that think first; what follows the first \"Answer:\"",
);

/// The three levels.
pub const SUITE: Suite = Suite {
    name: "mquake",
    metrics: &[&EDIT_WISE, &SINGLE_HOP, &MULTI_HOP, &MULTI_HOP_COT],
    items,
    by_default: true,
};

fn items(case: &Case, words: &Words) -> Result<Vec<TestItem>> {
    if case.form != Form::Mquake {
        return Ok(vec![]);
    }
    let mut items = Vec::new();
    for fact in &case.facts {
        let prompt = fact.filled();
        let candidate = words.candidate(&prompt, &fact.target_new, fact.space)?;
        items.push(TestItem {
            metric: Named::from(&EDIT_WISE),
            prompt,
            questions: vec![Question::Takes(candidate)],
            rule: Rule::Said,
        });
    }
    let Some(shown) = words.demonstrations else { return Ok(items) };
    let question = |before: &str, question: &str| {
        let ids = words.ids(&format!("{before}\nQ: {question} A:"))?;
        Ok(Question::Says(Continuing::greedy(ids, MOST[0], &["\n"])))
    };
    for hop in &case.hops {
        let relation = hop.relation.as_ref().and_then(|id| shown.relations.get(id));
        let Some(before) = relation else { continue };
        items.push(TestItem {
            metric: Named::from(&SINGLE_HOP),
            prompt: hop.question.clone(),
            questions: vec![question(before, &hop.question)?],
            rule: Rule::Answers { right: hop.answers.clone(), by: Compared::Text },
        });
    }
    let chains: Vec<_> =
        case.role(Role::Portability).filter(|probe| probe.kind == "multi_hop").collect();
    let Some(first) = chains.first() else { return Ok(items) };
    let right: Vec<String> = first.answers.iter().flatten().cloned().collect();
    let mut chain = |metric: &'static Metric, questions: Result<Vec<Question>>, by| {
        items.push(TestItem {
            metric: Named::from(metric),
            prompt: first.prompt.clone(),
            questions: questions?,
            rule: Rule::Answers { right: right.clone(), by },
        });
        Result::Ok(())
    };
    if let Some(before) = &shown.multi_hop {
        let questions = chains.iter().map(|probe| question(before, &probe.prompt)).collect();
        chain(&MULTI_HOP, questions, Compared::Text)?;
    }
    if let Some(before) = &shown.thoughts {
        let thinking = |prompt: &str| {
            let ids = words.ids(&format!("{before}\n\nQuestion: {prompt}\nThoughts:"))?;
            Ok(Question::Says(Continuing::greedy(ids, MOST[1], &["\n\n"])))
        };
        let questions = chains.iter().map(|probe| thinking(&probe.prompt)).collect();
        chain(&MULTI_HOP_COT, questions, Compared::Answer)?;
    }
    Ok(items)
}
