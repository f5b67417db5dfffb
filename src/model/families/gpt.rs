//! Families with layer norms, most of them with biases.

use super::llama::LLAMA;
use crate::model::arch::{Gain, QkNorm};
use crate::model::family::{
    BranchNorms, ConfigKeys, Family, Names, PositionEncoding, Qkv, UpNames,
};
use crate::model::fields::{Activation, Cap, Dim, Eps, Factor, Flag, ScoreFactor, Windows};
use crate::model::rotary::{RotaryDim, RotaryKeys};
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;
use crate::tensor::Layout;

pub(super) const GPT2: Family = Family {
    name: "gpt2",
    norm: NormKind::Layer,
    gain: Gain::Stored,
    norm_bias: true,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Learned { offset: 0 },
    parallel: Flag::Const(false),
    keys: ConfigKeys {
        layers: &["n_layer", "num_hidden_layers"],
        width: &["n_embd", "hidden_size"],
        inner: Dim::Config("n_inner"),
        n_heads: &["n_head", "num_attention_heads"],
        n_kv_heads: Dim::Derived,
        head_dim: Dim::Derived,
        max_positions: &["n_positions", "max_position_embeddings"],
        windows: Windows::None,
        eps: Eps::Config("layer_norm_epsilon", 1e-5),
        act: Activation::named("activation_function", "gelu_new"),
        score: ScoreFactor::ByHeadIf("scale_attn_weights"),
        score_by_layer: Flag::Config("scale_attn_by_inverse_layer_idx", false),
        embed: Factor::One,
        residual: Factor::One,
        logits: Factor::One,
        score_cap: Cap::None,
        logit_cap: Cap::None,
        bias_qkv: Flag::Const(true),
        bias_o: Flag::Const(true),
        bias_mlp: Flag::Const(true),
        bias_head: false,
        tie_embeddings: true,
    },
    fixed: &[("add_cross_attention", false)],
    absent: &[],
    required: &[],
    as_wide: &[],
    defaults: &[],
    names: Names {
        prefix: "transformer.",
        embed: "wte",
        positions: "wpe",
        layer: "h.",
        norm1: BranchNorms::before("ln_1"),
        qkv: Qkv::Stacked("attn.c_attn"),
        qk_norm: ["", ""],
        o: "attn.c_proj",
        norm2: BranchNorms::before("ln_2"),
        up: UpNames::Up("mlp.c_fc"),
        down: "mlp.c_proj",
        norm: "ln_f",
        head: &["lm_head"],
        layout: Layout::InOut,
    },
};

pub(super) const GPTJ: Family = Family {
    name: "gptj",
    norm: NormKind::Layer,
    gain: Gain::Stored,
    norm_bias: true,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Rotary(RotaryKeys {
        dim: RotaryDim::Elements("rotary_dim", 64),
        pairing: Pairing::Adjacent,
        ..RotaryKeys::FULL
    }),
    parallel: Flag::Const(true),
    keys: ConfigKeys {
        score: ScoreFactor::ByHead,
        score_by_layer: Flag::Const(false),
        bias_qkv: Flag::Const(false),
        bias_o: Flag::Const(false),
        bias_head: true,
        tie_embeddings: false,
        ..GPT2.keys
    },
    fixed: &[],
    absent: &[],
    required: &[],
    as_wide: &[],
    defaults: &[],
    names: Names {
        positions: "",
        qkv: Qkv::Three(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        o: "attn.out_proj",
        // One norm serves both.
        norm2: BranchNorms::before("ln_1"),
        up: UpNames::Up("mlp.fc_in"),
        down: "mlp.fc_out",
        layout: Layout::OutIn,
        ..GPT2.names
    },
};

pub(super) const GPT_NEOX: Family = Family {
    name: "gpt_neox",
    norm: NormKind::Layer,
    gain: Gain::Stored,
    norm_bias: true,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Rotary(RotaryKeys {
        dim: RotaryDim::Fraction("rotary_pct", 0.25),
        theta: ("rotary_emb_base", 1e4),
        ..RotaryKeys::FULL
    }),
    parallel: Flag::Config("use_parallel_residual", true),
    keys: ConfigKeys {
        n_kv_heads: Dim::Derived,
        head_dim: Dim::Derived,
        eps: Eps::Config("layer_norm_eps", 1e-5),
        act: Activation::named("hidden_act", "gelu"),
        bias_qkv: Flag::Config("attention_bias", true),
        bias_o: Flag::Config("attention_bias", true),
        bias_mlp: Flag::Const(true),
        ..LLAMA.keys
    },
    fixed: &[],
    absent: &[],
    required: &[],
    as_wide: &[],
    defaults: &[],
    names: Names {
        prefix: "gpt_neox.",
        embed: "embed_in",
        qkv: Qkv::ByGroup("attention.query_key_value"),
        o: "attention.dense",
        up: UpNames::Up("mlp.dense_h_to_4h"),
        down: "mlp.dense_4h_to_h",
        norm: "final_layer_norm",
        head: &["embed_out", "lm_head"],
        ..LLAMA.names
    },
};

pub(super) const OPT: Family = Family {
    name: "opt",
    norm: NormKind::Layer,
    gain: Gain::Stored,
    norm_bias: true,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Learned { offset: 2 },
    parallel: Flag::Const(false),
    keys: ConfigKeys {
        inner: Dim::Required("ffn_dim"),
        n_kv_heads: Dim::Derived,
        head_dim: Dim::Derived,
        eps: Eps::Const(1e-5),
        act: Activation::named("activation_function", "relu"),
        bias_qkv: Flag::Config("enable_bias", true),
        bias_o: Flag::Config("enable_bias", true),
        bias_mlp: Flag::Config("enable_bias", true),
        tie_embeddings: true,
        ..LLAMA.keys
    },
    fixed: &[
        ("do_layer_norm_before", true),
        ("layer_norm_elementwise_affine", true),
        ("_remove_final_layer_norm", false),
    ],
    absent: &[],
    required: &[],
    as_wide: &["word_embed_proj_dim"], // OPT 350m embeds tokens in another
    defaults: &[],
    names: Names {
        prefix: "model.decoder.",
        positions: "embed_positions",
        norm1: BranchNorms::before("self_attn_layer_norm"),
        o: "self_attn.out_proj",
        norm2: BranchNorms::before("final_layer_norm"),
        up: UpNames::Up("fc1"),
        down: "fc2",
        norm: "final_layer_norm",
        ..LLAMA.names
    },
};

pub(super) const PHI: Family = Family {
    name: "phi",
    norm: NormKind::Layer,
    norm_bias: true,
    positions: PositionEncoding::Rotary(RotaryKeys {
        dim: RotaryDim::Fraction("partial_rotary_factor", 0.5),
        ..RotaryKeys::FULL
    }),
    parallel: Flag::Const(true),
    keys: ConfigKeys {
        eps: Eps::Config("layer_norm_eps", 1e-5),
        act: Activation::named("hidden_act", "gelu_new"),
        bias_qkv: Flag::Const(true),
        bias_o: Flag::Const(true),
        bias_mlp: Flag::Const(true),
        bias_head: true,
        ..LLAMA.keys
    },
    fixed: &[("qk_layernorm", false)],
    names: Names {
        o: "self_attn.dense",
        // One norm serves both.
        norm2: BranchNorms::before("input_layernorm"),
        up: UpNames::Up("mlp.fc1"),
        down: "mlp.fc2",
        norm: "final_layernorm",
        ..LLAMA.names
    },
    ..LLAMA
};

pub(super) const STARCODER2: Family = Family {
    name: "starcoder2",
    norm: NormKind::Layer,
    norm_bias: true,
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 2),
        windows: Windows::Every(None),
        eps: Eps::Config("norm_epsilon", 1e-5),
        act: Activation::named("hidden_act", "gelu_pytorch_tanh"),
        bias_qkv: Flag::Config("use_bias", true),
        bias_o: Flag::Config("use_bias", true),
        bias_mlp: Flag::Config("use_bias", true),
        tie_embeddings: true,
        ..LLAMA.keys
    },
    names: Names { up: UpNames::Up("mlp.c_fc"), down: "mlp.c_proj", ..LLAMA.names },
    ..LLAMA
};

pub(super) const STABLELM: Family = Family {
    name: "stablelm",
    norm: NormKind::Layer,
    norm_bias: true,
    positions: PositionEncoding::Rotary(RotaryKeys {
        dim: RotaryDim::Fraction("partial_rotary_factor", 0.25),
        ..RotaryKeys::FULL
    }),
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 32),
        head_dim: Dim::Derived,
        eps: Eps::Config("layer_norm_eps", 1e-5),
        bias_qkv: Flag::Config("use_qkv_bias", false),
        bias_o: Flag::Const(false),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    fixed: &[("qk_layernorm", false), ("use_parallel_residual", false)],
    ..LLAMA
};

// Of 7B: one group, one norm, and both branches read the same stream.
pub(super) const FALCON: Family = Family {
    name: "falcon",
    norm: NormKind::Layer,
    norm_bias: true,
    parallel: Flag::Const(true),
    keys: ConfigKeys {
        inner: Dim::Config("ffn_hidden_size"),
        n_kv_heads: Dim::Const(1),
        head_dim: Dim::Derived,
        eps: Eps::Config("layer_norm_epsilon", 1e-5),
        act: Activation::named("activation", "gelu"),
        bias_qkv: Flag::Config("bias", false),
        bias_o: Flag::Config("bias", false),
        bias_mlp: Flag::Config("bias", false),
        tie_embeddings: true,
        ..LLAMA.keys
    },
    fixed: &[
        ("alibi", false),
        ("new_decoder_architecture", false),
        ("multi_query", true),
        ("parallel_attn", true),
    ],
    defaults: &[("max_position_embeddings", 2048)],
    names: Names {
        prefix: "transformer.",
        embed: "word_embeddings",
        layer: "h.",
        qkv: Qkv::ByGroup("self_attention.query_key_value"),
        o: "self_attention.dense",
        // One norm serves both.
        norm2: BranchNorms::before("input_layernorm"),
        up: UpNames::Up("mlp.dense_h_to_4h"),
        down: "mlp.dense_4h_to_h",
        norm: "ln_f",
        ..LLAMA.names
    },
    ..LLAMA
};
