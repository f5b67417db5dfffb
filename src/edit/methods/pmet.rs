//! Precise model editing: MEMIT whose search also optimises an offset of the attention's output,
//! which is discarded afterwards.
//!
//! ```text
//! δ_m, δ_a    added to the outputs of the MLP and of the attention of the last layer; the loss
//!             is nll_f·NLL + κ KL + decay (‖δ_m‖/‖m₀‖² + ‖δ_a‖/‖a₀‖²)           edit/search
//! Z = m₀ + δ_m                         δ_a is discarded
//! R = (Z − M)/√(n − i)                 M the MLP's output now; the root, where MEMIT has n − i
//! Δ = R Xᵀ                             as MEMIT
//! ```
//!
//! Source: Li, Li, Song, Yang, Ma, Yu 2024, arXiv:2308.08742, and the public code.

use faer::Mat;

use super::memit::Memit;
use crate::base::Result;
use crate::edit::closed_form_method::{ClosedFormMethod, Ingredients};
use crate::edit::family::{self, MOM2_UPDATE_WEIGHT};
use crate::edit::method::About;
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range};
use crate::edit::search::Search;
use crate::edit::solve::layers::{ClosedForm, Solved};
use crate::edit::state::State;
use crate::linalg::least_squares::Solver;
use crate::model::At;
use crate::model::arch::Arch;
use crate::store::Fingerprint;

/// PMET, as methods are listed.
pub static PMET: PmetMethod = PmetMethod;

/// See [`PMET`].
pub struct PmetMethod;

static ABOUT: About = About {
    name: "pmet",
    summary: "MEMIT whose search also optimises an offset of the attention's output.",
    paper: "Li et al. 2024, arXiv:2308.08742",
    changes: "the MLP down projections of a window of layers",
    needs: "key statistics of those layers; a state, to go on from earlier edits",
    presets: "pmet",
};

/// f, the weight of the negative log-likelihood.
pub const NLL_LOSS_FACTOR: Param = Param {
    name: "nll_loss_factor",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("1"),
    about: "Weight of the negative log-likelihood in the loss.",
};

static PARAMS: [&Param; 12] = [
    &params::LAYERS,
    &params::FACT_TOKEN,
    &params::V_NUM_GRAD_STEPS,
    &params::V_LR,
    &params::V_LOSS_LAYER,
    &params::V_WEIGHT_DECAY,
    &params::CLAMP_NORM_FACTOR,
    &params::KL_FACTOR,
    &NLL_LOSS_FACTOR,
    &MOM2_UPDATE_WEIGHT,
    &family::MOM2_ADJUSTMENT_ON,
    &family::NO_NORM_ANCHOR,
];

impl ClosedFormMethod for PmetMethod {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn form<'a>(
        &self,
        by: &Params,
        with: Ingredients<'a>,
        state: &mut State,
    ) -> Result<Box<dyn ClosedForm + 'a>> {
        Ok(Box::new(Pmet(Memit::new(with.moments, by, state))))
    }

    fn search(&self, by: &Params, arch: &Arch) -> Search {
        let mut search = family::search(by, arch, At::VALUE);
        search.push.attention = true;
        search.nll_factor = by.number(&NLL_LOSS_FACTOR);
        search.anneal_nll = true;
        search
    }
}

/// PMET's closed form.
pub struct Pmet<'a>(pub Memit<'a>);

impl ClosedForm for Pmet<'_> {
    fn share(&self, left: usize) -> f64 {
        1.0 / (left as f64).sqrt()
    }

    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        self.0.change(layer, k, r, solver)
    }

    fn factors_span_keys(&self, layer: usize) -> bool {
        self.0.factors_span_keys(layer)
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) -> Result<()> {
        self.0.learn(layer, k)
    }

    fn give_back(&mut self, state: &mut State) {
        self.0.give_back(state);
    }

    fn digest(&self, into: &mut Fingerprint) {
        into.field(b"pmet");
        self.0.digest(into);
    }

    fn digest_layer(&self, layer: usize, into: &mut Fingerprint) -> Result<()> {
        self.0.digest_layer(layer, into)
    }
}
