//! Facts that a state knows one by one, so that a later target for a prompt takes the earlier one's
//! place and does not pull against it.
//!
//! ```text
//! of each fact and layer   k (F)       its key
//!                          u (D)       what W was to give there: W k + r, r as it was asked
//! A = M + Σ kkᵀ            of all facts of a layer; M the method's prior without them
//!
//! W = W₀ + Σ(u − W₀k)kᵀ A⁻¹                                what batches one upon the other come to
//! without some of them, K (F, m), U (D, m):
//!     W ← W + (W K − U)((A − KKᵀ)⁻¹K)ᵀ,   A ← A − KKᵀ       as if they had never been learnt
//! ```
//!
//! The last two are the normal equations without K's part: W K − U is what W misses of it now. The
//! lowest layer first; keys of higher layers are those that were learnt. A state grows by
//! 8·(F + D) bytes a fact and layer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use serde_json::json;

use super::facts::TokenizedFact;
use super::params::{Absent, Param, ParamKind, Params};
use super::solve::delta::{pack, pack_keys, thin};
use super::solve::layers::{ClosedForm, MatrixChange};
use super::state::{LayerTensors, State, misfit};
use crate::base::{Error, Remedy, Result};
use crate::linalg::least_squares::{Prior, Route, Solution};
use crate::model::arch::Arch;
use crate::model::{MatrixId, Model};
use crate::store::{Delta, tensor_fingerprint};

/// Whether a later target for a prompt replaces the earlier one.
pub const REPLACE_FACTS: Param = Param {
    name: "replace_facts",
    kind: ParamKind::Switch,
    absent: Absent::Unused("false"),
    about: "Whether a later target for a prompt that a state knows takes the earlier one's place, \
            for which the state keeps key and value of each fact.",
};

/// In a state: k (F, n) and u (D, n) of a layer, and a name for the prompt of each.
const KEYS: &str = "fact_keys";
const VALUES: &str = "fact_values";
const PROMPTS: &str = "prompts";

/// The facts of a state, by prompt.
pub struct KnownFacts {
    prompts: Vec<String>,
    keys: LayerTensors,
    values: LayerTensors,
}

impl KnownFacts {
    /// Those of a state, which is left without them.
    pub fn take(state: &mut State) -> KnownFacts {
        let prompts = state.notes.remove(PROMPTS).unwrap_or_default();
        let text = |name: &serde_json::Value| name.as_str().unwrap_or_default().to_owned();
        KnownFacts {
            prompts: prompts.as_array().into_iter().flatten().map(text).collect(),
            keys: state.take(KEYS),
            values: state.take(VALUES),
        }
    }

    /// Puts them into a state.
    pub fn put(self, state: &mut State) {
        state.notes.insert(PROMPTS.to_owned(), json!(self.prompts));
        state.put(KEYS, self.keys);
        state.put(VALUES, self.values);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// Adds the facts of a batch, by what a layer reads at them, K (F, n), now that it has changed.
    ///
    /// # Errors
    ///
    /// A device that fails.
    ///
    /// # Panics
    ///
    /// Of more facts than [`check_batch`] lets through.
    pub fn add(&mut self, k: &Mat<f64>, change: &MatrixChange, model: &Model) -> Result<()> {
        let layer = change.id.layer;
        let u = asked(k, change, model)?;
        append(&mut self.keys, layer, k);
        append(&mut self.values, layer, &u);
        Ok(())
    }

    /// Names the facts that were added.
    pub fn name(&mut self, facts: &[&TokenizedFact]) {
        self.prompts.extend(facts.iter().map(|fact| prompt(fact)));
    }

    /// Takes out those whose prompts some facts have: the model without them, and the changes that
    /// made it.
    ///
    /// # Errors
    ///
    /// A system that cannot be solved; a device that fails.
    pub fn withdraw(
        &mut self,
        model: &Model,
        facts: &[&TokenizedFact],
        form: &mut dyn ClosedForm,
    ) -> Result<(Model, Vec<MatrixChange>)> {
        let asked: HashMap<String, ()> = facts.iter().map(|fact| (prompt(fact), ())).collect();
        let (out, stay): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|&i| asked.contains_key(&self.prompts[i]));
        let (mut model, mut changes) = (model.clone(), Vec::new());
        if out.is_empty() {
            return Ok((model, changes));
        }
        for (&layer, all) in &self.keys {
            let [k, u] = [all, &self.values[&layer]].map(|m| columns(m, &out));
            let id = MatrixId::down(layer);
            let missed = gives(&model, id, &k)? - u;
            let x = form.forget(layer, &k)?;
            let delta = pack(&Solution::Right(x), &missed);
            let (changed, norms) = model.with(&[(id, &delta)]);
            let [norm, weight] = norms[0];
            model = changed;
            // The facts that take their places have the same prompts, and their keys.
            let keys = Some(pack_keys(&Mat::zeros(k.nrows(), 0)));
            let (ridge, s, keys_follow) = (None, None, false);
            changes.push(MatrixChange { id, delta, norm, weight, ridge, s, keys, keys_follow });
        }
        self.prompts = stay.iter().map(|&i| self.prompts[i].clone()).collect();
        for all in [&mut self.keys, &mut self.values] {
            all.values_mut().for_each(|m| *m = Arc::new(columns(m, &stay)));
        }
        Ok((model, changes))
    }
}

/// Checks what a state that was read from a file knows of facts, where it is asked to.
///
/// # Errors
///
/// A layer without its keys or values, or with another number of them than there are prompts.
pub fn check(path: &Path, state: &State, by: &Params, arch: &Arch) -> Result<()> {
    if !by.is_on(&REPLACE_FACTS) {
        return Ok(());
    }
    let Some(n) = state.notes.get(PROMPTS).and_then(|all| all.as_array()).map(Vec::len) else {
        return Err(misfit(path, PROMPTS, "is no list of names".into()));
    };
    for (name, rows) in [(KEYS, arch.inner), (VALUES, arch.width)] {
        let tensors = state.layers(name);
        for l in by.layers() {
            let fits = |m: &Arc<Mat<f64>>| [m.nrows(), m.ncols()] == [rows, n];
            if !tensors.get(l).is_some_and(fits) {
                let what = format!("is missing, or not {rows} by {n}");
                return Err(misfit(path, &format!("{name}.{l}"), what));
            }
        }
    }
    Ok(())
}

/// Refuses batches of more facts than a state can learn one by one: what was asked of each is read
/// off R of Δ = R Xᵀ, which a larger batch has no more.
///
/// # Errors
///
/// Such a batch.
pub fn check_batch(facts: usize, model: &Model, by: &Params) -> Result<()> {
    let most = most_facts(model.matrix(MatrixId::down(by.layers()[0])).w.dims());
    if facts <= most {
        return Ok(());
    }
    let what = format!(
        "with replace_facts a batch has up to {most} facts in a model of these sizes, and not \
         {facts}"
    );
    let remedy =
        Remedy::from("edit in smaller batches").option("sequential", Some(&most.to_string()));
    Err(Error::refused(what, remedy))
}

/// The most facts whose change of a matrix (out, in) is solved for and kept as R Xᵀ.
fn most_facts([out, inner]: [usize; 2]) -> usize {
    let matrix = || Mat::zeros(0, 0);
    let dual =
        |n: usize| Route::choose(&Prior::Matrix(&matrix), 1.0, [inner, n, out]) == Route::Dual;
    (1..=out.min(inner)).take_while(|&n| thin(n, [out, inner]) && dual(n)).count()
}

/// A name for the prompt of a fact with its subject.
fn prompt(fact: &TokenizedFact) -> String {
    let texts = [fact.request.prompt.trim(), &fact.request.subject].join("\0");
    tensor_fingerprint(texts.as_bytes())
}

/// W K with the bias (D, n).
fn gives(model: &Model, id: MatrixId, k: &Mat<f64>) -> Result<Mat<f64>> {
    let product = |k: faer::ColRef<f64>| {
        let k: Vec<f64> = k.iter().copied().collect();
        model.product(id, &k)
    };
    let rows = k.col_iter().map(product).collect::<Result<Vec<_>>>()?;
    let d = model.matrix(id).w.dims()[0];
    Ok(Mat::from_fn(d, rows.len(), |i, j| rows[j][i]))
}

/// U (D, n), what a layer was asked to give: Δ = R Xᵀ was asked for R more than W gave before it.
fn asked(k: &Mat<f64>, change: &MatrixChange, model: &Model) -> Result<Mat<f64>> {
    let Delta::LowRank { left, right, r } = &change.delta else {
        panic!("a batch that was let through is kept as R Xᵀ");
    };
    let of = |m: &[f32]| Mat::from_fn(m.len() / r, *r, |i, j| f64::from(m[i * r + j]));
    let (left, right) = (of(left), of(right));
    let moved = &left * (right.transpose() * k);
    Ok(gives(model, change.id, k)? - moved + left)
}

fn columns(m: &Mat<f64>, which: &[usize]) -> Mat<f64> {
    Mat::from_fn(m.nrows(), which.len(), |i, j| m[(i, which[j])])
}

fn append(all: &mut LayerTensors, layer: usize, more: &Mat<f64>) {
    let before = all.entry(layer).or_insert_with(|| Arc::new(Mat::zeros(more.nrows(), 0)));
    let n = before.ncols();
    let at = |i: usize, j: usize| if j < n { before[(i, j)] } else { more[(i, j - n)] };
    *before = Arc::new(Mat::from_fn(more.nrows(), n + more.ncols(), at));
}
