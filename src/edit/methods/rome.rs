//! Rank-one model editing, as published and with one consistent key.
//!
//! Meng, Bau, Andonian, Belinkov 2022, arXiv:2202.05262; Gupta, Baskaran, Anumanchipalli 2024,
//! arXiv:2403.07175 (R-ROME).
//!
//! ```text
//! W  (D, F)  the MLP's down projection in layer l, which takes a key (F) to a value (D)
//! C  (F, F)  E[k kᵀ] over running text
//! k* (F)     key at the subject's last token, mean over all contexts (`key_average`)
//! k₀ (F)     the same of the bare prompt alone
//! v* (D)     value under which the model says the new object                     edit/search
//!
//! R-ROME  Δ = (v* − W k* − b) xᵀ,   x = C⁻¹k* / k*ᵀC⁻¹k*          afterwards  Ŵ k* + b = v*
//! ROME    Δ = (v* − m₀) xᵀ,         x = C⁻¹k* / k₀ᵀC⁻¹k*          afterwards  Ŵ k₀ + b = v*
//! ```
//!
//! with m₀ = W k₀ + b. Either way Ŵk = Wk for every k with kᵀC⁻¹k* = 0. ROME's two keys are the
//! public code's; they make the denominator small by accident, which is what R-ROME mends.

use crate::base::{Error, Progress, Result, Stage};
use crate::data::contexts::Average;
use crate::edit::cost::Cost;
use crate::edit::fact_report::FactPlan;
use crate::edit::facts::TokenizedFact;
use crate::edit::family;
use crate::edit::method::{About, Batching, Context, Method, Needs, Plan};
use crate::edit::params::{self, Absent, Param, ParamKind, Params};
use crate::edit::prompts::{FactRows, PromptRow};
use crate::edit::search::{self, Search, TargetValue};
use crate::edit::solve::delta::{join_keys, sum};
use crate::edit::solve::layers::MatrixChange;
use crate::edit::state::State;
use crate::linalg::vector::{dot, norm};
use crate::model::arch::Arch;
use crate::model::change::dense;
use crate::model::score::read;
use crate::model::{At, MatrixId, Model, Site};
use crate::stats::Covariance;
use crate::store::{Delta, FactKeys};
use crate::tensor::Tensor;

/// ROME as published, as methods are listed.
pub static ROME: Rome = Rome { keys: KeyChoice::Mixed, about: About { name: "rome", ..ABOUT } };

/// ROME with one consistent key.
pub static R_ROME: Rome = Rome {
    keys: KeyChoice::Consistent,
    about: About {
        name: "r-rome",
        summary: "ROME with one consistent key, which keeps later edits from breaking the model.",
        paper: "Gupta et al. 2024, arXiv:2403.07175",
        ..ABOUT
    },
};

/// See [`ROME`] and [`R_ROME`].
pub struct Rome {
    keys: KeyChoice,
    about: About,
}

const ABOUT: About = About {
    name: "rome",
    summary: "Changes one fact after another, each by a matrix of rank one in one layer.",
    paper: "Meng et al. 2022, arXiv:2202.05262",
    changes: "the MLP down projection of one layer",
    needs: "key statistics of that layer, unless mom2_adjustment is false",
    presets: "rome",
};

const MOM2_ADJUSTMENT: Param = Param {
    name: "mom2_adjustment",
    kind: ParamKind::Switch,
    absent: Absent::Default("true"),
    about: "Whether C shapes the change, as in the paper.",
};

static PARAMS: [&Param; 10] = [
    &params::LAYER,
    &params::FACT_TOKEN,
    &params::V_NUM_GRAD_STEPS,
    &params::V_LR,
    &params::V_LOSS_LAYER_LAST,
    &params::V_WEIGHT_DECAY,
    &params::CLAMP_NORM_FACTOR,
    &params::KL_FACTOR,
    &params::KEY_AVERAGE,
    &MOM2_ADJUSTMENT,
];

/// Which key is used in the denominator and in the residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChoice {
    /// k* everywhere: R-ROME.
    Consistent,
    /// k* in the direction, k₀ elsewhere: ROME as published.
    Mixed,
}

/// Which key counts where, and what each context's key weighs in the mean.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Which.
    pub choice: KeyChoice,
    /// A weight a context, together 1; the first is the bare prompt's.
    pub weights: &'a [f64],
}

impl Method for Rome {
    fn about(&self) -> &'static About {
        match self.keys {
            KeyChoice::Mixed => &ROME.about,
            KeyChoice::Consistent => &R_ROME.about,
        }
    }

    fn params(&self) -> &'static [&'static Param] {
        &PARAMS
    }

    fn batching(&self) -> Batching {
        Batching::OneByOne
    }

    fn search(&self, by: &Params, arch: &Arch) -> Option<Search> {
        Some(family::search(by, arch, At::VALUE))
    }

    fn needs(&self, by: &Params, _: &State) -> Needs {
        let statistics = if by.is_on(&MOM2_ADJUSTMENT) { by.layers().to_vec() } else { Vec::new() };
        Needs { statistics, state: false }
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let search = family::search(by, &on.model.arch, At::VALUE);
        let f = on.model.arch.inner as u64;
        let c = if by.is_on(&MOM2_ADJUSTMENT) { 12 * f * f } else { 0 }; // f32, and its f64 factor
        Cost { at_a_time: 1, solve_bytes: c, ..family::search_cost(on, facts, &search) }
    }

    /// Plans facts one after another, each on the model as the facts before it left it.
    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let (model, progress) = (on.model, on.progress);
        let search = family::search(by, &model.arch, At::VALUE);
        let (l, id) = (by.last_layer(), MatrixId::down(by.last_layer()));
        let c = match by.is_on(&MOM2_ADJUSTMENT) {
            true => Some(Covariance::of(&*(on.statistics)(l)?)?),
            false => None,
        };
        let average =
            if by.is(&params::KEY_AVERAGE, "grouped") { Average::Grouped } else { Average::Flat };
        let keys = Keys { choice: self.keys, weights: &on.contexts.weights(average) };
        let mut now = model.clone();
        let mut deltas = Vec::new();
        let mut keys_star = Vec::new();
        let mut done = Vec::new();
        let weight = norm(&model.matrix(id).w.to_dense::<f64>());
        for (i, fact) in facts.iter().enumerate() {
            progress.at(Stage::Fact, i as u64, facts.len() as u64);
            let one = plan_one(&now, c.as_ref(), &fact.rows, keys, &search, progress)?;
            let before = norm(&now.matrix(id).w.to_dense::<f64>());
            now = now.with_values(id, changed(&now, l, &one));
            done.push(FactPlan {
                change: Some([norm(&one.left) * norm(&one.right), before]),
                key_cosine: Some(cosine(&one.k0, &one.k_star)),
                ..FactPlan::new(&one.value, &one.value.delta)
            });
            let single = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
            keys_star.push(FactKeys { values: single(one.k_star), n: 1 });
            deltas.push(Delta::LowRank { left: single(one.left), right: single(one.right), r: 1 });
        }
        progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
        let sizes = model.matrix(id).w.dims();
        let delta = sum(&deltas, sizes);
        let norm = norm(&dense(&delta, sizes));
        let spanned = matches!(delta, Delta::LowRank { .. }) && c.is_some();
        let ridge = c.and_then(|c| c.ridge);
        let keys_follow = spanned && ridge.is_none() && !on.adds;
        let keys = (!keys_follow).then(|| join_keys(keys_star.iter().map(Some), sizes[1]));
        let keys = keys.flatten();
        let change = MatrixChange { id, delta, norm, weight, ridge, s: None, keys, keys_follow };
        let changes = vec![change];
        let state = std::mem::take(&mut on.state);
        Ok(Plan { model: now, facts: done, changes, memory: None, state })
    }
}

/// A planned change of one fact: Δ = left·rightᵀ.
pub struct RankOne {
    /// (D).
    pub left: Vec<f64>,
    /// (F).
    pub right: Vec<f64>,
    /// k*.
    pub k_star: Vec<f64>,
    /// k₀.
    pub k0: Vec<f64>,
    /// The search behind v*.
    pub value: TargetValue,
}

/// Plans one fact at the layer of its search. Without C the direction is k* itself, which is what
/// the field calls `mom2_adjustment: false`.
///
/// # Errors
///
/// A search that meets NaN, a denominator that is 0, cancellation, a device out of memory.
pub fn plan_one(
    model: &Model,
    c: Option<&Covariance>,
    rows: &FactRows,
    keys: Keys,
    by: &Search,
    progress: &dyn Progress,
) -> Result<RankOne> {
    let layer = by.push.site.layer;
    let prompts: Vec<&[u32]> = rows.keys.iter().map(PromptRow::up_to_lookup).collect();
    let all = read(model, &prompts, Site { layer, at: At::KEY })?;
    let k0 = all.row_f64(0); // the first context is the bare prompt
    let k_star = mean_row(&all, keys.weights);
    let value = search::find(model, rows, by, progress)?;
    let ck = match c {
        Some(c) => c.solve(&k_star),
        None => k_star.clone(),
    };
    let k = if keys.choice == KeyChoice::Consistent { &k_star } else { &k0 };
    let along = dot(k, &ck);
    if !along.is_normal() {
        return Err(Error::numeric(
            format!("layer {layer}: kᵀC⁻¹k* is {along:e}, so no change along C⁻¹k* meets v*"),
            "edit another layer: this one's keys are silent",
        ));
    }
    let held = model.product(MatrixId::down(layer), k)?; // W k + b
    let left = value.v_star().iter().zip(held).map(|(v, m)| v - m).collect();
    let right = ck.iter().map(|x| x / along).collect();
    Ok(RankOne { left, right, k_star, k0, value })
}

/// The weighted mean of the rows of a matrix (n, F).
fn mean_row(rows: &Tensor, weights: &[f64]) -> Vec<f64> {
    let [n, f] = rows.dims();
    assert_eq!(n, weights.len(), "rome: a context without a weight");
    let mut mean = vec![0.0; f];
    for (i, weight) in weights.iter().enumerate() {
        mean.iter_mut().zip(rows.row_f64(i)).for_each(|(m, k)| *m += weight * k);
    }
    mean
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (norm(a) * norm(b))
}

/// W + left·rightᵀ (D, F), in f64.
pub fn changed(model: &Model, layer: usize, change: &RankOne) -> Vec<f64> {
    let mut w = model.matrix(MatrixId::down(layer)).w.to_dense::<f64>();
    for (row, l) in w.chunks_exact_mut(change.right.len()).zip(&change.left) {
        row.iter_mut().zip(&change.right).for_each(|(w, r)| *w += l * r);
    }
    w
}
