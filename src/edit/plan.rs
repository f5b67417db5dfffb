//! From facts to changed layers, whatever the method.
//!
//! ROME plans facts one after another, each on the model as the facts before it left it; the
//! MEMIT family plans them together ([`super::batch`]).

use super::change::{dense, sum, with_change};
use super::facts::Fact;
use super::hparams::{Hparams, Method};
use super::outcome::{How, Outcome, probabilities};
use super::rome;
use super::spread::Layer;
use crate::base::{Progress, Quiet, Result};
use crate::linalg::vector::norm;
use crate::model::Model;
use crate::stats::Covariance;
use crate::store::{Change, Delta, tensor_fingerprint};

/// Changed layers, and the model that has them.
pub struct Planned {
    /// The edited model.
    pub model: Model,
    /// What each fact did.
    pub outcomes: Vec<Outcome>,
    /// What was done to each layer, ascending.
    pub layers: Vec<Layer>,
}

/// Plans all facts at one layer with ROME or R-ROME.
///
/// # Errors
///
/// A search that meets NaN, a wish to stop.
///
/// # Panics
///
/// For other methods.
pub fn plan(
    model: &Model,
    c: Option<&Covariance>,
    facts: &[Fact],
    (method, by): (Method, &Hparams),
    progress: &dyn Progress,
) -> Result<Planned> {
    let keys = method.keys().expect("ROME or R-ROME");
    let (mut now, l) = (model.clone(), by.layer);
    let (mut kinds, mut outcomes) = (Vec::new(), Vec::new());
    let weight = norm(&model.layers[l].down.w.to_dense::<f64>());
    for (i, fact) in facts.iter().enumerate() {
        progress.at("fact", i as u64, facts.len() as u64);
        let one = rome::plan(&now, c, &fact.rows, l, keys, &by.search, progress)?;
        let before = norm(&now.layers[l].down.w.to_dense::<f64>());
        let after = now.with_down(l, rome::changed(&now, l, &one));
        let judge = |m: &Model| probabilities(m, &[&fact.rows], &Quiet);
        let probability = [judge(&now)?[0], judge(&after)?[0]];
        let how = How::Alone { norm: norm(&one.left) * norm(&one.right), weight: before };
        outcomes.push(Outcome::new(fact, &one.value, probability, how));
        let single = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        kinds.push(Delta::LowRank { left: single(one.left), right: single(one.right), r: 1 });
        now = after;
    }
    progress.at("fact", facts.len() as u64, facts.len() as u64);
    let sizes = model.layers[l].down.w.dims();
    let delta = sum(&kinds, sizes);
    let norm = norm(&dense(&delta, sizes));
    let layers = vec![Layer { layer: l, delta, norm, weight, ridge: c.and_then(|c| c.ridge) }];
    Ok(Planned { model: now, outcomes, layers })
}

impl Planned {
    /// The changes, for the tensors whose stored bytes `stored` gives by layer.
    ///
    /// # Errors
    ///
    /// What `stored` says.
    pub fn changes<B: AsRef<[u8]>>(
        &self,
        mut stored: impl FnMut(usize) -> Result<B>,
    ) -> Result<Vec<Change>> {
        let change = |layer: &Layer| {
            let e = self.model.editable(layer.layer);
            Ok(Change {
                tensor: e.tensor.clone(),
                module: e.module.clone(),
                out: e.out,
                inner: e.inner,
                fan_in_fan_out: e.fan_in_fan_out,
                fingerprint: tensor_fingerprint(stored(layer.layer)?.as_ref()),
                delta: layer.delta.clone(),
            })
        };
        let mut changes: Vec<Change> = self.layers.iter().map(change).collect::<Result<_>>()?;
        changes.sort_by(|a, b| a.tensor.cmp(&b.tensor));
        Ok(changes)
    }

    /// A model with the changes, made on one without them.
    pub fn on(&self, model: &Model) -> Model {
        let add = |model: Model, l: &Layer| with_change(&model, l.layer, &l.delta).0;
        self.layers.iter().fold(model.clone(), add)
    }
}
