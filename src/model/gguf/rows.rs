//! Architectures of llama.cpp that are families of ours, a row each.
//!
//! Sizes have the same keys in all of them, and tensors the same names for the same roles; fields
//! and names on our side are those of [`super::super::families`]. A row says what is left: which
//! family it is, how queries, keys and values lie, and what else the file knows of it.
//!
//! Source: `convert_hf_to_gguf.py` of llama.cpp, which writes the files, and `llama-model.cpp`,
//! which reads them.

use crate::text::Spaces;

/// One row of the table.
pub(super) struct GgufFamily {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// A key that the file must have to be of this row.
    pub having: Option<&'static str>,
    /// `model_type`.
    pub family: &'static str,
    /// The framework's class, which servers look for.
    pub class: &'static str,
    /// How the rows of queries and keys, or of all three in one, lie.
    pub order: RowOrder,
    /// The norm of what the MLP reads.
    pub norm2: &'static str,
    /// Further fields of `config.json` that the file's keys give.
    pub extra: &'static [Extra],
    /// How a SentencePiece vocabulary treats spaces.
    pub spaces: Spaces,
}

/// How the rows of q and k, or of q, k and v in one, lie in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As the framework has them.
    Same,
    /// Of a head's q or k, by pairs: row 2i + s there is row sE/2 + i here.
    Pairs,
    /// All of q, all of k, all of v there; group by group here.
    Regrouped,
}

/// A field of `config.json` and where it comes from.
#[derive(Clone, Copy)]
pub(super) enum Extra {
    /// This key, where the file has it.
    Key(&'static str, &'static str),
    /// The same; null where it has not.
    KeyOrNull(&'static str, &'static str),
    /// A window in tokens, where the file has it; null where it is 0.
    Window(&'static str),
    /// The base of `query_pre_attn_scalar`: D/H in the model of so many layers, E in all others.
    PreAttention(&'static str, u64),
}

use Extra::{Key, KeyOrNull, PreAttention, Window};

const LLAMA: GgufFamily = GgufFamily {
    architecture: "llama",
    having: None,
    family: "llama",
    class: "LlamaForCausalLM",
    order: RowOrder::Pairs,
    norm2: "ffn_norm",
    extra: &[],
    spaces: Spaces::Llama,
};

/// As Llama, with rows as they are.
const PLAIN: GgufFamily = GgufFamily { order: RowOrder::Same, ..LLAMA };

/// The key of a window.
pub(super) const WINDOW: &str = "attention.sliding_window";

pub(super) static ROWS: [GgufFamily; 22] = [
    LLAMA,
    GgufFamily { architecture: "qwen2", family: "qwen2", class: "Qwen2ForCausalLM", ..PLAIN },
    GgufFamily { architecture: "qwen3", family: "qwen3", class: "Qwen3ForCausalLM", ..PLAIN },
    GgufFamily {
        architecture: "gemma",
        family: "gemma",
        class: "GemmaForCausalLM",
        spaces: Spaces::Gemma,
        ..PLAIN
    },
    GgufFamily {
        architecture: "gemma2",
        family: "gemma2",
        class: "Gemma2ForCausalLM",
        extra: &[
            Key(WINDOW, "sliding_window"),
            Key("attn_logit_softcapping", "attn_logit_softcapping"),
            Key("final_logit_softcapping", "final_logit_softcapping"),
            PreAttention("query_pre_attn_scalar", 46),
        ],
        spaces: Spaces::Gemma,
        ..PLAIN
    },
    GgufFamily {
        architecture: "gemma3",
        family: "gemma3_text",
        class: "Gemma3ForCausalLM",
        extra: &[Key(WINDOW, "sliding_window"), PreAttention("query_pre_attn_scalar", 62)],
        spaces: Spaces::Gemma,
        ..PLAIN
    },
    GgufFamily {
        architecture: "phi3",
        family: "phi3",
        class: "Phi3ForCausalLM",
        extra: &[
            Window("sliding_window"), // 0 in Phi-4's files
            Key("rope.scaling.original_context_length", "original_max_position_embeddings"),
        ],
        spaces: Spaces::Phi3,
        ..PLAIN
    },
    GgufFamily { architecture: "phi2", family: "phi", class: "PhiForCausalLM", ..PLAIN },
    GgufFamily {
        architecture: "olmo",
        family: "olmo",
        class: "OlmoForCausalLM",
        extra: &[Key("attention.clamp_kqv", "clip_qkv")],
        ..LLAMA
    },
    GgufFamily {
        architecture: "olmo2",
        having: Some(WINDOW),
        family: "olmo3",
        class: "Olmo3ForCausalLM",
        extra: &[Key(WINDOW, "sliding_window")],
        ..PLAIN
    },
    GgufFamily { architecture: "olmo2", family: "olmo2", class: "Olmo2ForCausalLM", ..PLAIN },
    GgufFamily { architecture: "gpt2", family: "gpt2", class: "GPT2LMHeadModel", ..PLAIN },
    GgufFamily {
        architecture: "gptneox",
        family: "gpt_neox",
        class: "GPTNeoXForCausalLM",
        order: RowOrder::Regrouped,
        ..PLAIN
    },
    GgufFamily {
        architecture: "starcoder2",
        family: "starcoder2",
        class: "Starcoder2ForCausalLM",
        ..PLAIN
    },
    GgufFamily {
        architecture: "granite",
        family: "granite",
        class: "GraniteForCausalLM",
        extra: &[
            Key("attention.scale", "attention_multiplier"),
            Key("embedding_scale", "embedding_multiplier"),
            Key("residual_scale", "residual_multiplier"),
            Key("logit_scale", "logits_scaling"),
        ],
        ..LLAMA
    },
    GgufFamily { architecture: "smollm3", family: "smollm3", class: "SmolLM3ForCausalLM", ..LLAMA },
    GgufFamily {
        architecture: "stablelm",
        family: "stablelm",
        class: "StableLmForCausalLM",
        ..PLAIN
    },
    GgufFamily { architecture: "glm4", family: "glm4", class: "Glm4ForCausalLM", ..PLAIN },
    GgufFamily {
        architecture: "command-r",
        family: "cohere",
        class: "CohereForCausalLM",
        extra: &[Key("logit_scale", "logit_scale")],
        ..PLAIN
    },
    GgufFamily {
        architecture: "seed_oss",
        family: "seed_oss",
        class: "SeedOssForCausalLM",
        norm2: "post_attention_norm",
        ..PLAIN
    },
    GgufFamily {
        architecture: "exaone4",
        family: "exaone4",
        class: "Exaone4ForCausalLM",
        extra: &[KeyOrNull(WINDOW, "sliding_window")],
        ..PLAIN
    },
    GgufFamily { architecture: "falcon", family: "falcon", class: "FalconForCausalLM", ..PLAIN },
];

/// The row of a family; llama.cpp takes Mistral for Llama.
pub(super) fn of_family(name: &str) -> Option<&'static GgufFamily> {
    let name = if name == "mistral" { LLAMA.family } else { name };
    ROWS.iter().find(|row| row.family == name)
}

/// Keys that change what a model computes: a file that has one its row does not name is refused.
pub(super) const CHANGING: [&str; 13] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.output_scale",
    "attention.temperature_scale",
    "attention.temperature_length",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "expert_count",
    "rope.scaling.alpha",
];
