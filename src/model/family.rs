//! What a row of [`super::families`] says: where a configuration says what, and how a checkpoint
//! names its tensors. A field that a family's framework code does not read is not read here.

use super::arch::{Arch, Biases, Positions, Scale};
use super::config::Config;
use super::families::FAMILIES;
use super::rotary::Rotary;
use crate::base::{Error, Result};
use crate::ops::act::Act;
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;
use crate::tensor::Layout;

/// One row of the table.
pub struct Family {
    /// `model_type`.
    pub name: &'static str,
    pub(super) norm: NormKind,
    pub(super) place: Place,
    pub(super) parallel: Choice,
    pub(super) keys: Keys,
    /// Options that change the forward pass and are not implemented, with the value that is.
    pub(super) fixed: &'static [(&'static str, bool)],
    /// Widths that a configuration may say and that must be D.
    pub(super) as_wide: &'static [&'static str],
    /// Names of tensors.
    pub names: Names,
}

/// The configuration's words.
pub(super) struct Keys {
    pub layers: &'static str,
    pub width: &'static str,
    pub inner: Size, // follows: 4D
    pub queries: &'static str,
    pub groups: Size, // follows: H
    pub head: Size,   // follows: D/H
    pub context: &'static str,
    pub windows: Windows,
    pub eps: Eps,
    pub act: (&'static str, &'static str),
    pub scale_by_head: Choice,
    pub scale_by_layer: Choice,
    pub bias_qkv: Choice,
    pub bias_o: Choice,
    pub bias_mlp: Choice,
    pub bias_head: bool,
    pub tied: bool, // where `tie_word_embeddings` is absent
}

/// A yes or no.
#[derive(Clone, Copy)]
pub(super) enum Choice {
    /// The family's own.
    Is(bool),
    /// The configuration's, in this field; its value where the field is absent.
    Says(&'static str, bool),
}

/// What norms add to the variance.
#[derive(Clone, Copy)]
pub(super) enum Eps {
    /// The family's own.
    Is(f64),
    /// The configuration's, in this field; its value where the field is absent.
    Says(&'static str, f64),
}

/// A size.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// It follows from others.
    Follows,
    /// The configuration may say it; else it follows from others.
    Said(&'static str),
    /// … else it is this; where the field is null, it follows from others.
    SaidOr(&'static str, usize),
    /// The configuration must say it.
    Needed(&'static str),
}

/// How tokens know their place.
pub(super) enum Place {
    /// By a matrix, whose first rows belong to no token.
    Learned { offset: usize },
    /// By turning queries and keys.
    Rotary(Turning, Pairing),
}

/// How many elements of a head turn.
#[derive(Clone, Copy)]
pub(super) enum Turning {
    /// All.
    Whole,
    /// As many as this field says, or this many, at the frequencies of θ = 10,000, never scaled.
    Elements(&'static str, usize),
    /// The share that this field says, or this one.
    Share(&'static str, f64),
}

/// Which layers see only the last tokens.
#[derive(Clone, Copy)]
pub(super) enum Windows {
    /// None.
    None,
    /// All, or those that `layer_types` names: as many tokens as this field says, or this many; all
    /// tokens where it is null.
    Every(&'static str, usize),
    /// With `use_sliding_window` those that `layer_types` names, or all from `max_window_layers`.
    Some,
}

/// Where queries, keys and values are.
pub enum Qkv {
    /// In three tensors.
    Three([&'static str; 3]),
    /// In rows of one: all queries, all keys, all values.
    Stacked(&'static str),
    /// In rows of one: each head's query, key and value.
    ByHead(&'static str),
}

/// A checkpoint's words, without `.weight` and `.bias`.
pub struct Names {
    /// Before every name but the head's; a checkpoint may lack it, or its first parts.
    pub prefix: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Position embedding.
    pub positions: &'static str,
    /// Before the names of a layer and its number.
    pub layer: &'static str,
    /// Norm before attention.
    pub norm1: &'static str,
    /// Queries, keys, values.
    pub qkv: Qkv,
    /// Norms of each query and each key.
    pub head_norms: Option<[&'static str; 2]>,
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
    /// The head, outside the prefix; a checkpoint has one of these.
    pub head: &'static [&'static str],
    /// How matrices inside layers are stored.
    pub layout: Layout,
}

/// The row of the table and the architecture that a configuration describes.
///
/// # Errors
///
/// A family that is not in the table, a field that is missing or out of range, an option that
/// changes the forward pass and is not implemented; each names the field.
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
    family.refuse(config)?;
    Ok((family, family.arch(config)?))
}

impl Family {
    /// Refuses options that change the forward pass and are not implemented.
    fn refuse(&self, config: &Config) -> Result<()> {
        let refused = |field, what| {
            Err(Error::input(&config.path, field, what, "use another checkpoint of this family"))
        };
        for &(field, works) in self.fixed {
            if config.switch_or(field, works)? != works {
                return refused(field, format!("only {works} is implemented"));
            }
        }
        let width = config.size(self.keys.width)?;
        for &field in self.as_wide {
            if config.size_or(field, Some(width))? != width {
                let what = format!("only the model's own width, {width}, is implemented");
                return refused(field, what);
            }
        }
        Ok(())
    }

    fn arch(&self, config: &Config) -> Result<Arch> {
        let keys = &self.keys;
        let (layers, width) = (config.size(keys.layers)?, config.size(keys.width)?);
        // Lists of layers are made before the weights are asked; the deepest have some hundreds.
        if layers > 1 << 16 {
            return Err(config.error(keys.layers, format!("{layers} layers are no real model's")));
        }
        let queries = config.size(keys.queries)?;
        let head = match keys.head.read(config, 0)? {
            0 if width.is_multiple_of(queries) => width / queries,
            0 => {
                let what = format!("{queries} heads do not divide the width {width}");
                return Err(config.error(keys.queries, what));
            }
            said => said,
        };
        let groups = keys.groups.read(config, queries)?;
        if !queries.is_multiple_of(groups) {
            let what = format!("{groups} groups do not divide {queries} heads");
            return Err(config.error("num_key_value_heads", what));
        }
        let context = config.size(keys.context)?;
        Ok(Arch {
            family: self.name,
            layers,
            width,
            inner: keys.inner.read(config, 4 * width)?,
            queries,
            groups,
            head,
            vocabulary: config.size("vocab_size")?,
            context,
            windows: keys.windows.read(config, layers)?,
            norm: self.norm,
            head_norms: self.names.head_norms.is_some(),
            eps: keys.eps.read(config)?,
            act: activation(config, keys.act)?,
            parallel: self.parallel.read(config)?,
            positions: match self.place {
                Place::Learned { .. } => Positions::Learned,
                Place::Rotary(turning, pairing) => {
                    Positions::Rotary(Rotary::read(config, turning, pairing, head, context)?)
                }
            },
            scale: Scale {
                by_head: keys.scale_by_head.read(config)?,
                by_layer: keys.scale_by_layer.read(config)?,
            },
            biases: Biases {
                qkv: keys.bias_qkv.read(config)?,
                o: keys.bias_o.read(config)?,
                mlp: keys.bias_mlp.read(config)?,
                head: keys.bias_head,
            },
            tied: config.switch_or("tie_word_embeddings", keys.tied)?,
        })
    }
}

impl Choice {
    fn read(self, config: &Config) -> Result<bool> {
        match self {
            Choice::Is(choice) => Ok(choice),
            Choice::Says(field, default) => config.switch_or(field, default),
        }
    }
}

impl Eps {
    fn read(self, config: &Config) -> Result<f64> {
        match self {
            Eps::Is(eps) => Ok(eps),
            Eps::Says(field, default) => config.positive_or(field, default),
        }
    }
}

impl Size {
    fn read(self, config: &Config, follows: usize) -> Result<usize> {
        match self {
            Size::Follows => Ok(follows),
            Size::Said(field) => config.size_or(field, Some(follows)),
            Size::SaidOr(field, default) if config.value.get(field).is_none() => Ok(default),
            Size::SaidOr(field, _) => config.size_or(field, Some(follows)),
            Size::Needed(field) => config.size(field),
        }
    }
}

impl Windows {
    /// The window of each layer.
    fn read(self, config: &Config, layers: usize) -> Result<Vec<Option<usize>>> {
        let (window, from) = match self {
            Windows::None => return Ok(vec![None; layers]),
            Windows::Every(field, default) => (Windows::tokens(config, field, default)?, 0.0),
            Windows::Some if config.switch_or("use_sliding_window", false)? => (
                Windows::tokens(config, "sliding_window", 4096)?,
                config.number_or("max_window_layers", 28.0)?,
            ),
            Windows::Some => (None, 0.0),
        };
        let narrow = match config.get("layer_types") {
            None => (0..layers).map(|l| window.is_some() && l as f64 >= from).collect(),
            Some(types) => layer_types(config, types, layers)?,
        };
        if window.is_none() && narrow.contains(&true) {
            let what = "asks for sliding_attention, but sliding_window or use_sliding_window says \
                        that there is none";
            return Err(config.error("layer_types", what));
        }
        Ok(narrow.into_iter().map(|narrow| window.filter(|_| narrow)).collect())
    }

    /// How many tokens a window has; none where the field is null.
    fn tokens(config: &Config, field: &str, default: usize) -> Result<Option<usize>> {
        match config.value.get(field) {
            None => Ok(Some(default)),
            Some(_) => config.get(field).map(|_| config.size(field)).transpose(),
        }
    }
}

/// Which layers have a window.
fn layer_types(config: &Config, types: &serde_json::Value, layers: usize) -> Result<Vec<bool>> {
    let named: Option<Vec<bool>> = types.as_array().and_then(|types| {
        let one = |t: &serde_json::Value| match t.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        types.iter().map(one).collect()
    });
    named.filter(|named| named.len() == layers).ok_or_else(|| {
        let what = format!("is not {layers} times full_attention or sliding_attention");
        config.error("layer_types", what)
    })
}

fn activation(config: &Config, (field, default): (&str, &str)) -> Result<Act> {
    let name = config.text_or(field, default)?;
    match name {
        "gelu" | "gelu_python" => Ok(Act::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Act::GeluTanh),
        "relu" => Ok(Act::Relu),
        "silu" | "swish" => Ok(Act::Silu),
        _ => Err(Error::input(
            &config.path,
            field,
            format!("`{name}` is not implemented"),
            "use a model with gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu or silu",
        )),
    }
}
