//! MEND: a trained editor turns the gradient of an edit into the change that makes it.
//!
//! ```text
//! W (out, in)          the edited matrices, `matrices` of `layers`
//! x_t (in), δ_t (out)  what W reads at token t, and the gradient for what it gives there, of
//!                      −(1/T) Σ_t ln p(y_t | prompt, y_<t); tokens where either is 0 are left out
//! [x̃; δ̃] ← network     of the shape of W, trained: `mend/network.rs`
//! W ← W + η Σ_t δ̃_t x̃_tᵀ                        η trained, one a matrix
//! ```
//!
//! Facts are edited one after another, each on the model as those before it left it; the rank of a
//! fact's change is the number of its tokens. Training (`edit/weight_editor.rs`, and `train/` for
//! the loop) minimises cedit·(−ln p of the target after a paraphrase) + cloc·KL on a text that
//! should stay. As published:
//!
//! * the sign is plus and δ the gradient, so an editor that has not learnt goes up the loss;
//! * both blocks of a network clamp at 0, whose subgradient there is 1.
//!
//! Where the public code differs:
//!
//! * There the rate of η, `lr_lr`, acts nowhere: its gradient is cleared before its optimiser
//!   steps, and η moves with `lr`. Here it acts; set it to `lr` for what is done there.
//! * The mean and deviation of a network are not started anew where a training goes on.
//! * EasyEdit takes the edit's own prompt for the outer one; here that is so for requests without
//!   paraphrases alone.
//! * KL is over all tokens of the locality text, its target included.
//!
//! Source: Mitchell et al. 2022, arXiv:2110.11309.

mod editor;
mod network;

pub use editor::{MendEditor, MendShape};

use serde_json::Value;

use crate::base::Result;
use crate::edit::cost::Cost;
use crate::edit::facts::TokenizedFact;
use crate::edit::method::{About, Batching, Context, Method, Plan, TrainContext};
use crate::edit::params::{Absent, Param, ParamKind, Params, Range};
use crate::edit::train_params;
use crate::edit::weight_editor;
use crate::train::{Parameters, TrainedEditor};

/// The method, as it is listed.
pub static MEND: Mend = Mend;

/// See [`MEND`].
pub struct Mend;

static ABOUT: About = About {
    name: "mend",
    summary: "A trained editor turns the gradient of each fact into the change that makes it.",
    paper: "Mitchell et al. 2022, arXiv:2110.11309",
    changes: "any matrices of any layers, as published the MLP's of the last three",
    needs: "an editor that was trained for the model",
    presets: "mend",
};

const RANK: Param = Param {
    name: "rank",
    kind: ParamKind::Count,
    absent: Absent::Default("1920"),
    about: "The rank of the networks' blocks, at most.",
};
const LR: Param = Param {
    name: "lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-6"),
    about: "Adam's rate for the networks; as published it takes 10^5 samples, and 1e-4 suits 10^4.",
};
const LR_LR: Param = Param {
    name: "lr_lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-4"),
    about: "Adam's rate for the rates of the change; in the public code they move with lr.",
};
const EDIT_LR: Param = Param {
    name: "edit_lr",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1e-4"),
    about: "The rates of the change before training.",
};
static PARAMS: [&Param; 14] = [
    &weight_editor::LAYERS,
    &weight_editor::MATRICES,
    &RANK,
    &LR,
    &LR_LR,
    &EDIT_LR,
    &weight_editor::CEDIT,
    &weight_editor::CLOC,
    &train_params::MAX_ITERS,
    &train_params::ACCUMULATE_BS,
    &train_params::GRAD_CLIP,
    &train_params::VAL_INTERVAL,
    &train_params::VAL_STEPS,
    &train_params::EARLY_STOP_PATIENCE,
];

impl Method for Mend {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::OneByOne
    }

    fn is_trained(&self) -> bool {
        true
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        weight_editor::cost(on, facts, &by.edited())
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let mut parameters = Parameters::new(on.model.compute.precision());
        let editor = MendEditor::new(on.model, &by.edited(), shape(by, 0), &mut parameters);
        weight_editor::plan(on, facts, (editor, 1), parameters)
    }

    fn train(&self, on: TrainContext, by: &Params) -> Result<(TrainedEditor, Value)> {
        let mut parameters = Parameters::new(on.model.compute.precision());
        let editor = MendEditor::new(on.model, &by.edited(), shape(by, on.seed), &mut parameters);
        weight_editor::train(on, by, editor, parameters)
    }
}

fn shape(by: &Params, seed: u64) -> MendShape {
    MendShape {
        rank: by.count(&RANK),
        lr: by.number(&LR),
        lr_lr: by.number(&LR_LR),
        edit_lr: by.number(&EDIT_LR),
        seed,
    }
}
