//! The families as data, a row each. [`super::family`] says what a row contains.

use super::arch::{NormPlace, QkNorm};
use super::config::Config;
use super::family::{ConfigKeys, Dim, Eps, Family, Flag, Names, PositionEncoding, Qkv, Windows};
use super::rotary::RotaryDim;
use crate::base::{Error, Result};
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;
use crate::tensor::Layout;

/// The families that are implemented.
pub static FAMILIES: [Family; 9] = [GPT2, GPTJ, GPT_NEOX, OPT, LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2];

/// The row of the family that a configuration names.
///
/// # Errors
///
/// A `model_type` that is not in the table.
pub fn find(config: &Config) -> Result<&'static Family> {
    let name = config.string_or("model_type", "")?;
    FAMILIES.iter().find(|family| family.name == name).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        Error::input(
            &config.path,
            "model_type",
            format!("`{name}` is not implemented"),
            format!("use a model of one of: {}", known.join(", ")),
        )
    })
}

const GPT2: Family = Family {
    name: "gpt2",
    norm: NormKind::Layer,
    norms: NormPlace::Before,
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
        act: ("activation_function", "gelu_new"),
        scale_by_head: Flag::Config("scale_attn_weights", true),
        scale_by_layer: Flag::Config("scale_attn_by_inverse_layer_idx", false),
        bias_qkv: Flag::Const(true),
        bias_o: Flag::Const(true),
        bias_mlp: Flag::Const(true),
        bias_head: false,
        tie_embeddings: true,
    },
    fixed: &[("add_cross_attention", false)],
    as_wide: &[],
    names: Names {
        prefix: "transformer.",
        embed: "wte",
        positions: "wpe",
        layer: "h.",
        norm1: "ln_1",
        qkv: Qkv::Stacked("attn.c_attn"),
        qk_norm: ["", ""],
        o: "attn.c_proj",
        norm2: "ln_2",
        gate: None,
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        norm: "ln_f",
        head: &["lm_head"],
        layout: Layout::InOut,
    },
};

const GPTJ: Family = Family {
    name: "gptj",
    norm: NormKind::Layer,
    norms: NormPlace::Before,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Rotary(RotaryDim::Elements("rotary_dim", 64), Pairing::Adjacent),
    parallel: Flag::Const(true),
    keys: ConfigKeys {
        scale_by_head: Flag::Const(true),
        scale_by_layer: Flag::Const(false),
        bias_qkv: Flag::Const(false),
        bias_o: Flag::Const(false),
        bias_head: true,
        tie_embeddings: false,
        ..GPT2.keys
    },
    fixed: &[],
    as_wide: &[],
    names: Names {
        positions: "",
        qkv: Qkv::Three(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        o: "attn.out_proj",
        // One norm serves both.
        norm2: "ln_1",
        up: "mlp.fc_in",
        down: "mlp.fc_out",
        layout: Layout::OutIn,
        ..GPT2.names
    },
};

const GPT_NEOX: Family = Family {
    name: "gpt_neox",
    norm: NormKind::Layer,
    norms: NormPlace::Before,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Rotary(RotaryDim::Fraction("rotary_pct", 0.25), Pairing::Halves),
    parallel: Flag::Config("use_parallel_residual", true),
    keys: ConfigKeys {
        n_kv_heads: Dim::Derived,
        head_dim: Dim::Derived,
        eps: Eps::Config("layer_norm_eps", 1e-5),
        act: ("hidden_act", "gelu"),
        bias_qkv: Flag::Config("attention_bias", true),
        bias_o: Flag::Config("attention_bias", true),
        bias_mlp: Flag::Const(true),
        ..LLAMA.keys
    },
    fixed: &[],
    as_wide: &[],
    names: Names {
        prefix: "gpt_neox.",
        embed: "embed_in",
        qkv: Qkv::ByHead("attention.query_key_value"),
        o: "attention.dense",
        gate: None,
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        norm: "final_layer_norm",
        head: &["embed_out", "lm_head"],
        ..LLAMA.names
    },
};

const OPT: Family = Family {
    name: "opt",
    norm: NormKind::Layer,
    norms: NormPlace::Before,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Learned { offset: 2 },
    parallel: Flag::Const(false),
    keys: ConfigKeys {
        inner: Dim::Required("ffn_dim"),
        n_kv_heads: Dim::Derived,
        head_dim: Dim::Derived,
        eps: Eps::Const(1e-5),
        act: ("activation_function", "relu"),
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
    as_wide: &["word_embed_proj_dim"], // OPT 350m embeds tokens in another
    names: Names {
        prefix: "model.decoder.",
        positions: "embed_positions",
        norm1: "self_attn_layer_norm",
        o: "self_attn.out_proj",
        norm2: "final_layer_norm",
        gate: None,
        up: "fc1",
        down: "fc2",
        norm: "final_layer_norm",
        ..LLAMA.names
    },
};

const LLAMA: Family = Family {
    name: "llama",
    norm: NormKind::Rms,
    norms: NormPlace::Before,
    qk_norm: QkNorm::None,
    positions: PositionEncoding::Rotary(RotaryDim::Full, Pairing::Halves),
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
        act: ("hidden_act", "silu"),
        scale_by_head: Flag::Const(true),
        scale_by_layer: Flag::Const(false),
        bias_qkv: Flag::Config("attention_bias", false),
        bias_o: Flag::Config("attention_bias", false),
        bias_mlp: Flag::Config("mlp_bias", false),
        bias_head: false,
        tie_embeddings: false,
    },
    fixed: &[],
    as_wide: &[],
    names: Names {
        prefix: "model.",
        embed: "embed_tokens",
        positions: "",
        layer: "layers.",
        norm1: "input_layernorm",
        qkv: Qkv::Three(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        qk_norm: ["", ""],
        o: "self_attn.o_proj",
        norm2: "post_attention_layernorm",
        gate: Some("mlp.gate_proj"),
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        norm: "norm",
        head: &["lm_head"],
        layout: Layout::OutIn,
    },
};

const MISTRAL: Family = Family {
    name: "mistral",
    keys: ConfigKeys {
        n_kv_heads: Dim::ConfigOr("num_key_value_heads", 8),
        windows: Windows::Every("sliding_window", 4096),
        bias_qkv: Flag::Const(false),
        bias_o: Flag::Const(false),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    ..LLAMA
};

const QWEN2: Family = Family {
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

const QWEN3: Family = Family {
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

const OLMO2: Family = Family {
    name: "olmo2",
    norms: NormPlace::After,
    qk_norm: QkNorm::Whole,
    keys: ConfigKeys {
        eps: Eps::Config("rms_norm_eps", 1e-5),
        bias_mlp: Flag::Const(false),
        ..LLAMA.keys
    },
    names: Names {
        norm1: "post_attention_layernorm",
        norm2: "post_feedforward_layernorm",
        ..QWEN3.names
    },
    ..LLAMA
};
