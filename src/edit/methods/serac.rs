//! SERAC with the model's own states: facts are kept as texts, and another model answers the
//! prompts that are about one.
//!
//! ```text
//! memory     prompt and target of each fact
//! x (D)      mean over a text's tokens of the base's stream behind the middle layer, √D long
//! s(a, b)    = exp(−‖M x_a − M x_b‖²)                         M (64, D) trained
//! s > 1/2    with the nearest fact e: the counterfactual model reads "e prompt" and answers
//! else       the base answers, to the same bytes
//! training   cedit·(−(1/T) Σ_t ln p'(y_t | e, outer, y_<t))   p' the counterfactual model
//!            + cloc·[−ln s(outer, e) − ln(1 − s(locality, e))]
//!            e the edit, outer it or a paraphrase of it, as likely
//! ```
//!
//! The counterfactual model begins as the base; its linear matrices of `layers` are trained, and
//! embeddings, norms and biases stay. No gradient goes through the choice, nor into the base. The
//! memory has those matrices whole, 4 bytes a weight (`memory/serac.rs`, the model that has it
//! `memory/serac_model.rs`); training takes five times that, and more while it is kept on disk.
//! Where the public code differs:
//!
//! * There a DistilBERT tells what is about a fact, and is trained whole; here the mean of the
//!   base's own states, which stay, and M. x has one length, for the mean of a stream has any.
//! * There a smaller model of the same vocabulary answers; here a copy of the base.
//! * A fact is told by its prompt alone, a query by its prompt. There a fact's last word is left
//!   out in place of its target, and a query includes the target that it is scored for.
//! * EasyEdit trains a mixture of both models' p with MEND's losses (`supervised: false`): another
//!   method, which is not here.
//! * 1 − s counts as 10⁻⁶ below that.
//!
//! Source: Mitchell et al. 2022, arXiv:2206.06520.

mod objective;

pub use objective::{SeracEditor, SeracObjective};

use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::{Error, Result, Stage};
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan, TrainContext};
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range};
use crate::edit::train_params;
use crate::edit::weight_editor::CEDIT;
use crate::memory::serac::SCOPE_WIDTH;
use crate::memory::states::AT_A_TIME;
use crate::memory::{ContextEntry, ContextMemory, EditMemory, SeracMemory};
use crate::model::{MatrixId, Model};
use crate::train::run::TrainingRun;
use crate::train::{Parameters, TrainedEditor};

/// The method, as it is listed.
pub static SERAC: Serac = Serac;

/// See [`SERAC`].
pub struct Serac;

static ABOUT: About = About {
    name: "serac",
    summary: "Keeps facts as texts; a trained copy of the model answers prompts about one.",
    paper: "Mitchell et al. 2022, arXiv:2206.06520",
    changes: "nothing: a second model beside it answers",
    needs: "an editor that was trained for the model",
    presets: "serac",
};

const LAYERS: Param = Param {
    absent: Absent::Unused("all layers"),
    about: "The layers whose linear matrices are trained in the counterfactual model.",
    ..params::LAYERS
};
const LR: Param = Param {
    name: "lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-5"),
    about: "Adam's rate; as published it takes 10^5 samples, and 1e-4 suits 10^4.",
};
const CLOC: Param = Param {
    name: "cloc",
    kind: ParamKind::Number(Range::Weight),
    absent: Absent::Default("1"),
    about: "Weight of the loss of what tells prompts about a fact from others.",
};
const EARLY_STOP_PATIENCE: Param =
    Param { absent: Absent::Default("40000"), ..train_params::EARLY_STOP_PATIENCE };

const fn only(name: &'static str, value: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Only(value), absent: Absent::Unused("as this one"), about }
}
const SUPERVISED: Param = only(
    "supervised",
    "true",
    "Whether each model is trained for what it answers: without, a mixture of both is, which is \
     another method.",
);
const COS: Param = only("cos", "false", "Whether s is by the cosine.");
const SQUARE: Param = only("square", "true", "Whether s is by the square of the distance.");
const CROSS_ATTEND: Param =
    only("cross_attend", "false", "Whether one text of fact and prompt is judged.");
const DIST_HEADS: Param = only("dist_heads", "1", "Parts of what is compared.");
const BOUND_EMBEDS: Param = only("bound_embeds", "false", "Whether what is compared is bounded.");

static PARAMS: [&Param; 16] = [
    &LAYERS,
    &LR,
    &CEDIT,
    &CLOC,
    &train_params::MAX_ITERS,
    &train_params::ACCUMULATE_BS,
    &train_params::GRAD_CLIP,
    &train_params::VAL_INTERVAL,
    &train_params::VAL_STEPS,
    &EARLY_STOP_PATIENCE,
    &SUPERVISED,
    &COS,
    &SQUARE,
    &CROSS_ATTEND,
    &DIST_HEADS,
    &BOUND_EMBEDS,
];

impl Method for Serac {
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

    fn is_trained(&self) -> bool {
        true
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let model = on.model;
        let weights: usize = ids(model, by).iter().map(|&id| model.matrix(id).weights()).sum();
        let tokens = |fact: &TokenizedFact| fact.rows.keys[0].ids.len();
        let below: usize = (0..=model.arch.layers / 2).map(|l| model.weights_of_layer(l)).sum();
        Cost {
            bytes_a_fact: (4 * (SCOPE_WIDTH + model.arch.width)) as u64,
            // The editor's tensors, their room as parameters, and the memory's.
            fixed_bytes: 24 * (weights + SCOPE_WIDTH * model.arch.width) as u64,
            at_a_time: AT_A_TIME as u64,
            solve_bytes: 0,
            system: None,
            training: None,
            flop: 2.0 * (below * facts.iter().map(tokens).sum::<usize>()) as f64,
        }
    }

    fn why_missed(&self, _: &FactPlan, _: &Params) -> Option<String> {
        let why = "the counterfactual model reads the fact before the prompt and does not follow \
                   it, or another fact is as near; train the editor on more samples or at another \
                   lr";
        Some(why.to_owned())
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let trained = on.editor.expect("a method that is trained is given its editor");
        let mut parameters = Parameters::new(model.compute.precision());
        SeracEditor::new(model, &ids(model, by), (0.0, 0), &mut parameters);
        trained.give(&mut parameters)?; // says what does not fit
        let empty = match on.tokenizer {
            Some(text) => ContextMemory::empty(text, model.arch.vocabulary),
            None => ContextMemory::default(),
        };
        let entry = |fact: &TokenizedFact| {
            let prompt = fact.rows.keys[0].ids.clone();
            ContextEntry { context: [&prompt[..], &fact.rows.target].concat(), prompt }
        };
        let entries = facts.iter().map(entry).collect();
        let mut memory = memory(trained, ContextMemory { entries, ..empty });
        for (i, some) in facts.chunks(AT_A_TIME).enumerate() {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Fact, (i * AT_A_TIME) as u64, facts.len() as u64);
            let prompts: Vec<&[u32]> = some.iter().map(|f| &f.rows.keys[0].ids[..]).collect();
            let points = memory.points(model, &prompts)?;
            memory.keys.extend(points.into_iter().flatten().map(|x| x as f32));
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        let done = facts.iter().map(|_| FactPlan::trained(Vec::new())).collect();
        let state = std::mem::take(&mut on.state);
        let memory = Some(EditMemory::Serac(Arc::new(memory)));
        Ok(Plan { model: model.clone(), facts: done, changes: Vec::new(), memory, state })
    }

    fn train(&self, on: TrainContext, by: &Params) -> Result<(TrainedEditor, Value)> {
        let TrainContext { model, samples, held_out, tokenizer, kept, seed, progress } = on;
        let mut parameters = Parameters::new(model.compute.precision());
        let ids = ids(model, by);
        let editor = SeracEditor::new(model, &ids, (by.number(&LR), seed), &mut parameters);
        let weights = [by.number(&CEDIT), by.number(&CLOC)];
        let joined = ContextMemory::empty(tokenizer, model.arch.vocabulary);
        let mut objective = SeracObjective::new(model, editor, joined, weights);
        samples.iter().chain(held_out).try_for_each(|sample| objective.check(sample))?;
        let run = TrainingRun { samples, held_out, kept, progress };
        let training = train_params::training_loop(by, seed);
        let history = training.run(run, &mut objective, &mut parameters)?;
        let mut trained = TrainedEditor::default();
        trained.take(&parameters);
        Ok((trained, json!({ "history": history })))
    }
}

/// The matrices that are trained: those of the layers, or of all.
fn ids(model: &Model, by: &Params) -> Vec<MatrixId> {
    let all = model.matrices().map(|(id, _)| id);
    all.filter(|id| by.layers().is_empty() || by.layers().contains(&id.layer)).collect()
}

/// Facts with what a training left, without keys yet.
fn memory(trained: &TrainedEditor, facts: ContextMemory) -> SeracMemory {
    let matrices = trained.tensors.iter().filter_map(|(name, (shape, values))| {
        Some((name.parse().ok()?, ([shape[0], shape[1]], values.clone())))
    });
    SeracMemory {
        made_for: Default::default(),
        facts,
        keys: Vec::new(),
        scope: trained.tensors[objective::SCOPE].1.clone(),
        matrices: matrices.collect(),
    }
}
