//! Equality-constrained mass editing.
//!
//! ```text
//! minimise tr Δ M Δᵀ with ΔK = R:      Δ = R (KᵀM⁻¹K + εI)⁻¹KᵀM⁻¹      ε = 0 meets it exactly
//!
//! M = λC + Q + νI    Q Σ KKᵀ of the batches before, as in MEMIT
//! λ mom2_update_weight, ν update_norm_lambda, ε emmet_lambda
//! ```
//!
//! With ε > 0 that is MEMIT's closed form with εM in the place of λC + Q, so keys of earlier
//! batches weigh ε of what they weigh there. As a rule one layer is edited; several by equal
//! shares, as MEMIT does it, or by values of all of them (edit/solve/window.rs). Source: Gupta,
//! Sajnani, Anumanchipalli 2024, arXiv:2403.14236.

use faer::Mat;

use super::memit::{Memit, solve};
use crate::base::{Error, Result};
use crate::edit::closed_form_method::{ClosedFormMethod, Ingredients};
use crate::edit::cost::Solves;
use crate::edit::family::{self, MOM2_UPDATE_WEIGHT, UPDATE_NORM_LAMBDA};
use crate::edit::method::About;
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range, digest_number};
use crate::edit::search::Search;
use crate::edit::solve::layers::{ClosedForm, Solved};
use crate::edit::state::State;
use crate::linalg::least_squares::{Route, Solver};
use crate::model::At;
use crate::model::arch::{Arch, NormPlace};
use crate::store::Fingerprint;

/// EMMET, as methods are listed.
pub static EMMET: EmmetMethod = EmmetMethod;

/// See [`EMMET`].
pub struct EmmetMethod;

static ABOUT: About = About {
    name: "emmet",
    summary: "MEMIT whose facts are met exactly or nearly so, as a rule in one layer.",
    paper: "Gupta et al. 2024, arXiv:2403.14236",
    changes: "the MLP down projections of a window of layers",
    needs: "key statistics of those layers; a state, to go on from earlier edits",
    presets: "emmet",
};

const EMMET_LAMBDA: Param = Param {
    name: "emmet_lambda",
    kind: ParamKind::Number(Range::ZeroOrAboveRounding),
    absent: Absent::Unused("0.1, or 0 with spread=values"),
    about: "ε: how far facts may be missed; 0 meets them exactly.",
};

const LAYERS: Param = Param {
    about: "The edited layers; values are searched at the last of them, or with spread=values at \
            each.",
    ..params::LAYERS
};

const VALUES: &str = "values";

const SPREAD: Param = Param {
    name: "spread",
    kind: ParamKind::Choice(&["residual", VALUES]),
    absent: Absent::Default("\"residual\""),
    about: "How several layers divide a fact: by equal shares of what the last one's stream lacks, \
            or by values of all of them, searched at once, which a norm behind the MLP needs.",
};

static PARAMS: [&Param; 15] = [
    &LAYERS,
    &params::FACT_TOKEN,
    &params::V_NUM_GRAD_STEPS,
    &params::V_LR,
    &params::V_LOSS_LAYER,
    &params::V_WEIGHT_DECAY,
    &params::CLAMP_NORM_FACTOR,
    &params::KL_FACTOR,
    &MOM2_UPDATE_WEIGHT,
    &EMMET_LAMBDA,
    &SPREAD,
    &UPDATE_NORM_LAMBDA,
    &family::EARLY_STOP,
    &family::MOM2_ADJUSTMENT_ON,
    &family::NO_NORM_ANCHOR,
];

impl ClosedFormMethod for EmmetMethod {
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
        Ok(Box::new(Emmet {
            memit: Memit::new(with.moments, by, state),
            emmet_lambda: epsilon(by),
        }))
    }

    /// With a norm behind the MLP, δ goes in before it: then one layer meets its facts exactly.
    fn search(&self, by: &Params, arch: &Arch) -> Search {
        let at = match arch.norms {
            NormPlace::Before if !by.is(&SPREAD, VALUES) => At::Stream,
            _ => At::VALUE,
        };
        let mut search = family::search(by, arch, at);
        if by.is(&SPREAD, VALUES) {
            search.push.site.layer = by.layers()[0];
            search.push.above = by.layers().len() - 1;
        }
        search
    }

    fn check_model(&self, by: &Params, arch: &Arch) -> Result<()> {
        let layers = by.layers();
        if by.is(&SPREAD, VALUES) {
            let gap = layers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
            return gap.map_or(Ok(()), |pair| {
                let what = format!(
                    "values of all layers of a window are searched at once, and between {} and {} \
                     some are left out",
                    pair[0], pair[1]
                );
                Err(Error::refused(what, "edit layers that follow one another"))
            });
        }
        match arch.norms {
            NormPlace::Behind if layers.len() > 1 => {
                Err(family::norm_behind("emmet by equal shares of several layers", arch))
            }
            _ => Ok(()),
        }
    }

    fn solve_cost(&self, by: &Params, solves: &Solves) -> (Route, u64) {
        solves.with_matrix(epsilon(by))
    }
}

/// ε. What the layers of a window owe each other is paid where each meets its own.
fn epsilon(by: &Params) -> f64 {
    let otherwise = if by.is(&SPREAD, VALUES) { 0.0 } else { 0.1 };
    by.number_if_given(&EMMET_LAMBDA).unwrap_or(otherwise)
}

/// EMMET's closed form.
pub struct Emmet<'a> {
    /// C, λ, ν and the keys of earlier batches, as MEMIT has them.
    pub memit: Memit<'a>,
    /// ε.
    pub emmet_lambda: f64,
}

impl ClosedForm for Emmet<'_> {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        let moment = (self.memit.moments)(layer)?;
        let prior = |ridge| self.memit.prior(&moment, ridge);
        solve(&moment, self.emmet_lambda, [k, r], &prior, solver)
    }

    fn normed(&self, layer: usize) -> Result<bool> {
        Ok((self.memit.moments)(layer)?.origin.normed)
    }

    fn factors_span_keys(&self, layer: usize) -> bool {
        let normed = self.normed(layer).unwrap_or(true);
        !normed && self.memit.factors_span_keys(layer)
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) -> Result<()> {
        self.memit.learn(layer, k)
    }

    fn give_back(&mut self, state: &mut State) {
        self.memit.give_back(state);
    }

    fn digest(&self, into: &mut Fingerprint) {
        into.field(b"emmet");
        self.memit.digest(into);
        digest_number(self.emmet_lambda, into);
    }

    fn digest_layer(&self, layer: usize, into: &mut Fingerprint) -> Result<()> {
        self.memit.digest_layer(layer, into)
    }
}
