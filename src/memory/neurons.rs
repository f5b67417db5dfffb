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

use crate::model::lineage::WeightsName;
use crate::ops::act::Act;

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
