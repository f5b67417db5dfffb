//! A model with neurons beside the MLP of one of its layers (`neurons.rs` has the formula).

use std::sync::Arc;

use super::Memory;
use super::neurons::AddedNeurons;
use crate::base::{Error, Result};
use crate::model::{Arch, At, Batch, Hook, LanguageModel, Matrix, MatrixId, Model, Past, Site};
use crate::ops::act::{self, Act};
use crate::ops::{linear, rows};
use crate::tensor::{Compute, Tensor, Weight};

struct NeuronModel {
    base: Arc<dyn LanguageModel>,
    layer: usize,
    act: Act,
    gate: Option<Weight>, // (n, D)
    up: Weight,           // (n, D)
    bias: Option<Tensor>, // (n)
    down: Weight,         // (D, n)
}

impl Memory for AddedNeurons {
    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    fn on(self: Arc<Self>, base: Arc<dyn LanguageModel>) -> Result<Arc<dyn LanguageModel>> {
        if self.is_empty() {
            return Ok(base);
        }
        let sizes = |matrix| base.matrix_sizes(MatrixId::new(self.layer, matrix));
        let reads = sizes(Matrix::Up).map(|[reads, _]| reads);
        let gated = sizes(Matrix::Gate).is_some();
        if reads != Some(self.width) || gated != self.gate.is_some() {
            let what = format!(
                "neurons of width {} at layer {}: the model has no such MLP there",
                self.width, self.layer
            );
            return Err(Error::refused(what, "use them with the model they were made for"));
        }
        let (n, d) = (self.len(), self.width);
        let rows = |values: &Vec<f32>| Weight::dense_f32(values.clone(), n, d);
        let turned = |i: usize| self.down[i % n * d + i / n];
        let bias: Option<Vec<f64>> =
            self.bias.as_ref().map(|bias| bias.iter().map(|&b| b.into()).collect());
        let compute = base.compute().clone();
        let bias = compute.run(|| Ok(bias.map(|bias| Tensor::of(&compute, &[n], &bias))))?;
        Ok(Arc::new(NeuronModel {
            base,
            layer: self.layer,
            act: self.act,
            gate: self.gate.as_ref().map(rows),
            up: rows(&self.up),
            bias,
            down: Weight::dense_f32((0..n * d).map(turned).collect(), d, n),
        }))
    }
}

/// Adds what the neurons give, around the hook of whoever runs the pass.
struct NeuronHook<'a> {
    model: &'a NeuronModel,
    inner: &'a mut dyn Hook,
    sites: Vec<Site>,
    key: Option<Tensor>, // (N, n)
}

impl NeuronModel {
    fn own_sites(&self) -> [Site; 2] {
        let at = |at| Site { layer: self.layer, at };
        [at(At::Input(Matrix::Up)), at(At::VALUE)]
    }

    /// k (N, n) of what the MLP reads (N, D).
    fn key(&self, u: &Tensor) -> Tensor {
        let [rows, n] = [u.shape()[0], self.up.dims()[0]];
        let product = |w: &Weight, b: Option<&Tensor>| {
            let mut y = u.like(&[rows, n]);
            linear::forward(u, w, b, &mut y);
            y
        };
        let up = product(&self.up, self.bias.as_ref());
        let gate = self.gate.as_ref().map(|gate| product(gate, None));
        let mut key = u.like(&[rows, n]);
        act::forward(self.act, &up, gate.as_ref(), &mut key);
        key
    }
}

impl Hook for NeuronHook<'_> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, batch: &Batch, shown: &mut Tensor) {
        // A hook inside may change what the MLP reads, and one outside sees what it gives.
        let [input, output] = self.model.own_sites();
        if site == output
            && let Some(key) = self.key.take()
        {
            let mut added = shown.like(shown.shape());
            linear::forward(&key, &self.model.down, None, &mut added);
            rows::add(shown, &added);
        }
        if self.inner.sites().contains(&site) {
            self.inner.forward(site, batch, shown);
        }
        if site == input {
            self.key = Some(self.model.key(shown));
        }
    }

    fn backward(&mut self, site: Site, batch: &Batch, gradient: &Tensor) {
        if self.inner.sites().contains(&site) {
            self.inner.backward(site, batch, gradient);
        }
    }
}

impl LanguageModel for NeuronModel {
    fn arch(&self) -> &Arch {
        self.base.arch()
    }

    fn compute(&self) -> &Compute {
        self.base.compute()
    }

    fn matrix_sizes(&self, id: MatrixId) -> Option<[usize; 2]> {
        self.base.matrix_sizes(id)
    }

    fn weights(&self) -> &Model {
        self.base.weights()
    }

    fn whole_prompts(&self) -> bool {
        self.base.whole_prompts()
    }

    fn run_in_chunks(
        &self,
        batch: &Batch,
        past: &mut Past,
        read: (&[usize], usize),
        hook: &mut dyn Hook,
        each: &mut dyn FnMut(Tensor) -> Result<bool>,
    ) -> Result<()> {
        let mut sites = hook.sites().to_vec();
        sites.extend(self.own_sites());
        let mut hook = NeuronHook { model: self, inner: hook, sites, key: None };
        self.base.run_in_chunks(batch, past, read, &mut hook, each)
    }
}
