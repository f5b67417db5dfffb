//! In-context editing: the new fact, and demonstrations of how facts are used, before every prompt.
//!
//! ```text
//! demonstration   "New Fact: p t\nPrompt: q a\n\n" of a record with prompt p, new target t, and
//!                 copy      q a = p t
//!                 update    q a = a paraphrase of p, and t
//!                 retain    q a = a neighbouring prompt, and what was true of it
//! original        the k records nearest to the fact, the nearest last, as copy : update : retain =
//!                 1 : 3 : 4 in a shuffled order; then a copy of the fact itself
//! easyedit        the k demonstrations, of all kinds of all records, that are nearest, the nearest
//!                 first
//! context         demonstrations, "New Fact: p t\nPrompt:"
//! ```
//!
//! Nothing is trained and no weight changes: the context stands before every prompt
//! (`memory/context.rs`), and answers are scored behind both. Where the public code differs:
//!
//! * Records are compared by the tokens of their texts (TF-IDF) or by the mean over tokens of the
//!   model's own states; there, by a sentence encoder.
//! * Several facts are kept, and that is read which a prompt is most alike to; there, a prompt has
//!   the fact that is being evaluated.
//! * A record without a paraphrase or a neighbour is copied in its place.
//!
//! Nothing is kept of a run that was cut off: it takes no step, and begins anew in seconds. What
//! takes longest is one pass over the demonstrations, where they are compared by states.
//!
//! Sources: Zheng et al. 2023, arXiv:2305.12740; Wang et al. 2023, arXiv:2308.07269 (EasyEdit).

use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, Remedy, Result, Rng, Stage};
use crate::data::{Fact, request};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{Absent, Param, ParamKind, Params};
use crate::linalg::vector::dot;
use crate::memory::likeness::Texts;
use crate::memory::states::{AT_A_TIME, mean_states};
use crate::memory::{ContextEntry, ContextMemory, EditMemory};
use crate::text::Tokenizer;

/// The method, as it is listed.
pub static IKE: Ike = Ike;

/// See [`IKE`].
pub struct Ike;

static ABOUT: About = About {
    name: "ike",
    summary: "Puts the fact and demonstrations before every prompt; no weight changes.",
    paper: "Zheng et al. 2023, arXiv:2305.12740",
    changes: "nothing: what stands before prompts",
    needs: "a file of records to demonstrate with, unless use_icl_examples is false",
    presets: "ike",
};

const DEMONSTRATIONS: Param = Param {
    name: "icl_examples",
    kind: ParamKind::File,
    absent: Absent::Unused("an error, unless use_icl_examples is false"),
    about: "The records that demonstrations are of, in any form of requests.",
};
const USE_ICL_EXAMPLES: Param = Param {
    name: "use_icl_examples",
    kind: ParamKind::Switch,
    absent: Absent::Default("true"),
    about: "Whether there are demonstrations; without, the fact alone stands there (ICE).",
};
const FORM: Param = Param {
    name: "form",
    kind: ParamKind::Choice(&["original", "easyedit"]),
    absent: Absent::Default("\"original\""),
    about: "Whose demonstrations: of the nearest records in three kinds, or the nearest of all \
            kinds.",
};
const K: Param = Param {
    name: "k",
    kind: ParamKind::Count,
    absent: Absent::Unused("32, in EasyEdit's form 16"),
    about: "How many demonstrations, the copy of the fact itself not counted.",
};
const RETRIEVER: Param = Param {
    name: "retriever",
    kind: ParamKind::Choice(&["tf-idf", "states"]),
    absent: Absent::Default("\"tf-idf\""),
    about: "What is near: texts that share rare tokens, or those whose mean state in the middle of \
            the model points the same way.",
};

static PARAMS: [&Param; 5] = [&DEMONSTRATIONS, &USE_ICL_EXAMPLES, &FORM, &K, &RETRIEVER];

/// What a demonstration shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Copy,
    Update,
    Retain,
}

/// Of eight demonstrations of the original, how many are of each kind.
const SHARES: [(Shows, usize); 3] = [(Shows::Copy, 1), (Shows::Update, 3), (Shows::Retain, 4)];

impl Method for Ike {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::OneByOne
    }

    fn makes_memory(&self) -> bool {
        true
    }

    fn cost(&self, _: &Context, _: &[TokenizedFact], _: &Params) -> Cost {
        Cost {
            bytes_a_fact: 0,
            fixed_bytes: 0,
            at_a_time: 1,
            solve_bytes: 0,
            system: None,
            training: None,
            flop: 0.0,
        }
    }

    fn why_missed(&self, _: &FactPlan, by: &Params) -> Option<String> {
        let more = match by.is_on(&USE_ICL_EXAMPLES) {
            true => "other or more demonstrations (k)",
            false => "demonstrations (use_icl_examples)",
        };
        Some(format!(
            "the fact stands before the prompt, and the model does not follow it; try {more}, or \
             edit with another method"
        ))
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let Some(text) = on.tokenizer else { return Err(no_tokenizer()) };
        let store = self.store(on, text, by)?;
        let mut memory = ContextMemory::empty(text, model.arch.vocabulary);
        for (i, fact) in facts.iter().enumerate() {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Fact, i as u64, facts.len() as u64);
            let own = match &store {
                Some(store) => store.before(on, &fact.request, by)?,
                None => String::new(),
            };
            let new = says(&fact.request.filled(), &fact.request.target_new);
            let context = text.encode(&format!("{own}New Fact: {new}\nPrompt:"))?;
            let longest = context.len() + fact.rows.keys[0].ids.len() + fact.rows.target.len();
            if longest > model.arch.max_positions {
                let id = &fact.request.id;
                let (k, most) = (longest - 1, model.arch.max_positions);
                let what = format!(
                    "record `{id}`: {k} tokens with its context, and the model has {most} positions"
                );
                let remedy = Remedy::from("use fewer or shorter demonstrations");
                return Err(Error::refused(what, remedy.hyperparameter("k", None)));
            }
            let prompt = fact.rows.keys[0].ids.clone();
            memory.entries.push(ContextEntry { prompt, context });
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        let done = facts.iter().map(|_| FactPlan::trained(Vec::new())).collect();
        let memory = Some(EditMemory::Context(Arc::new(memory)));
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model: model.clone(), facts: done, changes: Vec::new(), memory, state })
    }
}

impl Ike {
    /// The records to demonstrate with, where there are demonstrations.
    fn store(&self, on: &Context, text: &Tokenizer, by: &Params) -> Result<Option<Store>> {
        if !by.is_on(&USE_ICL_EXAMPLES) {
            return Ok(None);
        }
        let Some(file) = by.text(&DEMONSTRATIONS) else {
            let what = "ike has demonstrations, and no file of records is named";
            let remedy =
                Remedy::from("name records such as CounterFact's, apart from those edited")
                    .hyperparameter("icl_examples", None);
            return Err(Error::refused(what, remedy));
        };
        let easyedit = by.is(&FORM, "easyedit");
        let records = request::read(Path::new(file))?;
        let mut demonstrations = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let whole = says(&record.filled(), &record.target_new);
            match easyedit {
                false => demonstrations.push((i, whole)),
                true => {
                    let rng = &mut Rng::new(on.seed, &format!("demonstrations of {}", record.id));
                    for (shows, _) in SHARES {
                        demonstrations.extend(shown(record, shows, rng).map(|text| (i, text)));
                    }
                }
            }
        }
        let tokens = demonstrations.iter().map(|(_, shown)| Ok(text.encode_bare(shown)?.ids));
        let tokens: Vec<Vec<u32>> = tokens.collect::<Result<_>>()?;
        let near = match by.is(&RETRIEVER, "states") {
            true => Near::States(states(on, &tokens)?),
            false => Near::Tokens(Texts::new(tokens.iter().map(Vec::as_slice))),
        };
        let most = by.count_if_given(&K).unwrap_or(if easyedit { 16 } else { 32 });
        Ok(Some(Store { records, demonstrations, near, most }))
    }
}

/// Records, what is shown or compared of them, and what is near to what.
struct Store {
    records: Vec<Fact>,
    demonstrations: Vec<(usize, String)>, // of which record
    near: Near,
    most: usize, // k
}

enum Near {
    Tokens(Texts),
    States(Vec<Vec<f64>>),
}

impl Store {
    /// The demonstrations before a fact.
    fn before(&self, on: &Context, fact: &Fact, by: &Params) -> Result<String> {
        let text = on.tokenizer.expect("was asked for");
        let new = says(&fact.filled(), &fact.target_new);
        let easyedit = by.is(&FORM, "easyedit");
        let query = if easyedit { demonstration(&new, &fact.filled()) } else { new.clone() };
        let query = text.encode_bare(&query)?.ids;
        let order = match &self.near {
            Near::Tokens(texts) => texts.nearest(&query),
            Near::States(all) => nearest(all, &states(on, &[query])?[0]),
        };
        let same = |record: &Fact| record.filled() == fact.filled();
        let others = order.into_iter().filter(|&i| !same(&self.records[self.demonstrations[i].0]));
        let near: Vec<&(usize, String)> =
            others.take(self.most).map(|i| &self.demonstrations[i]).collect();
        if easyedit {
            return Ok(near.into_iter().map(|(_, shown)| &shown[..]).collect());
        }
        let rng = &mut Rng::new(on.seed, &format!("demonstrations before {}", fact.id));
        let kinds = kinds(near.len(), rng);
        let shown = near.iter().zip(kinds).rev().map(|((record, _), shows)| {
            let record = &self.records[*record];
            let own = shown(record, shows, rng);
            own.unwrap_or_else(|| shown(record, Shows::Copy, rng).expect("a copy of any record"))
        });
        Ok(shown.collect::<String>() + &demonstration(&new, &new))
    }
}

/// The demonstrations before a fact, as text; empty where there are none.
///
/// # Errors
///
/// No tokenizer, no file of records; records that cannot be read; a device out of memory.
pub fn before(on: &Context, fact: &Fact, by: &Params) -> Result<String> {
    let Some(text) = on.tokenizer else { return Err(no_tokenizer()) };
    let store = IKE.store(on, text, by)?;
    store.map_or(Ok(String::new()), |store| store.before(on, fact, by))
}

fn no_tokenizer() -> Error {
    let what = "a model without a tokenizer, and ike writes texts";
    Error::refused(what, "edit a checkpoint that has one")
}

/// The kinds of n demonstrations, shuffled (Fisher and Yates).
fn kinds(n: usize, rng: &mut Rng) -> Vec<Shows> {
    let mut kinds: Vec<Shows> =
        SHARES.iter().flat_map(|&(shows, of)| std::iter::repeat_n(shows, n * of / 8)).collect();
    kinds.resize(n, Shows::Copy);
    for i in (1..n).rev() {
        kinds.swap(i, (rng.uniform() * (i + 1) as f64) as usize);
    }
    kinds
}

/// "New Fact: …\nPrompt: …\n\n".
fn demonstration(new: &str, prompt: &str) -> String {
    format!("New Fact: {new}\nPrompt: {prompt}\n\n")
}

/// A prompt and what follows it, with a space between.
fn says(prompt: &str, target: &str) -> String {
    format!("{prompt} {}", target.trim_start())
}

/// A demonstration of a kind; nothing where the record has no text for it.
fn shown(record: &Fact, shows: Shows, rng: &mut Rng) -> Option<String> {
    let new = says(&record.filled(), &record.target_new);
    let mut one_of = |n: usize| (n > 0).then(|| (rng.uniform() * n as f64) as usize);
    let prompt = match shows {
        Shows::Copy => new.clone(),
        Shows::Update => {
            let paraphrase = &record.paraphrases[one_of(record.paraphrases.len())?];
            says(paraphrase, &record.target_new)
        }
        Shows::Retain => {
            let all = [&record.neighbourhood[..], &record.locality].concat();
            let known: Vec<_> = all.iter().filter(|other| other.target.is_some()).collect();
            let other = known[one_of(known.len())?];
            says(&other.prompt, other.target.as_deref()?)
        }
    };
    Some(demonstration(&new, &prompt))
}

/// The mean states of texts, as directions (`memory/states.rs`).
fn states(on: &Context, texts: &[Vec<u32>]) -> Result<Vec<Vec<f64>>> {
    let mut all = Vec::with_capacity(texts.len());
    for some in texts.chunks(AT_A_TIME) {
        if on.progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
        }
        on.progress.at(Stage::Prompt, all.len() as u64, texts.len() as u64);
        all.extend(mean_states(on.model, some)?);
    }
    Ok(all)
}

/// All of some unit vectors, the one nearest to another first.
fn nearest(all: &[Vec<f64>], to: &[f64]) -> Vec<usize> {
    let near: Vec<f64> = all.iter().map(|own| dot(own, to)).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|&a, &b| near[b].total_cmp(&near[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 : 12 : 16 of 32, as published, in an order that the seed decides.
    #[test]
    fn kinds_have_their_shares() {
        let of = |n, seed: &str| kinds(n, &mut Rng::new(0, seed));
        let count = |all: &[Shows], one| all.iter().filter(|&&own| own == one).count();
        for (n, want) in [(32, [4, 12, 16]), (8, [1, 3, 4]), (3, [1, 1, 1]), (1, [1, 0, 0])] {
            let all = of(n, "a");
            let found = [Shows::Copy, Shows::Update, Shows::Retain].map(|one| count(&all, one));
            assert_eq!(found, want, "{n}");
        }
        assert!(of(32, "a") == of(32, "a") && of(32, "a") != of(32, "b"));
    }
}
