//! Copies of a model on further devices. The devices of a machine share facts and text; each has
//! the whole model.

use std::sync::Arc;

use super::model::Model;
use crate::base::{Result, catch_device_error};
use crate::tensor::Compute;

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
