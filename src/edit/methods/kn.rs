//! Knowledge neurons: the columns of down projections on which an old answer rests say the new one.
//!
//! ```text
//! attr       what the old answer rests on, neuron by neuron, at the prompt: `edit/attribution.rs`
//! coarse     the neurons with attr > adaptive_threshold · max attr, over all layers
//! refined    of the prompt and its paraphrases: those in more than p of them, where `refine`
//! w_i (D)    the column of a neuron in its down projection;  E (V, D) the input embedding
//! w_i ← w_i − λ₁ Σ_t E[o_t] + λ₂ Σ_t E[y_t]     o what the model says at the prompt, y the target,
//!                                               T tokens each
//! ```
//!
//! λ₁ = λ₂ = 2 where T = 1, and 1 else, as in the public code; the paper has 1 and 8. Facts are
//! edited one after another, each on the model as those before it left it. The old answer is
//! `target_true`; without one, what the model says. Where the public code differs:
//!
//! * EasyEdit's files for Llama, Mistral and Qwen integrate in one step, which is the gradient
//!   where the activation is 0; no preset here repeats that.
//! * An old answer of several tokens is attributed along the answer; there, along what the model
//!   says by itself (`along` = own), and EasyEdit then takes every token's gradient at the first's
//!   place, which is not repeated.
//! * A layer's activations are what its down projection reads; there, what comes before the
//!   activation, of gated MLPs the gate's (`site` = before_activation).
//! * Without a neuron above zero nothing is changed.
//!
//! Source: Dai et al. 2022, arXiv:2104.08696; EleutherAI/knowledge-neurons and EasyEdit.

use std::collections::BTreeMap;

use serde_json::json;

use crate::base::{Error, Result, Rng, Stage};
use crate::edit::attribution::{IntegratedGradients, Neuron, NeuronSite, above, refined};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::solve::layers::MatrixChange;
use crate::edit::state::State;
use crate::edit::training::kept_work::{KeptWork, keep};
use crate::linalg::vector::norm;
use crate::model::completion::Completion;
use crate::model::generate::{Sampling, generate};
use crate::model::{MatrixId, Model};
use crate::store::Delta;

/// The method, as it is listed.
pub static KN: Kn = Kn;

/// See [`KN`].
pub struct Kn;

static ABOUT: About = About {
    name: "kn",
    summary: "Finds the neurons an old answer rests on, and lets their columns say the new one.",
    paper: "Dai et al. 2022, arXiv:2104.08696",
    changes: "some columns of MLP down projections of any layers",
    needs: "nothing",
    presets: "kn",
};

const STEPS: Param = Param {
    name: "steps",
    kind: ParamKind::Count,
    absent: Absent::Default("20"),
    about: "Points between no activation and all of it at which gradients are taken.",
};
const ADAPTIVE_THRESHOLD: Param = Param {
    name: "adaptive_threshold",
    kind: ParamKind::Number(Range::FromZero),
    absent: Absent::Default("0.2"),
    about: "The share of the most that rests on a neuron, above which others are changed too.",
};
const REFINE: Param = Param {
    name: "refine",
    kind: ParamKind::Switch,
    absent: Absent::Default("false"),
    about: "Whether only neurons are changed that paraphrases of the prompt share.",
};
const P: Param = Param {
    name: "p",
    kind: ParamKind::Number(Range::FromZero),
    absent: Absent::Default("0.4"),
    about: "The share of prompts of which a refined neuron has to be in more.",
};
const SITE: Param = Param {
    name: "site",
    kind: ParamKind::Choice(&["key", "before_activation"]),
    absent: Absent::Default("\"key\""),
    about: "What a neuron's activation is: what the down projection reads, or what comes before \
            the activation (of gated MLPs the gate's), as in the public code.",
};
const ALONG: Param = Param {
    name: "along",
    kind: ParamKind::Choice(&["answer", "own"]),
    absent: Absent::Default("\"answer\""),
    about: "What stands before the later tokens of an old answer: the answer, or what the model \
            says by itself, as in the public code.",
};
const LAMBDA_OLD: Param = Param {
    name: "lambda_old",
    kind: ParamKind::Number(Range::FromZero),
    absent: Absent::Unused("2 for a target of one token, else 1"),
    about: "How much of the embedding of what the model says is taken off a column.",
};
const LAMBDA_NEW: Param = Param {
    name: "lambda_new",
    about: "How much of the target's embedding is put on a column.",
    ..LAMBDA_OLD
};

/// In what is kept of an edit.
const NEURONS: &str = "neurons";

static PARAMS: [&Param; 8] =
    [&STEPS, &ADAPTIVE_THRESHOLD, &REFINE, &P, &SITE, &ALONG, &LAMBDA_OLD, &LAMBDA_NEW];

impl Method for Kn {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::OneByOne
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let a = &on.model.arch;
        let prompts = |fact: &TokenizedFact| match by.is_on(&REFINE) {
            true => 1 + fact.request.paraphrases.len(),
            false => 1,
        };
        // An old answer may be longer than the new one; it is not tokenised yet.
        let rows = |fact: &TokenizedFact| {
            prompts(fact) * a.layers * by.count(&STEPS) * fact.rows.target.len()
        };
        let most = facts.iter().map(rows).max().unwrap_or(0) as u64;
        let weights: usize = (0..a.layers).map(|l| on.model.weights_of_layer(l)).sum();
        let a_row = 4.0 * (weights + a.vocabulary * a.width) as f64;
        Cost {
            bytes_a_fact: (most * IntegratedGradients::bytes_a_row(on.model)).min(on.memory),
            fixed_bytes: 0,
            at_a_time: 1,
            solve_bytes: 0,
            system: None,
            training: None,
            flop: a_row * facts.iter().map(rows).sum::<usize>() as f64,
        }
    }

    fn why_missed(&self, plan: &FactPlan, _: &Params) -> Option<String> {
        let found = plan.neurons.unwrap_or(0);
        Some(match found {
            0 => "no neuron was found that the old answer rests on; try a smaller \
                  adaptive_threshold, or refine false"
                .to_owned(),
            n => format!(
                "{n} columns were changed, and do not say it; try a smaller adaptive_threshold or \
                 a larger lambda_new, or edit with another method"
            ),
        })
    }

    fn keeps(&self) -> bool {
        true
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let mut kept = KeptWork::begin(on, ABOUT.name, by, facts, "");
        let found = kept.as_ref().and_then(|kept| kept.read(neurons_of, progress));
        let mut found = found.unwrap_or_default();
        let before = found.len();
        if before > 0 {
            progress.remark(&format!("goes on after fact {before}, as it was cut off"));
        }
        let mut now = model.clone();
        let mut deltas = BTreeMap::<MatrixId, Vec<Delta>>::new();
        let mut done = Vec::new();
        for (i, fact) in facts.iter().enumerate() {
            progress.at(Stage::Fact, i as u64, facts.len() as u64);
            if i == found.len() {
                let neurons = self.neurons(on, &now, fact, by).map_err(|e| {
                    keep(e, kept.as_mut().filter(|_| i > 0), || Ok(state_of(&found)))
                })?;
                found.push(neurons);
                if let Some(kept) = kept.as_mut().filter(|kept| kept.is_due()) {
                    kept.write(state_of(&found))?;
                }
            }
            let (model, change, norms) = changed(&now, fact, &found[i], by)?;
            now = model;
            for (id, delta) in change {
                deltas.entry(id).or_default().push(delta);
            }
            let neurons = Some(found[i].len());
            done.push(FactPlan { change: norms, neurons, ..FactPlan::trained(Vec::new()) });
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        // What comes after it may fail, and then it need not be done again.
        if let Some(kept) = kept.as_mut().filter(|_| before < found.len()) {
            kept.write(state_of(&found))?;
        }
        let change = |(id, deltas): (MatrixId, Vec<Delta>)| MatrixChange::sum(model, id, &deltas);
        let changes = deltas.into_iter().map(change).collect();
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model: now, facts: done, changes, memory: None, state })
    }
}

/// The neurons of the facts so far, as they are kept.
fn state_of(found: &[Vec<Neuron>]) -> State {
    let places = |all: &Vec<Neuron>| all.iter().map(|n| [n.layer, n.index]).collect::<Vec<_>>();
    let mut state = State::default();
    state.notes.insert(NEURONS.to_owned(), json!(found.iter().map(places).collect::<Vec<_>>()));
    state
}

/// The same, read; what rests on each is not kept.
fn neurons_of(mut state: State) -> Option<Vec<Vec<Neuron>>> {
    let found: Vec<Vec<[usize; 2]>> = serde_json::from_value(state.notes.remove(NEURONS)?).ok()?;
    let neuron = |[layer, index]: [usize; 2]| Neuron { layer, index, attribution: 0.0 };
    Some(found.into_iter().map(|all| all.into_iter().map(neuron).collect()).collect())
}

impl Kn {
    /// The neurons that a fact's old answer rests on.
    fn neurons(
        &self,
        on: &Context,
        model: &Model,
        fact: &TokenizedFact,
        by: &Params,
    ) -> Result<Vec<Neuron>> {
        let is = |(name, _): &(&str, NeuronSite)| by.is(&SITE, name);
        let (_, site) = NeuronSite::NAMED.into_iter().find(is).expect("one of the choices");
        let ways = IntegratedGradients { steps: by.count(&STEPS), site };
        let prompt = &fact.rows.keys[0].ids;
        let old = match (&fact.request.target_true, on.tokenizer) {
            (Some(old), Some(text)) => {
                text.encode_target(&fact.request.filled(), old, fact.request.space)?
            }
            _ => says(model, prompt, 1)?,
        };
        let mut prompts = vec![prompt.clone()];
        if let Some(text) = on.tokenizer.filter(|_| by.is_on(&REFINE)) {
            for paraphrase in &fact.request.paraphrases {
                prompts.push(text.encode(paraphrase)?);
            }
        }
        let coarse = |prompt: &Vec<u32>| {
            let mut text = Completion::new(prompt, &old);
            model.arch.check(&text.read)?;
            if by.is(&ALONG, "own") {
                let own = says(model, prompt, old.len() - 1)?;
                text.read = [&prompt[..], &own].concat();
            }
            let found = ways.attribute(model, &text, on.memory, on.progress)?;
            Ok(above(&found, by.number(&ADAPTIVE_THRESHOLD)))
        };
        let all: Vec<Vec<Neuron>> = prompts.iter().map(coarse).collect::<Result<_>>()?;
        Ok(if by.is_on(&REFINE) { refined(&all, by.number(&P)) } else { all.concat() })
    }
}

/// What a model says after a prompt, token by token: as many as asked for.
fn says(model: &Model, prompt: &[u32], tokens: usize) -> Result<Vec<u32>> {
    let mut rng = Rng::new(0, "greedy"); // draws nothing
    generate(model, prompt, tokens, Sampling::GREEDY, &mut rng, &[], &mut |_| true)
}

/// What a fact changes, matrix by matrix; the model that has it; ‖Δ‖ and ‖W‖ of all of them.
type Changed = (Model, Vec<(MatrixId, Delta)>, Option<[f64; 2]>);

/// The model whose columns say a fact's target.
fn changed(
    model: &Model,
    fact: &TokenizedFact,
    neurons: &[Neuron],
    by: &Params,
) -> Result<Changed> {
    let target = &fact.rows.target;
    let said = says(model, &fact.rows.keys[0].ids, target.len())?;
    let usual = if target.len() == 1 { 2.0 } else { 1.0 };
    let factor = |param| by.number_if_given(param).unwrap_or(usual);
    let (old, new) = (factor(&LAMBDA_OLD), factor(&LAMBDA_NEW));
    let d = model.arch.width;
    let (mut step, mut row) = (vec![0.0; d], vec![0.0; d]);
    for (ids, factor) in [(&said, -old), (target, new)] {
        for &id in ids {
            model.embed.row(id as usize, &mut row);
            step.iter_mut().zip(&row).for_each(|(s, e)| *s += factor * e);
        }
    }
    if step.iter().any(|x| !x.is_finite()) {
        let what = format!("fact `{}`: an embedding is not finite", fact.request.id);
        return Err(Error::numeric(what, "check the checkpoint for NaN weights"));
    }
    let left: Vec<f32> = step.iter().map(|&x| x as f32).collect();
    let mut columns = BTreeMap::<usize, Vec<f32>>::new();
    for neuron in neurons {
        let [_, f] = model.matrix(MatrixId::down(neuron.layer)).w.dims();
        columns.entry(neuron.layer).or_insert_with(|| vec![0.0; f])[neuron.index] = 1.0;
    }
    let delta = |(layer, right)| {
        (MatrixId::down(layer), Delta::LowRank { left: left.clone(), right, r: 1 })
    };
    let deltas: Vec<(MatrixId, Delta)> = columns.into_iter().map(delta).collect();
    let pairs: Vec<(MatrixId, &Delta)> = deltas.iter().map(|(id, delta)| (*id, delta)).collect();
    let (model, norms) = model.with(&pairs);
    let total = |i: usize| norm(&norms.iter().map(|both| both[i]).collect::<Vec<f64>>());
    let norms = (!norms.is_empty()).then(|| [total(0), total(1)]);
    Ok((model, deltas, norms))
}
