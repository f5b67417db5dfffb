//! The families as data: where a configuration says what, and how a checkpoint names its tensors.

use super::arch::{Arch, Biases, Positions, Scale};
use super::config::Config;
use super::rotary::Rotary;
use crate::base::{Error, Result};
use crate::ops::act::Act;
use crate::ops::norm::Kind;
use crate::tensor::Layout;

/// One row of the table.
pub struct Family {
    /// `model_type`.
    pub name: &'static str,
    norm: Kind,
    learned_positions: bool,
    keys: Keys,
    /// Options that change the forward pass and are not implemented, with the value that is.
    fixed: &'static [(&'static str, bool)],
    /// Names of tensors.
    pub names: Names,
}

/// The configuration's words.
struct Keys {
    layers: &'static str,
    width: &'static str,
    inner: &'static str,
    queries: &'static str,
    context: &'static str,
    eps: (&'static str, f64),
    act: (&'static str, &'static str),
    tied: bool,             // where `tie_word_embeddings` is absent
    biases: Option<Biases>, // None: `attention_bias` and `mlp_bias` say
}

/// A checkpoint's words, without `.weight` and `.bias`.
pub struct Names {
    /// Before every name but the head's; a checkpoint may lack it altogether.
    pub prefix: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Position embedding.
    pub positions: &'static str,
    /// Before the names of a layer and its number.
    pub layer: &'static str,
    /// Norm before attention.
    pub norm1: &'static str,
    /// Queries, keys, values: three tensors, or thrice the same for rows of one.
    pub qkv: [&'static str; 3],
    /// Attention's output projection.
    pub o: &'static str,
    /// Norm before the MLP.
    pub norm2: &'static str,
    /// The gate, in gated MLPs.
    pub gate: Option<&'static str>,
    /// Up projection.
    pub up: &'static str,
    /// Down projection: the matrix that edits change.
    pub down: &'static str,
    /// Norm before the head.
    pub norm: &'static str,
    /// The head, outside the prefix.
    pub head: &'static str,
    /// How matrices inside layers are stored.
    pub layout: Layout,
}

/// Every family this version runs.
pub const FAMILIES: [Family; 2] = [
    Family {
        name: "gpt2",
        norm: Kind::Layer,
        learned_positions: true,
        keys: Keys {
            layers: "n_layer",
            width: "n_embd",
            inner: "n_inner",
            queries: "n_head",
            context: "n_positions",
            eps: ("layer_norm_epsilon", 1e-5),
            act: ("activation_function", "gelu_new"),
            tied: true,
            biases: Some(Biases { attention: true, mlp: true }),
        },
        fixed: &[("add_cross_attention", false)],
        names: Names {
            prefix: "transformer.",
            embed: "wte",
            positions: "wpe",
            layer: "h.",
            norm1: "ln_1",
            qkv: ["attn.c_attn"; 3],
            o: "attn.c_proj",
            norm2: "ln_2",
            gate: None,
            up: "mlp.c_fc",
            down: "mlp.c_proj",
            norm: "ln_f",
            head: "lm_head",
            layout: Layout::InOut,
        },
    },
    Family {
        name: "llama",
        norm: Kind::Rms,
        learned_positions: false,
        keys: Keys {
            layers: "num_hidden_layers",
            width: "hidden_size",
            inner: "intermediate_size",
            queries: "num_attention_heads",
            context: "max_position_embeddings",
            eps: ("rms_norm_eps", 1e-6),
            act: ("hidden_act", "silu"),
            tied: false,
            biases: None,
        },
        fixed: &[],
        names: Names {
            prefix: "model.",
            embed: "embed_tokens",
            positions: "",
            layer: "layers.",
            norm1: "input_layernorm",
            qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            o: "self_attn.o_proj",
            norm2: "post_attention_layernorm",
            gate: Some("mlp.gate_proj"),
            up: "mlp.up_proj",
            down: "mlp.down_proj",
            norm: "norm",
            head: "lm_head",
            layout: Layout::OutIn,
        },
    },
];

/// The row of the table and the architecture that a configuration describes.
pub fn read(config: &Config) -> Result<(&'static Family, Arch)> {
    let name = config.text_or("model_type", "")?;
    let Some(family) = FAMILIES.iter().find(|f| f.name == name) else {
        let known: Vec<_> = FAMILIES.iter().map(|f| f.name).collect();
        return Err(Error::input(
            &config.path,
            "model_type",
            format!("`{name}` is not a family this version runs"),
            format!("use a model of one of: {}", known.join(", ")),
        ));
    };
    for &(field, works) in family.fixed {
        if config.switch_or(field, works)? != works {
            let what = format!("only {works} is implemented");
            return Err(Error::input(&config.path, field, what, "use another checkpoint"));
        }
    }
    let keys = &family.keys;
    let (width, queries) = (config.size(keys.width)?, config.size(keys.queries)?);
    if config.get("head_dim").is_none() && width % queries != 0 {
        let what = format!("{queries} heads do not divide the width {width}");
        return Err(config.error(keys.queries, what));
    }
    let head = config.size_or("head_dim", Some(width / queries))?;
    let groups = config.size_or("num_key_value_heads", Some(queries))?;
    if queries % groups != 0 {
        let what = format!("{groups} groups do not divide {queries} heads");
        return Err(config.error("num_key_value_heads", what));
    }
    let context = config.size(keys.context)?;
    let gated = family.names.gate.is_some();
    let arch = Arch {
        family: family.name,
        layers: config.size(keys.layers)?,
        width,
        inner: config.size_or(keys.inner, (!gated).then_some(4 * width))?,
        queries,
        groups,
        head,
        vocabulary: config.size("vocab_size")?,
        context,
        norm: family.norm,
        eps: config.positive_or(keys.eps.0, keys.eps.1)?,
        act: activation(config, keys.act)?,
        positions: match family.learned_positions {
            true => Positions::Learned,
            false => Positions::Rotary(Rotary::read(config, head, context)?),
        },
        scale: Scale {
            by_head: config.switch_or("scale_attn_weights", true)?,
            by_layer: config.switch_or("scale_attn_by_inverse_layer_idx", false)?,
        },
        biases: match keys.biases {
            Some(biases) => biases,
            None => Biases {
                attention: config.switch_or("attention_bias", false)?,
                mlp: config.switch_or("mlp_bias", false)?,
            },
        },
        tied: config.switch_or("tie_word_embeddings", keys.tied)?,
    };
    Ok((family, arch))
}

fn activation(config: &Config, (field, default): (&str, &str)) -> Result<Act> {
    let name = config.text_or(field, default)?;
    match name {
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Act::GeluTanh),
        "relu" => Ok(Act::Relu),
        "silu" | "swish" => Ok(Act::Silu),
        _ => Err(Error::input(
            &config.path,
            field,
            format!("`{name}` is not implemented"),
            "use a model with gelu_new, gelu_pytorch_tanh, relu or silu",
        )),
    }
}
