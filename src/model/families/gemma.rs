//! Gemma: gains of 1 + w, embeddings times √D, an MLP with a gate by GELU; from the second on norms
//! on both sides of a branch, and in the second caps of scores and logits.

use super::llama::{LLAMA, QWEN3};
use crate::model::arch::{Gain, QkNorm};
use crate::model::family::{BranchNorms, ConfigKeys, Family, Names, PositionEncoding};
use crate::model::fields::{Activation, Cap, Dim, Factor, Flag, ScoreFactor, Windows};
use crate::model::rotary::{RotaryKeys, Turns};

pub(super) const GEMMA: Family = Family {
    name: "gemma",
    gain: Gain::OnePlus,
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 16),
        head_dim: Dim::ConfigOr("head_dim", 256),
        act: Activation {
            field: "hidden_act",
            default: "gelu_pytorch_tanh",
            gelu_is_tanh: true, // in the first configurations
        },
        embed: Factor::RootWidth,
        bias_mlp: Flag::Const(false),
        tie_embeddings: true,
        ..LLAMA.keys
    },
    fixed: &[("use_bidirectional_attention", false)],
    ..LLAMA
};

/// All but every sixth layer have a window, unless the field says otherwise.
const PATTERN: Dim = Dim::ConfigOr("sliding_window_pattern", 6);

pub(super) const GEMMA2: Family = Family {
    name: "gemma2",
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 4),
        windows: Windows::AllBut { window: 4096, n: Dim::Const(2) },
        act: Activation::named("hidden_activation", "gelu_pytorch_tanh"),
        score: ScoreFactor::ByRoot("query_pre_attn_scalar", 256.0),
        score_cap: Cap::Config("attn_logit_softcapping", 50.0),
        logit_cap: Cap::Config("final_logit_softcapping", 30.0),
        ..GEMMA.keys
    },
    defaults: &[
        ("vocab_size", 256_000),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("max_position_embeddings", 8192),
    ],
    names: Names {
        norm1: BranchNorms::both(["input_layernorm", "post_attention_layernorm"]),
        norm2: BranchNorms::both(["pre_feedforward_layernorm", "post_feedforward_layernorm"]),
        ..LLAMA.names
    },
    ..GEMMA
};

pub(super) const GEMMA3: Family = Family {
    name: "gemma3_text",
    qk_norm: QkNorm::Heads,
    positions: PositionEncoding::Rotary(RotaryKeys {
        theta: ("rope_theta", 1e6),
        turns: Turns::ByWindow("rope_local_base_freq", 1e4),
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys {
        windows: Windows::AllBut { window: 4096, n: PATTERN },
        score_cap: Cap::None,
        logit_cap: Cap::None,
        ..GEMMA2.keys
    },
    absent: &["attn_logit_softcapping", "final_logit_softcapping"],
    defaults: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("max_position_embeddings", 131_072),
    ],
    names: Names { qk_norm: QWEN3.names.qk_norm, ..GEMMA2.names },
    ..GEMMA2
};
