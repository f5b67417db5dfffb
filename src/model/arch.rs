//! What a decoder is: sizes and choices, read from `config.json` by the row of its family.

use super::rotary::Rotary;
use crate::ops::act::Act;
use crate::ops::attention::Heads;
use crate::ops::norm::NormKind;

/// A decoder as data. Letters are those of the crate's alphabet.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    /// `model_type` of the configuration.
    pub family: &'static str,
    /// L.
    pub layers: usize,
    /// D.
    pub width: usize,
    /// F.
    pub inner: usize,
    /// H.
    pub queries: usize,
    /// G.
    pub groups: usize,
    /// E.
    pub head: usize,
    /// V, rows of the embedding.
    pub vocabulary: usize,
    /// The most tokens a sequence may have.
    pub context: usize,
    /// How many tokens each layer's queries see, their own included; `None` for all before.
    pub windows: Vec<Option<usize>>,
    /// Layer or RMS.
    pub norm: NormKind,
    /// Whether each query and key is normalised (RMS) by itself.
    pub head_norms: bool,
    /// Added to the variance in every norm.
    pub eps: f64,
    /// Activation of the MLP.
    pub act: Act,
    /// Whether attention and MLP of a layer both read the stream that enters it.
    pub parallel: bool,
    /// How tokens know their place.
    pub positions: Positions,
    /// Factor of the attention scores.
    pub scale: Scale,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Whether the head is the token embedding.
    pub tied: bool,
}

/// How tokens know their place.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A row of a matrix is added to the embedding.
    Learned,
    /// Queries and keys turn.
    Rotary(Rotary),
}

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention's output.
    pub o: bool,
    /// Gate, up and down.
    pub mlp: bool,
    /// The head.
    pub head: bool,
}

/// The factor of the attention scores: `by_head` · `by_layer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// 1/√E (true) or 1.
    pub by_head: bool,
    /// 1/(l + 1) (true) or 1: GPT-2's `scale_attn_by_inverse_layer_idx`.
    pub by_layer: bool,
}

impl Arch {
    /// How layer l attends.
    pub fn heads(&self, l: usize) -> Heads {
        let by_head = if self.scale.by_head { (self.head as f64).powf(-0.5) } else { 1.0 };
        let scale = if self.scale.by_layer { by_head / (l + 1) as f64 } else { by_head };
        let Arch { queries, groups, head: width, .. } = *self;
        Heads { queries, groups, width, scale, window: self.windows[l] }
    }
}
