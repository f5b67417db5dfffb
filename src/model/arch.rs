//! The architecture of a decoder as data, read from `config.json` by the row of its family.

use super::rotary::Rotary;
use crate::base::{Error, Result};
use crate::ops::act::Act;
use crate::ops::attention::Heads;
use crate::ops::norm::NormKind;

/// Sizes and options of a decoder. Letters are those of the crate's alphabet.
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
    /// H, query heads.
    pub n_heads: usize,
    /// G, key/value heads.
    pub n_kv_heads: usize,
    /// E.
    pub head_dim: usize,
    /// V, rows of the embedding.
    pub vocabulary: usize,
    /// Maximum length of a sequence, in tokens.
    pub max_positions: usize,
    /// The attention window of each layer, in tokens, the query's own included; `None` is full
    /// causal attention.
    pub windows: Vec<Option<usize>>,
    /// Layer or RMS.
    pub norm: NormKind,
    /// Where a branch's norm is.
    pub norms: NormPlace,
    /// What of q and k is RMS-normalised.
    pub qk_norm: QkNorm,
    /// Added to the variance in every norm.
    pub eps: f64,
    /// Activation of the MLP.
    pub act: Act,
    /// Whether attention and MLP of a layer both read the stream that enters it.
    pub parallel: bool,
    /// Position encoding.
    pub positions: Positions,
    /// Factor of the attention scores.
    pub scale: Scale,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Whether the head is the token embedding.
    pub tie_embeddings: bool,
}

/// Where a branch's norm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Of what it reads.
    Before,
    /// Of what it adds to the stream.
    After,
}

/// What of q and k is RMS-normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Nothing.
    None,
    /// Each head.
    Heads,
    /// All heads as one row.
    Whole,
}

/// Position encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned embedding, added to that of the token.
    Learned,
    /// Rotary (RoPE): tables, of which each layer names its own.
    Rotary(Vec<Rotary>),
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
    /// H·E, the width of q.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// G·E, the width of k and v.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The rotary tables; none where positions are learned.
    pub fn rotary(&self) -> &[Rotary] {
        match &self.positions {
            Positions::Learned => &[],
            Positions::Rotary(tables) => tables,
        }
    }

    /// Heads, score scale and window of layer l.
    pub fn heads(&self, l: usize) -> Heads {
        let by_head = if self.scale.by_head { (self.head_dim as f64).powf(-0.5) } else { 1.0 };
        let scale = if self.scale.by_layer { by_head / (l + 1) as f64 } else { by_head };
        Heads {
            queries: self.n_heads,
            groups: self.n_kv_heads,
            width: self.head_dim,
            scale,
            window: self.windows[l],
        }
    }

    /// Refuses tokens that such a model cannot run.
    ///
    /// # Errors
    ///
    /// More tokens than its context has, or one that is not in its vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.len() > self.max_positions {
            return Err(Error::refused(
                format!("{} tokens; the model's context is {}", ids.len(), self.max_positions),
                "shorten the text",
            ));
        }
        match ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            None => Ok(()),
            Some(id) => Err(Error::refused(
                format!("token {id} is not in the model's vocabulary of {}", self.vocabulary),
                "use the tokenizer.json that belongs to this checkpoint",
            )),
        }
    }
}
