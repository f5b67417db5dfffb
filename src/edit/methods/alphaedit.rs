//! Null-space constrained editing: a change that keys of running text do not see.
//!
//! ```text
//! C = U diag(σ) Uᵀ,   U₀ (F, q) the columns with σ < nullspace_threshold,   P = U₀U₀ᵀ
//! K̃ = U₀ᵀK (q, N)     Q̃ = Σ K̃K̃ᵀ of the batches before
//!
//! Δᵀ = U₀ (K̃K̃ᵀ + Q̃ + L2·I)⁻¹ K̃ Rᵀ
//! ```
//!
//! which is the published (P(KKᵀ + Q) + L2·I)⁻¹PKRᵀ in the coordinates where it is symmetric and
//! q wide. ΔU₁ = 0 for the directions U₁ that text uses. Source: Fang et al. 2025,
//! arXiv:2410.02355, eq. 14.

use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;

use super::memit::learn;
use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::edit::closed_form_method::{ClosedFormMethod, Ingredients};
use crate::edit::cost::Solves;
use crate::edit::family::{self, GRAM};
use crate::edit::method::{About, Moments, Needs};
use crate::edit::params::{self, Absent, Param, ParamKind, Params, Range, digest_number};
use crate::edit::solve::layers::{ClosedForm, Solved};
use crate::edit::state::{LayerTensors, State, misfit};
use crate::linalg::eigen::symmetric;
use crate::linalg::least_squares::{self, Prior, Route, Solution, Solver, times};
use crate::model::arch::Arch;
use crate::stats::Moment;
use crate::stats::covariance::matrix;
use crate::store::Fingerprint;

/// AlphaEdit, as methods are listed.
pub static ALPHAEDIT: AlphaEditMethod = AlphaEditMethod;

/// See [`ALPHAEDIT`].
pub struct AlphaEditMethod;

static ABOUT: About = About {
    name: "alphaedit",
    summary: "Changes many facts at once in directions that running text does not use.",
    paper: "Fang et al. 2025, arXiv:2410.02355",
    changes: "the MLP down projections of a window of layers",
    needs: "key statistics of those layers; a state, to go on from earlier edits",
    presets: "alphaedit",
};

/// σ below it is unused.
pub(super) const NULLSPACE_THRESHOLD: Param = Param {
    name: "nullspace_threshold",
    kind: ParamKind::Number(Range::Positive),
    absent: Absent::Default("0.02"),
    about: "Eigenvalues of C below it count as directions that text does not use.",
};

/// L2.
pub(super) const L2: Param = Param {
    name: "L2",
    kind: ParamKind::Number(Range::AboveRounding),
    absent: Absent::Needed,
    about: "Weight of the size of the change.",
};

static PARAMS: [&Param; 14] = [
    &params::LAYERS,
    &params::FACT_TOKEN,
    &params::V_NUM_GRAD_STEPS,
    &params::V_LR,
    &params::V_LOSS_LAYER,
    &params::V_WEIGHT_DECAY,
    &params::CLAMP_NORM_FACTOR,
    &params::KL_FACTOR,
    &NULLSPACE_THRESHOLD,
    &L2,
    &family::EARLY_STOP,
    &family::MOM2_ADJUSTMENT_ON,
    &family::NORM_ANCHOR,
    &family::NORM_ANCHOR_SAMPLES,
];

/// U₀ of each layer, in a state.
pub(super) const BASIS: &str = "basis";

impl ClosedFormMethod for AlphaEditMethod {
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
        let threshold = by.number(&NULLSPACE_THRESHOLD);
        let stored = state.take(BASIS);
        let bases = bases(stored, by.layers(), with.moments, threshold, with.progress)?;
        let l2 = by.number(&L2);
        let past = state.take(GRAM);
        Ok(Box::new(AlphaEdit { bases, nullspace_threshold: threshold, l2, past }))
    }

    /// The directions of a state serve; C is not read again.
    fn needs(&self, by: &Params, state: &State) -> Needs {
        let bases = state.tensors.get(BASIS);
        let mut needs = family::needs(by);
        needs.statistics.retain(|l| bases.is_none_or(|bases| !bases.contains_key(l)));
        needs
    }

    fn solve_cost(&self, by: &Params, solves: &Solves) -> (Route, u64) {
        solves.in_null_space(by.number(&L2))
    }

    fn state_settings(&self, by: &Params) -> String {
        let threshold = by.number(&NULLSPACE_THRESHOLD);
        family::state_settings(by, &format!(", nullspace_threshold {threshold:e}"))
    }

    fn check_state(&self, path: &Path, state: &State, by: &Params, arch: &Arch) -> Result<()> {
        let bases = state.tensors.get(BASIS);
        let basis = |l: usize| bases.and_then(|bases| bases.get(&l));
        if let Some(l) =
            by.layers().iter().find(|&&l| basis(l).is_none_or(|u| u.nrows() != arch.inner))
        {
            let what = format!("is missing, or not of {} neurons", arch.inner);
            return Err(misfit(path, &format!("{BASIS}.{l}"), what));
        }
        family::check_state(path, state, by, &|l| basis(l).map_or(0, |u| u.ncols()))
    }
}

/// U₀ of each layer: those there are, and the rest from C.
pub(super) fn bases(
    mut bases: LayerTensors,
    layers: &[usize],
    moments: &Moments,
    threshold: f64,
    progress: &dyn Progress,
) -> Result<LayerTensors> {
    for (i, &layer) in layers.iter().enumerate() {
        progress.at(Stage::NullSpace, i as u64, layers.len() as u64);
        if let Entry::Vacant(place) = bases.entry(layer) {
            let moment = moments(layer)?;
            place.insert(Arc::new(null_space(&moment, threshold)?));
            warn_of_few(&moment, progress);
        }
    }
    Ok(bases)
}

/// AlphaEdit's closed form.
pub struct AlphaEdit {
    /// U₀ (F, q) of each layer.
    pub bases: LayerTensors,
    /// What made them.
    pub nullspace_threshold: f64,
    /// L2.
    pub l2: f64,
    /// Q̃ (q, q) of each layer; the lower triangle counts.
    pub past: LayerTensors,
}

/// The directions in which C is below the threshold.
///
/// # Errors
///
/// None or all of them; a C that has no eigenvalues.
pub fn null_space(moment: &Moment, threshold: f64) -> Result<Mat<f64>> {
    directions_below(moment.layer, &matrix(moment, 0.0), threshold)
}

/// The same of any C (F, F), whose lower triangle is read.
pub(super) fn directions_below(layer: usize, c: &Mat<f64>, threshold: f64) -> Result<Mat<f64>> {
    let f = c.nrows();
    let Some((sigma, u)) = symmetric(c) else {
        let what = format!("layer {layer}: the eigenvalues of C do not converge");
        return Err(Error::numeric(what, "collect C again"));
    };
    let q = sigma.iter().take_while(|&&s| s < threshold).count(); // ascending
    let (least, most) = (sigma[0], sigma[f - 1]);
    if q == 0 || q == f {
        let which = if q == 0 { "no eigenvalue" } else { "every eigenvalue" };
        return Err(Error::numeric(
            format!("layer {layer}: {which} of C is below nullspace_threshold {threshold:e}"),
            Remedy::from(format!("set nullspace_threshold between {least:.2e} and {most:.2e}"))
                .hyperparameter("nullspace_threshold", None),
        ));
    }
    Ok(u.subcols(0, q).to_owned())
}

impl ClosedForm for AlphaEdit {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        let u = &self.bases[&layer];
        let k = times(u.transpose(), k.as_ref());
        let q = k.nrows();
        let with_past = |past: &Mat<f64>| {
            let mut m = past.clone();
            (0..q).for_each(|i| m[(i, i)] += self.l2);
            m
        };
        let made = self.past.get(&layer).map(|past| || with_past(past));
        let prior = match &made {
            Some(made) => Prior::Matrix(made),
            None => Prior::Scaled(self.l2),
        };
        let route = Route::choose(&prior, 1.0, [q, k.ncols(), r.nrows()]);
        let change = least_squares::solve(&prior, 1.0, &k, r, route, solver).ok_or_else(|| {
            let what = format!("layer {layer}: the system of {q} directions cannot be solved");
            Error::numeric(
                what,
                Remedy::from("set L2 to a larger number").hyperparameter("L2", None),
            )
        })?;
        let whole = |m: &Mat<f64>| times(u.as_ref().as_ref(), m.as_ref());
        Ok(match change {
            Solution::Right(x) => (Solution::Right(whole(&x)), None),
            Solution::Whole(x) => (Solution::Whole(whole(&x)), None),
        })
    }

    fn factors_span_keys(&self, _: usize) -> bool {
        false
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) -> Result<()> {
        let u = &self.bases[&layer];
        learn(&mut self.past, layer, &times(u.transpose(), k.as_ref()));
        Ok(())
    }

    fn give_back(&mut self, state: &mut State) {
        state.put(GRAM, std::mem::take(&mut self.past));
        state.put(BASIS, std::mem::take(&mut self.bases));
    }

    fn digest(&self, into: &mut Fingerprint) {
        into.field(b"alphaedit");
        digest_number(self.nullspace_threshold, into);
        digest_number(self.l2, into);
    }

    fn digest_layer(&self, layer: usize, into: &mut Fingerprint) -> Result<()> {
        let mut add = |x: &f64| into.add(&x.to_le_bytes());
        self.bases[&layer].col_iter().for_each(|c| c.iter().for_each(&mut add));
        Ok(())
    }
}

/// Says where directions are taken for unused because no text was seen that uses them.
fn warn_of_few(moment: &Moment, progress: &dyn Progress) {
    let Moment { layer, f, tokens, .. } = moment;
    if *tokens < *f as u64 {
        progress.warn(&format!(
            "layer {layer}: C is of {tokens} tokens for {f} neurons, so at least {} directions \
             are counted as unused whatever text does with them; collect more tokens",
            *f as u64 - tokens,
        ));
    }
}
