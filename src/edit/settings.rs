//! What the methods for many facts at once take from hyperparameters.

use serde_json::{Value, json};

use super::hparams::{Method, Values};
use super::search::{LOSS_TOLERANCE, Push, Search};
use crate::base::Result;
use crate::model::{At, Model, Site};

/// Settings of MEMIT and its family.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The window of edited layers, ascending (`layers`).
    pub layers: Vec<usize>,
    /// The value search, at the last of them.
    pub search: Search,
    /// The closed form.
    pub form: Form,
    /// Requests the norm anchor is measured on (`norm_anchor_samples`), where there is one
    /// (`norm_anchor`).
    pub anchor: Option<usize>,
}

/// A closed form and its own settings, by the field's names.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are the field's names")]
pub enum Form {
    /// [`super::memit`]
    Memit { mom2_update_weight: f64 },
    /// [`super::emmet`]
    Emmet { mom2_update_weight: f64, update_norm_lambda: f64, emmet_lambda: f64 },
    /// [`super::pmet`]
    Pmet { mom2_update_weight: f64 },
    /// [`super::alphaedit`]
    AlphaEdit { nullspace_threshold: f64, l2: f64 },
}

/// What a method takes beyond what all do.
pub fn used(method: Method) -> &'static [&'static str] {
    match method {
        Method::Rome | Method::RRome => &[],
        Method::Memit => &["mom2_update_weight", "norm_anchor", "norm_anchor_samples"],
        Method::Emmet => &["mom2_update_weight", "emmet_lambda", "update_norm_lambda"],
        Method::Pmet => &["mom2_update_weight", "nll_loss_factor"],
        Method::AlphaEdit => &["nullspace_threshold", "L2", "norm_anchor", "norm_anchor_samples"],
    }
}

/// Requests the norm anchor is measured on where nothing is said.
const SAMPLES: usize = 100;

impl Settings {
    /// Where the search pushes, and R is read.
    pub fn site(&self) -> Site {
        self.search.push.site
    }
}

impl Values {
    /// What a method for many facts needs, checked against the model.
    ///
    /// # Errors
    ///
    /// A value that is missing, of the wrong kind or out of range, or that asks for what these
    /// methods do not do.
    pub fn batch(&self, method: Method, model: &Model) -> Result<Settings> {
        let layers = self.layers(model)?;
        let (first, last) = (layers[0], layers[layers.len() - 1]);
        self.fixed(model, first)?;
        self.only("mom2_adjustment", &json!(true))?;
        let pmet = method == Method::Pmet;
        let top = model.arch.layers - 1;
        let loss_layer = match self.get("v_loss_layer") {
            None => top,
            Some(layer) => match self.count("v_loss_layer", layer)? {
                layer if layer > top => {
                    let what = format!("{layer} is not one of the model's layers 0 to {top}");
                    return Err(self.bad("v_loss_layer", what));
                }
                layer => layer.max(last),
            },
        };
        let site = Site { layer: last, at: if pmet { At::Value } else { At::Stream } };
        let search = Search {
            push: Push { site, attention: pmet, loss_layer },
            steps: self.steps()?,
            lr: self.positive("v_lr")?,
            weight_decay: self.weight("v_weight_decay")?,
            clamp: self.positive("clamp_norm_factor")?,
            kl_factor: self.weight("kl_factor")?,
            nll_factor: if pmet { self.positive("nll_loss_factor")? } else { 1.0 },
            anneal_nll: pmet,
            loss_tolerance: LOSS_TOLERANCE,
        };
        let mass = || self.above_rounding("mom2_update_weight");
        let form = match method {
            Method::Emmet => Form::Emmet {
                mom2_update_weight: mass()?,
                update_norm_lambda: match self.get("update_norm_lambda") {
                    Some(_) => self.number("update_norm_lambda")?,
                    None => 0.0,
                },
                emmet_lambda: match self.number("emmet_lambda")? {
                    0.0 => 0.0,
                    _ => self.above_rounding("emmet_lambda")?,
                },
            },
            Method::Pmet => Form::Pmet { mom2_update_weight: mass()? },
            Method::AlphaEdit => Form::AlphaEdit {
                nullspace_threshold: self.positive("nullspace_threshold")?,
                l2: self.above_rounding("L2")?,
            },
            _ => Form::Memit { mom2_update_weight: mass()? },
        };
        Ok(Settings { layers, search, form, anchor: self.anchor(method)? })
    }

    /// The window, ascending.
    fn layers(&self, model: &Model) -> Result<Vec<usize>> {
        let list = self.need("layers")?.as_array().cloned().unwrap_or_default();
        let count = |layer: &Value| self.count("layers", layer);
        let layers = list.iter().map(count).collect::<Result<Vec<_>>>()?;
        if layers.is_empty() || !layers.is_sorted_by(|a, b| a < b) {
            return Err(self.bad("layers", "is not a list of ascending layers, as in [3,4,5]"));
        }
        let top = model.arch.layers - 1;
        match layers.iter().find(|&&l| l > top) {
            Some(l) => {
                let what = format!("{l} is not one of the model's layers 0 to {top}");
                Err(self.bad("layers", what))
            }
            None => Ok(layers),
        }
    }

    fn anchor(&self, method: Method) -> Result<Option<usize>> {
        let name = "norm_anchor";
        match self.get(name) {
            None | Some(Value::Bool(false)) => Ok(None),
            Some(Value::Bool(true)) if matches!(method, Method::Memit | Method::AlphaEdit) => {
                let name = "norm_anchor_samples";
                let samples = self.get(name).cloned().unwrap_or(json!(SAMPLES));
                match self.count(name, &samples)? {
                    0 => Err(self.bad(name, "is 0, so nothing is measured")),
                    samples => Ok(Some(samples)),
                }
            }
            Some(Value::Bool(true)) => {
                Err(self.bad(name, format!("is for memit and alphaedit, not {}", method.name())))
            }
            Some(other) => Err(self.bad(name, format!("{other} is not true or false"))),
        }
    }
}
