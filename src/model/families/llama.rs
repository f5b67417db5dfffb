//! Families with gated MLPs: Llama's, and what differs from it.

use crate::model::arch::{Gain, QkNorm};
use crate::model::family::{
    BranchNorms, ConfigKeys, Family, Names, PositionEncoding, Qkv, UpNames,
};
use crate::model::fields::{Activation, Cap, Dim, Eps, Factor, Flag, ScoreFactor, Windows};
use crate::model::rotary::{RotaryDim, RotaryKeys, Turns};
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;
use crate::tensor::Layout;

pub(super) const LLAMA: Family = Family {
    name: "llama",
    norm: NormKind::Rms,
    gain: Gain::Stored,
    norm_bias: false,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Rotary(RotaryKeys::FULL),
    parallel: Flag::Const(false),
    keys: ConfigKeys {
        layers: &["num_hidden_layers"],
        width: &["hidden_size"],
        inner: Dim::Required("intermediate_size"),
        n_heads: &["num_attention_heads"],
        n_kv_heads: Dim::Config("num_key_value_heads"),
        head_dim: Dim::Config("head_dim"),
        max_positions: &["max_position_embeddings"],
        windows: Windows::None,
        eps: Eps::Config("rms_norm_eps", 1e-6),
        act: Activation::named("hidden_act", "silu"),
        score: ScoreFactor::ByHead,
        score_by_layer: Flag::Const(false),
        embed: Factor::One,
        residual: Factor::One,
        logits: Factor::One,
        score_cap: Cap::None,
        logit_cap: Cap::None,
        bias_qkv: Flag::Config("attention_bias", false),
        bias_o: Flag::Config("attention_bias", false),
        bias_mlp: Flag::Config("mlp_bias", false),
        bias_head: false,
        tie_embeddings: false,
    },
    fixed: &[],
    absent: &[],
    required: &[],
    as_wide: &[],
    defaults: &[],
    names: Names {
        prefix: "model.",
        embed: "embed_tokens",
        positions: "",
        layer: "layers.",
        norm1: BranchNorms::before("input_layernorm"),
        qkv: Qkv::Three(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        qk_norm: ["", ""],
        o: "self_attn.o_proj",
        norm2: BranchNorms::before("post_attention_layernorm"),
        up: UpNames::Gated(["mlp.gate_proj", "mlp.up_proj"]),
        down: "mlp.down_proj",
        norm: "norm",
        head: &["lm_head"],
        layout: Layout::OutIn,
    },
};

pub(super) const MISTRAL: Family = Family {
    name: "mistral",
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 8),
        windows: Windows::Every(Some(4096)),
        bias_qkv: Flag::Const(false),
        bias_o: Flag::Const(false),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    ..LLAMA
};

pub(super) const QWEN2: Family = Family {
    name: "qwen2",
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 32),
        windows: Windows::Some,
        bias_qkv: Flag::Const(true),
        bias_o: Flag::Const(false),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    ..LLAMA
};

pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    keys: ConfigKeys {
        head_dim: Dim::ConfigOr("head_dim", 128),
        bias_qkv: Flag::Config("attention_bias", false),
        bias_o: Flag::Config("attention_bias", false),
        ..QWEN2.keys
    },
    qk_norm: QkNorm::Heads,
    names: Names { qk_norm: ["self_attn.q_norm", "self_attn.k_norm"], ..LLAMA.names },
    ..LLAMA
};

pub(super) const SEED_OSS: Family = Family {
    name: "seed_oss",
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 8),
        head_dim: Dim::ConfigOr("head_dim", 128),
        bias_qkv: Flag::Config("attention_bias", true),
        bias_o: Flag::Config("attention_out_bias", false),
        ..LLAMA.keys
    },
    ..LLAMA
};

// Every fourth layer is not turned.
pub(super) const SMOLLM3: Family = Family {
    name: "smollm3",
    positions: PositionEncoding::Rotary(RotaryKeys {
        theta: ("rope_theta", 2e6),
        turns: Turns::AllBut(4),
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 4),
        tie_embeddings: true,
        ..LLAMA.keys
    },
    fixed: &[("use_sliding_window", false)],
    ..LLAMA
};

pub(super) const GRANITE: Family = Family {
    name: "granite",
    keys: ConfigKeys {
        score: ScoreFactor::Config("attention_multiplier", 1.0),
        embed: Factor::Config("embedding_multiplier", 1.0),
        residual: Factor::Config("residual_multiplier", 1.0),
        logits: Factor::Inverse("logits_scaling"),
        ..LLAMA.keys
    },
    ..LLAMA
};

// Queries, keys and values in one matrix, gate and up in another.
pub(super) const PHI3: Family = Family {
    name: "phi3",
    positions: PositionEncoding::Rotary(RotaryKeys {
        dim: RotaryDim::Fraction("partial_rotary_factor", 1.0),
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys {
        windows: Windows::Every(None),
        eps: Eps::Config("rms_norm_eps", 1e-5),
        bias_qkv: Flag::Const(false),
        bias_o: Flag::Const(false),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    defaults: &[("original_max_position_embeddings", 4096)],
    names: Names {
        qkv: Qkv::Stacked("self_attn.qkv_proj"),
        up: UpNames::Stacked("mlp.gate_up_proj"),
        ..LLAMA.names
    },
    ..LLAMA
};

pub(super) const MINISTRAL3: Family = Family {
    name: "ministral3",
    keys: ConfigKeys {
        head_dim: Dim::ConfigOr("head_dim", 128),
        windows: Windows::Every(None),
        eps: Eps::Config("rms_norm_eps", 1e-5),
        ..MISTRAL.keys
    },
    required: &["rope_parameters"],
    ..MISTRAL
};

// Parallel, with one norm without a bias.
pub(super) const COHERE: Family = Family {
    name: "cohere",
    norm: NormKind::Layer,
    parallel: Flag::Const(true),
    positions: PositionEncoding::Rotary(RotaryKeys {
        pairing: Pairing::Adjacent,
        theta: ("rope_theta", 5e5),
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys {
        eps: Eps::Config("layer_norm_eps", 1e-5),
        logits: Factor::Config("logit_scale", 0.0625),
        bias_mlp: Flag::Const(false),
        tie_embeddings: true,
        ..LLAMA.keys
    },
    fixed: &[("use_qk_norm", false)],
    names: Names { norm2: BranchNorms::before("input_layernorm"), ..LLAMA.names },
    ..LLAMA
};

// Norms on either side of both branches.
pub(super) const GLM4: Family = Family {
    name: "glm4",
    positions: PositionEncoding::Rotary(RotaryKeys {
        dim: RotaryDim::Fraction("partial_rotary_factor", 0.5),
        pairing: Pairing::Adjacent,
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 2),
        head_dim: Dim::ConfigOr("head_dim", 128),
        eps: Eps::Config("rms_norm_eps", 1.5625e-7),
        bias_qkv: Flag::Config("attention_bias", true),
        bias_o: Flag::Const(false),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    names: Names {
        norm1: BranchNorms::both(["input_layernorm", "post_self_attn_layernorm"]),
        norm2: BranchNorms::both(["post_attention_layernorm", "post_mlp_layernorm"]),
        up: UpNames::Stacked("mlp.gate_up_proj"),
        ..LLAMA.names
    },
    ..LLAMA
};

// Norms without gain or bias.
pub(super) const OLMO: Family = Family {
    name: "olmo",
    norm: NormKind::Layer,
    gain: Gain::One,
    keys: ConfigKeys { eps: Eps::Const(1e-5), bias_mlp: Flag::Const(false), ..LLAMA.keys },
    absent: &["clip_qkv"],
    ..LLAMA
};

pub(super) const OLMO2: Family = Family {
    name: "olmo2",
    qk_norm: QkNorm::Whole,
    keys: ConfigKeys {
        eps: Eps::Config("rms_norm_eps", 1e-5),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    names: Names {
        norm1: BranchNorms::behind("post_attention_layernorm"),
        norm2: BranchNorms::behind("post_feedforward_layernorm"),
        ..QWEN3.names
    },
    ..LLAMA
};

pub(super) const OLMO3: Family = Family {
    name: "olmo3",
    positions: PositionEncoding::Rotary(RotaryKeys {
        theta: ("rope_theta", 5e5),
        turns: Turns::ByWindow("", 5e5), // the framework reads no field for layers with a window
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys { windows: Windows::AllBut { window: 4096, n: Dim::Const(4) }, ..OLMO2.keys },
    ..OLMO2
};

// Layers with a window alone are turned.
pub(super) const EXAONE4: Family = Family {
    name: "exaone4",
    qk_norm: QkNorm::Heads,
    positions: PositionEncoding::Rotary(RotaryKeys { turns: Turns::Windowed, ..RotaryKeys::FULL }),
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 32),
        windows: Windows::AllBut { window: 4096, n: Dim::ConfigOr("sliding_window_pattern", 4) },
        bias_qkv: Flag::Const(false),
        bias_o: Flag::Const(false),
        ..OLMO2.keys
    },
    ..OLMO2
};
