//! MEMIT for long sequences of edits: a ridge on the change, and a search that ends once the model
//! says the target.
//!
//! ```text
//! Δ = R Kᵀ (λC + νI + Q + KKᵀ)⁻¹       memit.rs; ν update_norm_lambda, 20 where nothing is said
//! the search ends at the n-th look at which every target token is the likeliest in every row
//!                                      edit/search; n early_stop, 2 where nothing is said
//! ```
//!
//! Shapes as in [`memit`](super::memit). The public code counts tokens over the five rows behind a
//! context and compares with five, so there only targets of one token end a search; here all tokens
//! of all rows count. Its Q takes keys before the layer is changed, and this one after: those are
//! the same, for what a matrix reads does not depend on it. Source: Gupta, Prateepamornkul, Lu,
//! Alaa, Hartvigsen, Anumanchipalli 2025, arXiv:2502.01636.

use super::memit::MemitMethod;
use crate::edit::family::{self, MOM2_UPDATE_WEIGHT};
use crate::edit::known_facts::REPLACE_FACTS;
use crate::edit::method::About;
use crate::edit::params::{self, Absent, Param};

/// ENCORE, as methods are listed.
pub static ENCORE: MemitMethod = MemitMethod { about: &ABOUT, params: &PARAMS };

static ABOUT: About = About {
    name: "encore",
    summary: "MEMIT for long sequences: smaller changes, and a search that ends once the target is \
              said.",
    paper: "Gupta et al. 2025, arXiv:2502.01636",
    changes: "the MLP down projections of a window of layers",
    needs: "key statistics of those layers; a state, to go on from earlier edits",
    presets: "memit",
};

const UPDATE_NORM_LAMBDA: Param =
    Param { absent: Absent::Default("20"), ..family::UPDATE_NORM_LAMBDA };
const EARLY_STOP: Param = Param { absent: Absent::Default("2"), ..family::EARLY_STOP };

static PARAMS: [&Param; 15] = [
    &params::LAYERS,
    &params::FACT_TOKEN,
    &params::V_NUM_GRAD_STEPS,
    &params::V_LR,
    &params::V_LOSS_LAYER,
    &params::V_WEIGHT_DECAY,
    &params::CLAMP_NORM_FACTOR,
    &params::KL_FACTOR,
    &MOM2_UPDATE_WEIGHT,
    &UPDATE_NORM_LAMBDA,
    &EARLY_STOP,
    &family::MOM2_ADJUSTMENT_ON,
    &family::NORM_ANCHOR,
    &family::NORM_ANCHOR_SAMPLES,
    &REPLACE_FACTS,
];
