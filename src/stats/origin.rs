//! What statistics are of: which model, which text, which part of it.

use serde::{Deserialize, Serialize};

use super::input::LayerInput;
use crate::base::Share;

/// What statistics belong to: a file of another origin is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Fingerprint of the model (of all but its down projections).
    pub model: String,
    /// Hash of the text.
    pub corpus: String,
    /// Longest sequence, in tokens; 0 where it is not known.
    pub context_length: usize,
    /// Whether keys were divided by the root of the norm behind their MLP
    /// ([`normed`](super::normed)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normed: bool,
}

/// What a shard is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which of how many.
    pub share: Share,
    /// Tokens of all shards together.
    pub total_tokens: u64,
}

/// What to collect.
#[derive(Clone, Debug)]
pub struct Collect {
    /// Inputs, ascending, without repeats.
    pub inputs: Vec<LayerInput>,
    /// Exactly this many tokens, if the text has them.
    pub max_tokens: u64,
    /// What the statistics belong to.
    pub origin: Origin,
    /// The share of the windows that is run; all where there is none.
    pub share: Option<Share>,
}
