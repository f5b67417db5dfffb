//! Copies of a model on further devices. The devices of a machine share facts and text; each has
//! the whole model.

use std::sync::Arc;

use super::model::{Layer, Linear, Model};
use crate::base::{Result, catch_device_error};
use crate::ops::norm::Norm;
use crate::tensor::{Compute, Tensor};

impl Model {
    /// The model, and a copy on each further device.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    pub fn everywhere(&self) -> Result<Vec<Model>> {
        let mut all = vec![Model { peers: Vec::new(), ..self.clone() }];
        for peer in &self.peers {
            // Reading from one device and writing to the other, so that neither is held.
            all.push(catch_device_error(|| Ok(self.on(peer)))?);
        }
        Ok(all)
    }

    /// A copy on another device, with the same weights: those uploaded there stay with the model.
    fn on(&self, compute: &Compute) -> Model {
        Model {
            compute: compute.clone(),
            peers: Vec::new(),
            layers: self.layers.iter().map(|layer| Arc::new(layer.on(compute))).collect(),
            norm: self.norm.on(compute),
            head: self.head.on(compute),
            ..self.clone()
        }
    }
}

impl Layer {
    fn on(&self, compute: &Compute) -> Layer {
        Layer {
            norm1: self.norm1.on(compute),
            q: self.q.on(compute),
            k: self.k.on(compute),
            v: self.v.on(compute),
            o: self.o.on(compute),
            norm2: self.norm2.on(compute),
            gate: self.gate.as_ref().map(|gate| gate.on(compute)),
            up: self.up.on(compute),
            down: self.down.on(compute),
            heads: self.heads,
            qk_norm: self.qk_norm.as_ref().map(|norms| norms.each_ref().map(|n| n.on(compute))),
        }
    }
}

impl Linear {
    fn on(&self, compute: &Compute) -> Linear {
        Linear { w: self.w.clone(), b: self.b.as_ref().map(|b| b.on(compute).into_owned()) }
    }
}

impl Norm {
    fn on(&self, compute: &Compute) -> Norm {
        let on = |t: &Tensor| t.on(compute).into_owned();
        Norm { gain: on(&self.gain), bias: self.bias.as_ref().map(on), ..*self }
    }
}
