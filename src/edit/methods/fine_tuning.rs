//! Fine-tuning of a few matrices: FT-L, FT-M and LocFT-BF.
//!
//! ```text
//! W   (out, in)   the trained matrices of a layer, `matrices` of `layers`; W₀ before
//! ft-l       loss = mean over facts of −(1/T) Σ_t ln p(y_t | prompt)
//! ft-m       loss = mean over facts of −(1/T) Σ_t ln p(y_t | prompt, y_<t)
//! locft-bf   as ft-m, y_{T+1} the end of text; every epoch an order of its own
//!
//! for each epoch, for each batch:  g ← ∂loss/∂W + weight_decay·W
//!                                  W ← Adam(W, g)
//!                                  W ← W₀ ± norm_constraint, where an element is beyond it
//! ```
//!
//! No step for a batch whose loss is below 0.01, and no epoch after one whose mean is. All facts
//! are trained together, an epoch sweeping over all of them; or in batches one upon the other, each
//! to its end, W₀ what those before it left. Biases and norms stay as they are. Where the public
//! code differs:
//!
//! * FT-L asks for all T tokens at the prompt's last token. So it is published, and so it is here;
//!   with T > 1 only one of them can be said there. FT-M is the same without that.
//! * The name of a module selects its bias too where it is matched as part of a name (ROME's code);
//!   here the matrix alone moves.
//! * EasyEdit finds where the prompt ends by counting tokens that are no padding, which is wrong
//!   where the prompt has the token that pads; here it is counted.
//! * LocFT adds a token for padding to the vocabulary and writes a larger embedding; here nothing
//!   is padded. Its shuffle is unseeded.
//!
//! Sources: Zhu et al. 2020, arXiv:2012.00363 (FT-L); Zhang et al. 2024, arXiv:2401.01286 (FT-M);
//! Yang, Sun et al. 2025, arXiv:2509.22072 (LocFT-BF).

use crate::base::{Error, Remedy, Result};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan};
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range};
use crate::edit::search::LossStep;
use crate::edit::solve::layers::MatrixChange;
use crate::edit::training::kept::KeptTraining;
use crate::edit::training::memory::TrainingMemory;
use crate::edit::training::run::Training;
use crate::edit::training::step::MoveRule;
use crate::edit::training::texts::{TrainingObjective, TrainingText};
use crate::model::{MatrixId, Model};
use crate::store::Delta;
use crate::tensor::Precision;

/// FT-L, as methods are listed.
pub static FT_L: FineTuning = FineTuning {
    objective: TrainingObjective::PromptLast,
    shuffles: false,
    about: About { name: "ft-l", presets: "ft-l", ..ABOUT },
    params: &ONE_BY_ONE,
};

/// FT-M.
pub static FT_M: FineTuning = FineTuning {
    objective: TrainingObjective::Target,
    shuffles: false,
    about: About {
        name: "ft-m",
        summary: "Trains matrices on the target alone, each of its tokens after those before it.",
        paper: "Zhang et al. 2024, arXiv:2401.01286",
        presets: "ft-m",
        ..ABOUT
    },
    params: &ONE_BY_ONE,
};

/// LocFT-BF.
pub static LOCFT_BF: FineTuning = FineTuning {
    objective: TrainingObjective::TargetAndEnd,
    shuffles: true,
    about: About {
        name: "locft-bf",
        summary: "Trains matrices on target and end of text, breadth first: shuffled epochs over \
                  all facts in batches.",
        paper: "Yang et al. 2025, arXiv:2509.22072",
        presets: "locft-bf",
        ..ABOUT
    },
    params: &IN_BATCHES,
};

/// See [`FT_L`], [`FT_M`] and [`LOCFT_BF`].
pub struct FineTuning {
    objective: TrainingObjective,
    shuffles: bool,
    about: About,
    params: &'static [&'static Param],
}

const ABOUT: About = About {
    name: "",
    summary: "Trains matrices so that the prompt's last token says the target, within a bound.",
    paper: "Zhu et al. 2020, arXiv:2012.00363",
    changes: "any matrices of any layers, by default the MLP down projection",
    needs: "nothing",
    presets: "",
};

const LAYERS: Param = Param { about: "The layers that are trained.", ..params::LAYERS };
const MATRICES: Param = params::MATRICES;
const NUM_STEPS: Param = Param {
    name: "num_steps",
    kind: ParamKind::Count,
    absent: Absent::Default("25"),
    about: "How many epochs there are, at most.",
};
const LR: Param = Param {
    name: "lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("5e-4"),
    about: "Adam's rate.",
};
const WEIGHT_DECAY: Param = Param {
    name: "weight_decay",
    kind: ParamKind::Number(Range::Weight),
    absent: Absent::Default("0"),
    about: "What is added to the gradient, as a multiple of the matrix.",
};
/// ε.
pub const NORM_CONSTRAINT: Param = Param {
    name: "norm_constraint",
    kind: ParamKind::NumberOrOff(Range::Positive),
    absent: Absent::Unused("without a bound"),
    about: "How far each element may go from where it was; false is no bound.",
};
const BATCH_SIZE: Param = Param {
    name: "batch_size",
    kind: ParamKind::Count,
    absent: Absent::Default("1"),
    about: "Facts of a step.",
};
const BATCH_SIZE_100: Param = Param { absent: Absent::Default("100"), ..BATCH_SIZE };

static ONE_BY_ONE: [&Param; 7] =
    [&LAYERS, &MATRICES, &NUM_STEPS, &LR, &WEIGHT_DECAY, &NORM_CONSTRAINT, &BATCH_SIZE];
static IN_BATCHES: [&Param; 7] =
    [&LAYERS, &MATRICES, &NUM_STEPS, &LR, &WEIGHT_DECAY, &NORM_CONSTRAINT, &BATCH_SIZE_100];

impl Method for FineTuning {
    fn about(&self) -> &'static About {
        match self.objective {
            TrainingObjective::PromptLast => &FT_L.about,
            TrainingObjective::Target => &FT_M.about,
            TrainingObjective::TargetAndEnd => &LOCFT_BF.about,
        }
    }

    fn params(&self) -> &'static [&'static Param] {
        self.params
    }

    fn batching(&self) -> Batching {
        Batching::Epochs
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let training = self.training(by, on.seed);
        // Without an end there is an error where the texts are made.
        let text = |fact| TrainingText::new(fact, self.objective, Some(on.end.unwrap_or(0)));
        let texts: Vec<TrainingText> = facts.iter().map(text).collect();
        let bound = training.rule.bound.is_some();
        let memory = TrainingMemory::new(on.model, &training.ids, &texts, bound, on.memory);
        let n = facts.len().max(1) as u64;
        let tokens: u64 = texts.iter().map(|text| text.ids.len() as u64).sum();
        let kept = if memory.keeps { memory.stream } else { 0 };
        let batch = n.min(training.batch as u64);
        let a_pass = (memory.most as u64 * n / tokens.max(1)).clamp(1, batch);
        let [epoch, once] = memory.flop;
        Cost {
            bytes_a_fact: memory.token * tokens / n,
            fixed_bytes: memory.matrices + memory.fixed + kept,
            at_a_time: a_pass,
            solve_bytes: 0,
            system: None,
            flop: once + training.epochs as f64 * epoch,
            training: Some(memory),
        }
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let training = self.training(by, on.seed);
        let texts = self.texts(on, facts)?;
        let size = if on.sequential == 0 { facts.len().max(1) } else { on.sequential };
        let (mut model, mut losses, mut changes) = (on.model.clone(), Vec::new(), Vec::new());
        for (facts, texts) in facts.chunks(size).zip(texts.chunks(size)) {
            let kept = self.kept(on, &training, texts);
            let names: Vec<&str> = facts.iter().map(|fact| &*fact.request.id).collect();
            let trained = training.run(&model, texts, &names, on.memory, kept, on.progress)?;
            losses.extend(trained.losses);
            (model, changes) = moved(on.model, &training.ids, &trained.matrices);
        }
        let plan = |losses: Vec<f64>| FactPlan::trained(losses.into_iter().map(step).collect());
        let facts = losses.into_iter().map(plan).collect();
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model, facts, changes, memory: None, state })
    }
}

impl FineTuning {
    fn training(&self, by: &Params, seed: u64) -> Training {
        Training {
            ids: by.edited(),
            epochs: by.count(&NUM_STEPS),
            batch: by.count(&BATCH_SIZE),
            shuffle: self.shuffles.then_some(seed),
            rule: MoveRule {
                lr: by.number(&LR),
                weight_decay: by.number(&WEIGHT_DECAY),
                bound: by.number_if_given(&NORM_CONSTRAINT),
            },
        }
    }

    fn texts(&self, on: &Context, facts: &[TokenizedFact]) -> Result<Vec<TrainingText>> {
        if self.objective == TrainingObjective::TargetAndEnd && on.end.is_none() {
            let what = "the model's files name no token that ends a text, which targets end with";
            let remedy = "name one as eos_token in tokenizer_config.json, or edit with ft-m";
            return Err(Error::refused(what, Remedy::from(remedy).option("method", Some("ft-m"))));
        }
        let text = |fact: &TokenizedFact| {
            let text = TrainingText::new(fact, self.objective, on.end);
            let id = &fact.request.id;
            on.model.arch.check(&text.ids).map_err(|e| match e {
                Error::Refused { what, remedy } => {
                    Error::refused(format!("record `{id}`: {what}"), *remedy)
                }
                e => e,
            })?;
            Ok(text)
        };
        facts.iter().map(text).collect()
    }

    /// Where a training that is cut off is kept, by the name of all that it depends on. What is
    /// computed in f64 is not kept, and no batch of several that are trained one upon the other.
    fn kept(
        &self,
        on: &mut Context,
        training: &Training,
        texts: &[TrainingText],
    ) -> Option<KeptTraining> {
        let cache = on.cache.as_mut()?;
        if on.model.compute.precision() == Precision::F64 || on.sequential > 0 {
            return None;
        }
        let (version, compute) = (env!("CARGO_PKG_VERSION"), on.model.compute.name());
        let key = training.key(version, cache.weights(), &compute, texts);
        Some(KeptTraining::at(cache.begin_training(&key)))
    }
}

/// W − W₀ of each W (out, in), and the model that has them.
pub(super) fn moved(
    before: &Model,
    ids: &[MatrixId],
    now: &[Vec<f64>],
) -> (Model, Vec<MatrixChange>) {
    let delta = |(&id, now): (&MatrixId, &Vec<f64>)| {
        let before = before.matrix(id).w.to_dense::<f64>();
        Delta::Dense(now.iter().zip(before).map(|(now, before)| (now - before) as f32).collect())
    };
    changed(before, ids, ids.iter().zip(now).map(delta).collect())
}

/// Changes of some matrices, and the model that has them.
pub(super) fn changed(
    before: &Model,
    ids: &[MatrixId],
    deltas: Vec<Delta>,
) -> (Model, Vec<MatrixChange>) {
    let pairs: Vec<(MatrixId, &Delta)> = ids.iter().copied().zip(&deltas).collect();
    let (model, norms) = before.with(&pairs);
    let change = |((&id, delta), [norm, weight]): ((&MatrixId, Delta), [f64; 2])| MatrixChange {
        id,
        delta,
        norm,
        weight,
        ridge: None,
        s: None,
        keys: None,
        keys_follow: false,
    };
    (model, ids.iter().zip(deltas).zip(norms).map(change).collect())
}

/// The loss of a fact in an epoch.
fn step(nll: f64) -> LossStep {
    LossStep { nll, ..LossStep::default() }
}
