//! The parameters of a training: named tensors, their gradients, and a step on all of them.
//!
//! ```text
//! norm  = √(Σ g²) over all that are trained
//! g    ← g · clip/(norm + 1e-6), where that is below g
//! p    ← Adam(p, g), or centred RMSprop's, each with the rate of its own
//! ```
//!
//! They are on the host, in the type that the model computes in. A tensor without a rate is kept
//! with the others and is not trained: a running mean, say. Source of the clipping: PyTorch's
//! `clip_grad_norm_`.

use super::rms_prop::{self, Schedule};
use crate::ops::adam::{self, AdamMoments, AdamRule};
use crate::tensor::{Precision, Tensor, Weight};

/// Added to the norm, as PyTorch does.
const CLIP_EPS: f64 = 1e-6;

/// How gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// Adam, at constant rates.
    Adam,
    /// Centred RMSprop.
    RmsProp(Schedule),
}

/// One of them.
pub struct NamedParameter {
    /// Its name in files.
    pub name: String,
    /// Its sizes in files; here (1, n) where there is one.
    pub shape: Vec<usize>,
    /// What the optimiser knows of it.
    pub moments: AdamMoments,
    weight: Weight,
    gradient: Tensor,
    rate: Option<f64>,
}

/// All of them, in the order in which they were added.
pub struct Parameters {
    precision: Precision,
    list: Vec<NamedParameter>,
    optimiser: Optimiser,
    version: u64, // grows where a value may have changed
}

impl Parameters {
    /// None yet, of a type.
    pub fn new(precision: Precision) -> Parameters {
        Parameters { precision, list: Vec::new(), optimiser: Optimiser::Adam, version: 0 }
    }

    /// Takes other steps than Adam's.
    pub fn step_by(&mut self, optimiser: Optimiser) {
        self.optimiser = optimiser;
    }

    /// The type they are computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A number that is another wherever a value may have changed, for those who keep copies.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Adds one of one or two sizes, trained at a rate or not at all; returns its number.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        values: &[f64],
        rate: Option<f64>,
    ) -> usize {
        let matrix = match *shape {
            [n] => [1, n],
            [rows, columns] => [rows, columns],
            _ => panic!("a parameter of {} sizes", shape.len()),
        };
        let value = Tensor::of(self.precision, &matrix, values);
        self.list.push(NamedParameter {
            name: name.into(),
            shape: shape.to_vec(),
            moments: AdamMoments::new(&value),
            gradient: value.like(&matrix),
            weight: Weight::own(value),
            rate,
        });
        self.list.len() - 1
    }

    /// All of them.
    pub fn all(&self) -> &[NamedParameter] {
        &self.list
    }

    /// The same, to be restored.
    pub fn all_mut(&mut self) -> &mut [NamedParameter] {
        self.version += 1;
        &mut self.list
    }

    /// NamedParameter i as products take it.
    pub fn weight(&self, i: usize) -> &Weight {
        &self.list[i].weight
    }

    /// NamedParameter i.
    pub fn value(&self, i: usize) -> &Tensor {
        self.list[i].value()
    }

    /// NamedParameter i, to be set.
    pub fn value_mut(&mut self, i: usize) -> &mut Tensor {
        self.version += 1;
        self.list[i].value_mut()
    }

    /// The gradient of parameter i.
    pub fn gradient(&self, i: usize) -> &Tensor {
        &self.list[i].gradient
    }

    /// The same, to be added to.
    pub fn gradient_mut(&mut self, i: usize) -> &mut Tensor {
        &mut self.list[i].gradient
    }

    /// All gradients become zero.
    pub fn clear(&mut self) {
        self.list.iter_mut().for_each(|p| p.gradient.clear());
    }

    /// The norm of the gradients of all that are trained.
    pub fn norm(&self) -> f64 {
        let trained = self.list.iter().filter(|p| p.rate.is_some());
        let square = |p: &NamedParameter| p.gradient.to_f64().iter().map(|g| g * g).sum::<f64>();
        trained.map(square).sum::<f64>().sqrt()
    }

    /// Moves those that are trained against their gradients, whose norm is at most `clip`; returns
    /// the norm that it was.
    pub fn step(&mut self, clip: f64) -> f64 {
        self.version += 1;
        let norm = self.norm();
        let factor = clip / (norm + CLIP_EPS);
        for p in &mut self.list {
            let Some(rate) = p.rate else { continue };
            if factor < 1.0 {
                let scaled: Vec<f64> = p.gradient.to_f64().iter().map(|g| g * factor).collect();
                p.gradient = Tensor::of(self.precision, p.gradient.shape(), &scaled);
            }
            let (value, moments) = (p.weight.own_mut(), &mut p.moments);
            match self.optimiser {
                Optimiser::Adam => adam::step(&AdamRule::plain(rate), &p.gradient, moments, value),
                Optimiser::RmsProp(schedule) => {
                    let rate = rate * schedule.factor(moments.steps);
                    rms_prop::step(rate, &p.gradient, moments, value);
                }
            }
        }
        norm
    }
}

impl NamedParameter {
    /// What it is.
    pub fn value(&self) -> &Tensor {
        self.weight.own_tensor()
    }

    /// The same, to be set.
    pub fn value_mut(&mut self) -> &mut Tensor {
        self.weight.own_mut()
    }

    /// Whether it is trained.
    pub fn is_trained(&self) -> bool {
        self.rate.is_some()
    }
}
