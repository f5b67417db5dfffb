//! The families as data, a row each. Read [`super::family`] for what a row says.

use super::family::{Choice, Eps, Family, Keys, Names, Place, Qkv, Size, Turning, Windows};
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;
use crate::tensor::Layout;

use Choice::{Is, Says};

/// Every family this version runs.
pub static FAMILIES: [Family; 8] = [GPT2, GPTJ, GPT_NEOX, OPT, LLAMA, MISTRAL, QWEN2, QWEN3];

const GPT2: Family = Family {
    name: "gpt2",
    norm: NormKind::Layer,
    place: Place::Learned { offset: 0 },
    parallel: Is(false),
    keys: Keys {
        layers: "n_layer",
        width: "n_embd",
        inner: Size::Said("n_inner"),
        queries: "n_head",
        groups: Size::Follows,
        head: Size::Follows,
        context: "n_positions",
        windows: Windows::None,
        eps: Eps::Says("layer_norm_epsilon", 1e-5),
        act: ("activation_function", "gelu_new"),
        scale_by_head: Says("scale_attn_weights", true),
        scale_by_layer: Says("scale_attn_by_inverse_layer_idx", false),
        bias_qkv: Is(true),
        bias_o: Is(true),
        bias_mlp: Is(true),
        bias_head: false,
        tied: true,
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
        head_norms: None,
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
    place: Place::Rotary(Turning::Elements("rotary_dim", 64), Pairing::Adjacent),
    parallel: Is(true),
    keys: Keys {
        scale_by_head: Is(true),
        scale_by_layer: Is(false),
        bias_qkv: Is(false),
        bias_o: Is(false),
        bias_head: true,
        tied: false,
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
    place: Place::Rotary(Turning::Share("rotary_pct", 0.25), Pairing::Halves),
    parallel: Says("use_parallel_residual", true),
    keys: Keys {
        groups: Size::Follows,
        head: Size::Follows,
        eps: Eps::Says("layer_norm_eps", 1e-5),
        act: ("hidden_act", "gelu"),
        bias_qkv: Says("attention_bias", true),
        bias_o: Says("attention_bias", true),
        bias_mlp: Is(true),
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
    place: Place::Learned { offset: 2 },
    parallel: Is(false),
    keys: Keys {
        inner: Size::Needed("ffn_dim"),
        groups: Size::Follows,
        head: Size::Follows,
        eps: Eps::Is(1e-5),
        act: ("activation_function", "relu"),
        bias_qkv: Says("enable_bias", true),
        bias_o: Says("enable_bias", true),
        bias_mlp: Says("enable_bias", true),
        tied: true,
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
    place: Place::Rotary(Turning::Whole, Pairing::Halves),
    parallel: Is(false),
    keys: Keys {
        layers: "num_hidden_layers",
        width: "hidden_size",
        inner: Size::Needed("intermediate_size"),
        queries: "num_attention_heads",
        groups: Size::Said("num_key_value_heads"),
        head: Size::Said("head_dim"),
        context: "max_position_embeddings",
        windows: Windows::None,
        eps: Eps::Says("rms_norm_eps", 1e-6),
        act: ("hidden_act", "silu"),
        scale_by_head: Is(true),
        scale_by_layer: Is(false),
        bias_qkv: Says("attention_bias", false),
        bias_o: Says("attention_bias", false),
        bias_mlp: Says("mlp_bias", false),
        bias_head: false,
        tied: false,
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
        head_norms: None,
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
    keys: Keys {
        groups: Size::SaidOr("num_key_value_heads", 8),
        windows: Windows::Every("sliding_window", 4096),
        bias_qkv: Is(false),
        bias_o: Is(false),
        bias_mlp: Is(false),
        ..LLAMA.keys
    },
    ..LLAMA
};

const QWEN2: Family = Family {
    name: "qwen2",
    keys: Keys {
        groups: Size::SaidOr("num_key_value_heads", 32),
        windows: Windows::Some,
        bias_qkv: Is(true),
        bias_o: Is(false),
        bias_mlp: Is(false),
        ..LLAMA.keys
    },
    ..LLAMA
};

const QWEN3: Family = Family {
    name: "qwen3",
    keys: Keys {
        head: Size::SaidOr("head_dim", 128),
        bias_qkv: Says("attention_bias", false),
        bias_o: Says("attention_bias", false),
        ..QWEN2.keys
    },
    names: Names { head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..LLAMA.names },
    ..LLAMA
};
