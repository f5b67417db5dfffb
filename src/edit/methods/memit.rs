//! Mass-editing memory in a transformer.
//!
//! ```text
//! Z    values of all facts at the stream after the last layer of a window        edit/search
//! R    what is missing of them, spread evenly over the layers           edit/solve/layers.rs
//! C    E[k kᵀ] over running text; λ says how many such keys count as one      mom2_update_weight
//! Q    Σ KKᵀ of the batches before this one, read with their finished weights
//! ν    weight of ‖Δ‖², 0 unless it is given                             update_norm_lambda
//!
//! Δ = R Xᵀ,   X = (λC + νI + Q + KKᵀ)⁻¹K                                linalg/least_squares.rs
//! ```
//!
//! A C that is singular gets a ridge, which is said. Source: Meng, Sharma, Andonian, Belinkov, Bau
//! 2023, arXiv:2210.07229, eq. 14. In batches one upon the other this is MEMIT_seq of
//! jianghoucheng/AlphaEdit, which OTE-SE found to end where one edit of all facts would.

use std::sync::Arc;

use faer::Mat;

use crate::base::{Error, Remedy, Result};
use crate::edit::closed_form_method::{ClosedFormMethod, Ingredients};
use crate::edit::family::{self, GRAM, MOM2_UPDATE_WEIGHT, UPDATE_NORM_LAMBDA};
use crate::edit::known_facts::REPLACE_FACTS;
use crate::edit::method::{About, Moments};
use crate::edit::params::{self, Param, Params, digest_number};
use crate::edit::solve::layers::{ClosedForm, Solved};
use crate::edit::state::{LayerTensors, State};
use crate::linalg::least_squares::{
    self, Prior, Rhs, Route, Solution, Solver, System, add_gram, add_gram_times, on_host,
};
use crate::stats::Moment;
use crate::stats::covariance::{indefinite, matrix, with_ridge};
use crate::store::Fingerprint;

/// MEMIT, as methods are listed.
pub static MEMIT: MemitMethod = MemitMethod { about: &ABOUT, params: &PARAMS };

/// See [`MEMIT`]; [`encore`](super::encore) is one too.
pub struct MemitMethod {
    /// Name and paper.
    pub about: &'static About,
    /// Its parameters.
    pub params: &'static [&'static Param],
}

static ABOUT: About = About {
    name: "memit",
    summary: "Changes many facts at once, spread over a window of layers.",
    paper: "Meng et al. 2023, arXiv:2210.07229",
    changes: "the MLP down projections of a window of layers",
    needs: "key statistics of those layers; a state, to go on from earlier edits",
    presets: "memit",
};

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
    &family::EARLY_STOP,
    &family::MOM2_ADJUSTMENT_ON,
    &family::NORM_ANCHOR,
    &family::NORM_ANCHOR_SAMPLES,
    &REPLACE_FACTS,
];

impl ClosedFormMethod for MemitMethod {
    fn about(&self) -> &'static About {
        self.about
    }

    fn params(&self) -> &'static [&'static Param] {
        self.params
    }

    fn form<'a>(
        &self,
        by: &Params,
        with: Ingredients<'a>,
        state: &mut State,
    ) -> Result<Box<dyn ClosedForm + 'a>> {
        Ok(Box::new(Memit::new(with.moments, by, state)))
    }
}

/// MEMIT's closed form.
pub struct Memit<'a> {
    /// C of each layer.
    pub moments: &'a Moments<'a>,
    /// λ.
    pub mom2_update_weight: f64,
    /// ν.
    pub update_norm_lambda: f64,
    /// Q of each layer (F, F); the lower triangle counts.
    pub past: LayerTensors,
}

impl<'a> Memit<'a> {
    /// Goes on from what a state holds, and takes it out of there.
    pub fn new(moments: &'a Moments<'a>, by: &Params, state: &mut State) -> Memit<'a> {
        let mom2_update_weight = by.number(&MOM2_UPDATE_WEIGHT);
        let update_norm_lambda = by.number_or_zero(&UPDATE_NORM_LAMBDA);
        Memit { moments, mom2_update_weight, update_norm_lambda, past: state.take(GRAM) }
    }

    /// M = λ(C + ridge·I) + νI + Q.
    pub fn prior(&self, moment: &Moment, ridge: f64) -> Mat<f64> {
        let mut m = matrix(moment, ridge);
        m *= faer::Scale(self.mom2_update_weight);
        (0..m.nrows()).for_each(|i| m[(i, i)] += self.update_norm_lambda);
        if let Some(q) = self.past.get(&moment.layer) {
            m += &**q;
        }
        m
    }
}

impl ClosedForm for Memit<'_> {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        let moment = (self.moments)(layer)?;
        solve(&moment, 1.0, [k, r], &|ridge| self.prior(&moment, ridge), solver)
    }

    fn factors_span_keys(&self, layer: usize) -> bool {
        self.update_norm_lambda == 0.0 && !self.past.contains_key(&layer)
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) -> Result<()> {
        learn(&mut self.past, layer, k);
        Ok(())
    }

    fn forget(&mut self, layer: usize, k: &Mat<f64>) -> Result<Mat<f64>> {
        if let Some(q) = self.past.get_mut(&layer) {
            add_gram_times(Arc::make_mut(q), k, -1.0);
        }
        let moment = (self.moments)(layer)?;
        let solved = with_ridge(&moment, |ridge| {
            on_host(System { a: self.prior(&moment, ridge), k: None, b: Rhs::Keys(k) })
        })?;
        solved.map(|(x, _)| x).ok_or_else(|| indefinite(layer))
    }

    fn give_back(&mut self, state: &mut State) {
        state.put(GRAM, std::mem::take(&mut self.past));
    }

    fn digest(&self, into: &mut Fingerprint) {
        into.field(b"memit");
        digest_number(self.mom2_update_weight, into);
        digest_number(self.update_norm_lambda, into);
    }

    fn digest_layer(&self, layer: usize, into: &mut Fingerprint) -> Result<()> {
        let moment = (self.moments)(layer)?;
        into.add(&moment.tokens.to_le_bytes());
        into.add(bytemuck::cast_slice(&moment.second_moment));
        Ok(())
    }
}

/// Q of a layer += KKᵀ.
pub fn learn(past: &mut LayerTensors, layer: usize, k: &Mat<f64>) {
    let f = k.nrows();
    let q = past.entry(layer).or_insert_with(|| Arc::new(Mat::zeros(f, f)));
    add_gram(Arc::make_mut(q), k);
}

/// Δ with the prior M that `prior` makes of C and a ridge, which grows until M can be solved with.
///
/// # Errors
///
/// No ridge will do, or, with ε = 0, keys that depend on each other.
pub fn solve(
    moment: &Moment,
    epsilon: f64,
    [k, r]: [&Mat<f64>; 2],
    prior: &dyn Fn(f64) -> Mat<f64>,
    solver: Solver,
) -> Result<(Solution, Option<f64>)> {
    let made = with_ridge(moment, |ridge| {
        let prior = || prior(ridge);
        let prior = Prior::Matrix(&prior);
        let route = Route::choose(&prior, epsilon, [k.nrows(), k.ncols(), r.nrows()]);
        least_squares::solve(&prior, epsilon, k, r, route, solver)
    })?;
    made.ok_or_else(|| match epsilon == 0.0 {
        true => Error::numeric(
            format!("layer {}: the facts' keys depend on each other", moment.layer),
            Remedy::from(
                "set emmet_lambda to 0.1: prompts in which the same text precedes a subject share \
                 a key, whatever follows it",
            )
            .hyperparameter("emmet_lambda", Some("0.1")),
        ),
        false => indefinite(moment.layer),
    })
}
