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
    /// Whether a norm stands between the MLP and the stream.
    pub norms: NormPlace,
    /// What a norm's gain is, by what is stored of it.
    pub gain: Gain,
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
    /// The rotary table that turns q and k of each layer, if one does.
    pub turned_by: Vec<Option<usize>>,
    /// What scores, embeddings, branches and logits are multiplied by.
    pub scales: Scales,
    /// What scores and logits do not exceed.
    pub caps: Caps,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Whether the head is the token embedding.
    pub tie_embeddings: bool,
}

/// Whether a norm stands between the MLP and the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Only before the branch, if at all: what the MLP gives joins the stream.
    Before,
    /// Of what it gives, with or without another of what it reads.
    Behind,
}

/// What a norm's gain is, by what is stored of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// Just that.
    Stored,
    /// 1 more.
    OnePlus,
    /// 1: nothing is stored.
    One,
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
    /// Norms of the stream.
    pub norm: bool,
    /// The head.
    pub head: bool,
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Of the attention scores: 1/√E, or what the family has in its place.
    pub score: f64,
    /// Whether they are divided by l + 1 too: GPT-2's `scale_attn_by_inverse_layer_idx`.
    pub score_by_layer: bool,
    /// Of token embeddings.
    pub embed: f64,
    /// ρ, of what a branch adds to the stream.
    pub residual: f64,
    /// Of the logits.
    pub logits: f64,
}

/// What a number's size does not exceed, by x ← c tanh(x/c): c, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Caps {
    /// Of attention scores.
    pub scores: Option<f64>,
    /// Of logits.
    pub logits: Option<f64>,
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
        let Scales { score, score_by_layer, .. } = self.scales;
        let scale = if score_by_layer { score / (l + 1) as f64 } else { score };
        Heads {
            queries: self.n_heads,
            groups: self.n_kv_heads,
            width: self.head_dim,
            scale,
            window: self.windows[l],
            cap: self.caps.scores,
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
