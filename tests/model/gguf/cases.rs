//! The families as data: how llama.cpp's converter names and turns what a recorded model has.

use incise::model::Arch;
use serde_json::Value;

use crate::support::gguf::GgufWriter;

/// What the converter does to a tensor.
#[derive(Clone, Copy, PartialEq)]
pub enum Turn {
    /// Nothing.
    No,
    /// Rows of a head (2, E/2) become (E/2, 2).
    Pairs,
    /// Groups of q, k, v become all of q, all of k, all of v.
    Regroup,
    /// (in, out) becomes (out, in).
    Transpose,
}

/// A family: how its recorded model is called in a file, and what else the file says.
pub struct Case {
    pub golden: &'static str,
    pub architecture: &'static str,
    /// Names inside a layer: the framework's, llama.cpp's, and what is done.
    pub names: &'static [(&'static str, &'static str, Turn)],
    /// Whether the file has gains where the checkpoint has one less.
    pub gains: bool,
    /// Further pairs.
    pub more: fn(&mut GgufWriter, &Value, &Arch),
    /// What the recorded model has that no file can say.
    pub adjust: fn(&mut Arch, &Arch),
}

use Turn::{No, Pairs, Regroup, Transpose};

const LLAMA: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("self_attn.q_proj", "attn_q", Pairs),
    ("self_attn.k_proj", "attn_k", Pairs),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.o_proj", "attn_output", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("mlp.gate_proj", "ffn_gate", No),
    ("mlp.up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
];
const PLAIN: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("self_attn.q_proj", "attn_q", No),
    ("self_attn.k_proj", "attn_k", No),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.q_norm", "attn_q_norm", No),
    ("self_attn.k_norm", "attn_k_norm", No),
    ("self_attn.o_proj", "attn_output", No),
    ("self_attn.dense", "attn_output", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("mlp.gate_proj", "ffn_gate", No),
    ("mlp.up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
    ("mlp.fc1", "ffn_up", No),
    ("mlp.fc2", "ffn_down", No),
    ("mlp.c_fc", "ffn_up", No),
    ("mlp.c_proj", "ffn_down", No),
    ("self_attn.qkv_proj", "attn_qkv", No),
    ("mlp.gate_up_proj", "ffn_up", No),
    ("self_attention.query_key_value", "attn_qkv", No),
    ("self_attention.dense", "attn_output", No),
    ("mlp.dense_h_to_4h", "ffn_up", No),
    ("mlp.dense_4h_to_h", "ffn_down", No),
];
/// Norms behind the branches.
const BEHIND: &[(&str, &str, Turn)] = &[
    ("self_attn.q_proj", "attn_q", No),
    ("self_attn.k_proj", "attn_k", No),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.q_norm", "attn_q_norm", No),
    ("self_attn.k_norm", "attn_k_norm", No),
    ("self_attn.o_proj", "attn_output", No),
    ("input_layernorm", "attn_norm", No),
    ("post_attention_layernorm", "post_attention_norm", No),
    ("pre_feedforward_layernorm", "ffn_norm", No),
    ("post_feedforward_layernorm", "post_ffw_norm", No),
    ("mlp.gate_proj", "ffn_gate", No),
    ("mlp.up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
];
const GLM4: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("post_self_attn_layernorm", "post_attention_norm", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("post_mlp_layernorm", "post_ffw_norm", No),
    ("self_attn.q_proj", "attn_q", No),
    ("self_attn.k_proj", "attn_k", No),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.o_proj", "attn_output", No),
    ("mlp.gate_up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
];
const GPT2: &[(&str, &str, Turn)] = &[
    ("ln_1", "attn_norm", No),
    ("attn.c_attn", "attn_qkv", Transpose),
    ("attn.c_proj", "attn_output", Transpose),
    ("ln_2", "ffn_norm", No),
    ("mlp.c_fc", "ffn_up", Transpose),
    ("mlp.c_proj", "ffn_down", Transpose),
];
const NEOX: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("attention.query_key_value", "attn_qkv", Regroup),
    ("attention.dense", "attn_output", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("mlp.dense_h_to_4h", "ffn_up", No),
    ("mlp.dense_4h_to_h", "ffn_down", No),
];

/// Names outside of layers.
pub const OUTSIDE: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("wte", "token_embd"),
    ("embed_in", "token_embd"),
    ("word_embeddings", "token_embd"),
    ("wpe", "position_embd"),
    ("model.norm", "output_norm"),
    ("final_layernorm", "output_norm"),
    ("final_layer_norm", "output_norm"),
    ("ln_f", "output_norm"),
    ("lm_head", "output"),
    ("embed_out", "output"),
];

pub const BASE: Case = Case {
    golden: "llama",
    architecture: "llama",
    names: LLAMA,
    gains: false,
    more: |_, _, _| {},
    adjust: |_, _| {},
};
const OTHER: Case = Case { names: PLAIN, ..BASE };

/// The window and which layers have it.
fn windows(file: &mut GgufWriter, config: &Value, arch: &Arch) {
    let a = if arch.family == "gemma3_text" { "gemma3" } else { arch.family };
    let window = config["sliding_window"].as_u64().unwrap() as u32;
    file.u32(&format!("{a}.attention.sliding_window"), window);
    let each: Vec<u8> = arch.windows.iter().map(|window| window.is_some().into()).collect();
    file.array(&format!("{a}.attention.sliding_window_pattern"), 7, each.len(), &each);
}

fn no_windows(want: &mut Arch, got: &Arch) {
    want.windows.clone_from(&got.windows);
}

pub static CASES: [Case; 23] = [
    BASE,
    Case { golden: "llama-tied", ..BASE },
    Case {
        golden: "qwen2",
        architecture: "qwen2",
        more: |file, _, _| {
            file.text("qwen2.rope.scaling.type", "yarn").f32("qwen2.rope.scaling.factor", 4.0);
            file.u32("qwen2.rope.scaling.original_context_length", 64);
            file.f32("qwen2.rope.scaling.yarn_beta_fast", 8.0);
            file.f32("qwen2.rope.scaling.yarn_beta_slow", 0.5);
        },
        adjust: no_windows,
        ..OTHER
    },
    Case { golden: "qwen3", architecture: "qwen3", adjust: no_windows, ..OTHER },
    Case { golden: "gemma", architecture: "gemma", gains: true, ..OTHER },
    Case {
        golden: "gemma2",
        architecture: "gemma2",
        names: BEHIND,
        gains: true,
        more: |file, _, _| {
            file.u32("gemma2.attention.sliding_window", 4);
            file.f32("gemma2.attn_logit_softcapping", 0.3);
            file.f32("gemma2.final_logit_softcapping", 2.0);
        },
        // As Gemma 3's.
        adjust: |want, _| want.scales.score = (want.head_dim as f64).powf(-0.5),
    },
    Case {
        golden: "gemma3",
        architecture: "gemma3",
        names: BEHIND,
        gains: true,
        more: |file, config, arch| {
            windows(file, config, arch);
            file.f32("gemma3.rope.freq_base_swa", 300.0);
            file.text("gemma3.rope.scaling.type", "linear");
            file.f32("gemma3.rope.scaling.factor", 2.0);
        },
        // The recorded model has another base of the scores' factor than any published one.
        adjust: |want, _| want.scales.score = (want.head_dim as f64).powf(-0.5),
    },
    Case {
        golden: "phi3",
        architecture: "phi3",
        more: |file, _, _| {
            file.u32("phi3.attention.sliding_window", 5);
            file.u32("phi3.rope.scaling.original_context_length", 48);
            for (name, factors) in [("short", [1.0f32, 1.25]), ("long", [2.0, 3.0])] {
                let name = format!("rope_factors_{name}.weight");
                file.tensor(&name, &[2], "F32", bytemuck::cast_slice(&factors));
            }
        },
        ..OTHER
    },
    Case { golden: "phi", architecture: "phi2", ..OTHER },
    Case { golden: "olmo", architecture: "olmo", ..BASE },
    Case { golden: "olmo2", architecture: "olmo2", names: BEHIND, ..BASE },
    Case {
        golden: "olmo3",
        architecture: "olmo2",
        names: BEHIND,
        more: |file, config, _| {
            let window = config["sliding_window"].as_u64().unwrap() as u32;
            file.u32("olmo2.attention.sliding_window", window);
            file.array("olmo2.attention.sliding_window_pattern", 7, 3, &[1, 1, 0]);
        },
        // Its two tables have bases that no published one has.
        adjust: |want, got| want.positions = got.positions.clone(),
        ..BASE
    },
    Case {
        golden: "smollm3",
        architecture: "smollm3",
        // The recorded model has other layers without positions than every fourth.
        adjust: |want, got| want.turned_by.clone_from(&got.turned_by),
        ..BASE
    },
    Case {
        golden: "granite",
        architecture: "granite",
        more: |file, _, _| {
            file.f32("granite.attention.scale", 0.4).f32("granite.embedding_scale", 3.5);
            file.f32("granite.residual_scale", 0.3).f32("granite.logit_scale", 1.75);
        },
        ..BASE
    },
    Case { golden: "starcoder2", architecture: "starcoder2", adjust: no_windows, ..OTHER },
    Case { golden: "stablelm", architecture: "stablelm", ..OTHER },
    Case { golden: "glm4", architecture: "glm4", names: GLM4, ..BASE },
    Case {
        golden: "cohere",
        architecture: "command-r",
        more: |file, _, _| {
            file.f32("command-r.logit_scale", 0.0625);
        },
        ..OTHER
    },
    Case { golden: "seed-oss", architecture: "seed_oss", names: BEHIND, ..BASE },
    Case { golden: "exaone4", architecture: "exaone4", names: BEHIND, more: windows, ..BASE },
    Case { golden: "gpt2", architecture: "gpt2", names: GPT2, ..BASE },
    Case { golden: "neox", architecture: "gptneox", names: NEOX, ..BASE },
    Case { golden: "falcon", architecture: "falcon", ..OTHER },
];
