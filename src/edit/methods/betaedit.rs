//! AlphaEdit whose change also minds what text reads in the directions it leaves, and whose
//! directions are found again as edits come in.
//!
//! ```text
//! U₀ (F, q)   directions in which C is below nullspace_threshold, as in AlphaEdit; after every τ
//!             facts those of (Q/t + λC)/(λ + 1), t the facts so far       τ refresh_every
//! Q (F, F)    Σ KKᵀ of the batches before
//! λ           how many keys of text count as one of a fact                mom2_update_weight
//!
//! Δᵀ = U₀ (U₀ᵀ(KKᵀ + Q + λC)U₀ + L2·I)⁻¹ U₀ᵀK Rᵀ
//! ```
//!
//! which is the published (P(KKᵀ + Q + λC) + L2·I)⁻¹PKRᵀ in U₀'s coordinates: AlphaEdit's solve
//! with U₀ᵀ(Q + λC)U₀ in the place of its Q̃. The public code takes facts one by one and ends a run
//! whose ‖Δ‖/√N is above 20; here batches have any size, and a change that large is reported as
//! everywhere. Source: arXiv:2605.09285 (IJCAI 2026).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;

use super::alphaedit::{AlphaEdit, BASIS, L2, NULLSPACE_THRESHOLD, bases, directions_below};
use super::memit::learn;
use crate::base::Result;
use crate::edit::closed_form_method::{ClosedFormMethod, Ingredients};
use crate::edit::cost::Solves;
use crate::edit::family::{self, GRAM};
use crate::edit::method::{About, Moments};
use crate::edit::params::{self, Absent, Param, ParamKind, Params, digest_number};
use crate::edit::solve::layers::{ClosedForm, Solved};
use crate::edit::state::{LayerTensors, State, misfit};
use crate::linalg::least_squares::{Route, Solver, times};
use crate::model::arch::Arch;
use crate::stats::Moment;
use crate::store::Fingerprint;

/// BetaEdit, as methods are listed.
pub static BETAEDIT: BetaEditMethod = BetaEditMethod;

/// See [`BETAEDIT`].
pub struct BetaEditMethod;

static ABOUT: About = About {
    name: "betaedit",
    summary: "AlphaEdit that also minds what little text reads in its directions, which it finds \
              again as edits come in.",
    paper: "BetaEdit 2026, arXiv:2605.09285",
    changes: "the MLP down projections of a window of layers",
    needs: "key statistics of those layers; a state, to go on from earlier edits",
    presets: "alphaedit",
};

const MOM2_UPDATE_WEIGHT: Param =
    Param { absent: Absent::Default("3000"), ..family::MOM2_UPDATE_WEIGHT };

const REFRESH_EVERY: Param = Param {
    name: "refresh_every",
    kind: ParamKind::Count,
    absent: Absent::Default("1000"),
    about: "τ: after how many facts the directions are found again.",
};

static PARAMS: [&Param; 16] = [
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
    &MOM2_UPDATE_WEIGHT,
    &REFRESH_EVERY,
    &family::EARLY_STOP,
    &family::MOM2_ADJUSTMENT_ON,
    &family::NORM_ANCHOR,
    &family::NORM_ANCHOR_SAMPLES,
];

/// t, in a state.
const EDITS: &str = "edits";

impl ClosedFormMethod for BetaEditMethod {
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
        let edits = state.notes.get(EDITS).and_then(|t| t.as_u64()).unwrap_or(0) as usize;
        let past = LayerTensors::new();
        let alphaedit =
            AlphaEdit { bases, nullspace_threshold: threshold, l2: by.number(&L2), past };
        let mut form = BetaEdit {
            alphaedit,
            moments: with.moments,
            mom2_update_weight: by.number(&MOM2_UPDATE_WEIGHT),
            refresh_every: by.count(&REFRESH_EVERY),
            gram: state.take(GRAM),
            edits: by.layers().iter().map(|&l| (l, edits)).collect(),
        };
        for &layer in by.layers() {
            let moment = (with.moments)(layer)?;
            let all = form.weighed(&moment, 1.0);
            form.project(layer, &all);
        }
        Ok(Box::new(form))
    }

    /// U₀, Q and their product for each layer.
    fn solve_cost(&self, by: &Params, solves: &Solves) -> (Route, u64) {
        let (route, bytes) = Solves { learns: true, ..*solves }.in_null_space(by.number(&L2));
        (route, bytes + 8 * (solves.layers * solves.f * solves.f) as u64)
    }

    fn state_settings(&self, by: &Params) -> String {
        let numbers = [NULLSPACE_THRESHOLD, MOM2_UPDATE_WEIGHT]
            .map(|param| format!(", {} {:e}", param.name, by.number(&param)));
        let every = by.count(&REFRESH_EVERY);
        let more = format!("{}, {} {every}", numbers.concat(), REFRESH_EVERY.name);
        family::state_settings(by, &more)
    }

    fn check_state(&self, path: &Path, state: &State, by: &Params, arch: &Arch) -> Result<()> {
        let bases = state.layers(BASIS);
        let fits = |l: &usize| bases.get(l).is_some_and(|u| u.nrows() == arch.inner);
        if let Some(l) = by.layers().iter().find(|l| !fits(l)) {
            let what = format!("is missing, or not of {} neurons", arch.inner);
            return Err(misfit(path, &format!("{BASIS}.{l}"), what));
        }
        if state.notes.get(EDITS).and_then(|t| t.as_u64()).is_none() {
            return Err(misfit(path, EDITS, "is not a number of facts".into()));
        }
        family::check_state(path, state, by, &|_| arch.inner)
    }
}

/// BetaEdit's closed form.
pub struct BetaEdit<'a> {
    /// AlphaEdit's, with U₀ᵀ(Q + λC)U₀ for what it learnt.
    pub alphaedit: AlphaEdit,
    /// C of each layer.
    pub moments: &'a Moments<'a>,
    /// λ.
    pub mom2_update_weight: f64,
    /// τ.
    pub refresh_every: usize,
    /// Q of each layer (F, F); the lower triangle counts.
    pub gram: LayerTensors,
    /// t of each layer.
    pub edits: BTreeMap<usize, usize>,
}

impl BetaEdit<'_> {
    /// `weight`·Q + λC (F, F).
    fn weighed(&self, moment: &Moment, weight: f64) -> Mat<f64> {
        let (f, gram) = (moment.f, self.gram.get(&moment.layer));
        let q = |i: usize, j: usize| gram.map_or(0.0, |q| q[(i.max(j), i.min(j))]);
        let c = |i: usize, j: usize| f64::from(moment.second_moment[j * f + i]);
        Mat::from_fn(f, f, |i, j| weight * q(i, j) + self.mom2_update_weight * c(i, j))
    }

    /// What AlphaEdit's solve has for its past: U₀ᵀAU₀.
    fn project(&mut self, layer: usize, a: &Mat<f64>) {
        let u = &self.alphaedit.bases[&layer];
        let au = times(a.as_ref(), u.as_ref().as_ref());
        let projected = times(u.transpose(), au.as_ref());
        self.alphaedit.past.insert(layer, Arc::new(projected));
    }
}

impl ClosedForm for BetaEdit<'_> {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        self.alphaedit.change(layer, k, r, solver)
    }

    fn factors_span_keys(&self, _: usize) -> bool {
        false
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) -> Result<()> {
        learn(&mut self.gram, layer, k);
        let before = self.edits[&layer];
        let t = before + k.ncols();
        self.edits.insert(layer, t);
        if before / self.refresh_every == t / self.refresh_every {
            return self.alphaedit.learn(layer, k);
        }
        let moment = (self.moments)(layer)?;
        let mut mixture = self.weighed(&moment, 1.0 / t as f64);
        mixture *= faer::Scale(1.0 / (self.mom2_update_weight + 1.0));
        let u = directions_below(layer, &mixture, self.alphaedit.nullspace_threshold)?;
        self.alphaedit.bases.insert(layer, Arc::new(u));
        let all = self.weighed(&moment, 1.0);
        self.project(layer, &all);
        Ok(())
    }

    fn give_back(&mut self, state: &mut State) {
        state.put(GRAM, std::mem::take(&mut self.gram));
        state.put(BASIS, std::mem::take(&mut self.alphaedit.bases));
        let edits = self.edits.values().copied().max().unwrap_or(0);
        state.notes.insert(EDITS.to_owned(), edits.into());
    }

    fn digest(&self, into: &mut Fingerprint) {
        into.field(b"betaedit");
        self.alphaedit.digest(into);
        digest_number(self.mom2_update_weight, into);
        into.add(&(self.refresh_every as u64).to_le_bytes());
    }

    fn digest_layer(&self, layer: usize, into: &mut Fingerprint) -> Result<()> {
        let moment = (self.moments)(layer)?;
        into.add(bytemuck::cast_slice(&moment.second_moment));
        self.alphaedit.digest_layer(layer, into)
    }
}
