//! Neurons beside the MLP of a layer: what they add to what the down projection gives.
//!
//! ```text
//! s_j = ⟨up_j, u⟩ + b_j            u (D) what the MLP reads; b_j where the layout has biases
//! k_j = act(s_j)                   or act(⟨gate_j, u⟩)·⟨up_j, u⟩ where the MLP has a gate
//! y  += Σ_j k_j down_j
//! ```
//!
//! The MLP with n rows and columns more is the same function (`edit/export/widened.rs`). Sources:
//! Huang et al. 2023, arXiv:2301.09785 (T-Patcher); Dong et al. 2022, arXiv:2210.03329 (CaliNET).

use std::sync::Arc;

use super::Memory;
use crate::base::{Error, Result};
use crate::model::lineage::WeightsName;
use crate::model::{Arch, At, Batch, Hook, LanguageModel, Matrix, MatrixId, Past, Site};
use crate::ops::act::{self, Act};
use crate::ops::{linear, rows};
use crate::tensor::{Compute, Tensor, Weight};

/// Neurons of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedNeurons {
    /// The weights they were made for.
    pub made_for: WeightsName,
    /// The method that made them.
    pub kind: NeuronKind,
    /// l.
    pub layer: usize,
    /// D.
    pub width: usize,
    /// The activation, which is the layer's.
    pub act: Act,
    /// Row by row (n, D), where the MLP has a gate.
    pub gate: Option<Vec<f32>>,
    /// Row by row (n, D).
    pub up: Vec<f32>,
    /// (n), where up has a bias.
    pub bias: Option<Vec<f32>>,
    /// What each gives, one neuron after the other (n, D).
    pub down: Vec<f32>,
}

/// Which method made neurons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeuronKind {
    /// T-Patcher.
    Patches,
    /// CaliNET.
    Calibration,
}

impl NeuronKind {
    /// What files call it.
    pub fn name(self) -> &'static str {
        match self {
            NeuronKind::Patches => "t-patcher",
            NeuronKind::Calibration => "calinet",
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<NeuronKind> {
        [NeuronKind::Patches, NeuronKind::Calibration].into_iter().find(|kind| kind.name() == name)
    }
}

impl AddedNeurons {
    /// n.
    pub fn len(&self) -> usize {
        self.up.len() / self.width.max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.up.is_empty()
    }
}

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
