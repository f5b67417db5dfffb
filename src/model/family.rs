//! What a row of [`super::families`] contains: under which fields a configuration states its sizes
//! and options, and how a checkpoint names its tensors. A field that a family's framework code does
//! not read is not read here.

use super::arch::{Arch, Biases, NormPlace, Positions, QkNorm, Scale};
use super::config::Config;
use super::rotary::{Rotary, RotaryDim};
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
    pub(super) norms: NormPlace,
    pub(super) qk_norm: QkNorm,
    pub(super) positions: PositionEncoding,
    pub(super) parallel: Flag,
    pub(super) keys: ConfigKeys,
    /// Options that change the forward pass, with the only value that is implemented.
    pub(super) fixed: &'static [(&'static str, bool)],
    /// Widths that a configuration may set and that must equal D.
    pub(super) as_wide: &'static [&'static str],
    /// Names of tensors.
    pub names: Names,
}

/// The names that the framework reads a size under, its own first.
type Aliases = &'static [&'static str];

/// The fields of `config.json`.
pub(super) struct ConfigKeys {
    pub layers: Aliases,
    pub width: Aliases,
    pub inner: Dim, // derived: 4D
    pub n_heads: Aliases,
    pub n_kv_heads: Dim, // derived: H
    pub head_dim: Dim,   // derived: D/H
    pub max_positions: Aliases,
    pub windows: Windows,
    pub eps: Eps,
    pub act: (&'static str, &'static str),
    pub scale_by_head: Flag,
    pub scale_by_layer: Flag,
    pub bias_qkv: Flag,
    pub bias_o: Flag,
    pub bias_mlp: Flag,
    pub bias_head: bool,
    pub tie_embeddings: bool, // where `tie_word_embeddings` is absent
}

/// An option that is on or off.
#[derive(Clone, Copy)]
pub(super) enum Flag {
    /// The same in every model of the family.
    Const(bool),
    /// This field of the configuration, with the default where it is absent.
    Config(&'static str, bool),
}

/// What norms add to the variance.
#[derive(Clone, Copy)]
pub(super) enum Eps {
    /// The same in every model of the family.
    Const(f64),
    /// This field of the configuration, with the default where it is absent.
    Config(&'static str, f64),
}

/// A size.
#[derive(Clone, Copy)]
pub(super) enum Dim {
    /// Derived from other sizes.
    Derived,
    /// This field of the configuration; derived where it is absent or null.
    Config(&'static str),
    /// This field of the configuration; the default where it is absent, derived where it is null.
    ConfigOr(&'static str, usize),
    /// This field of the configuration, which must be there.
    Required(&'static str),
}

/// Position encoding.
pub(super) enum PositionEncoding {
    /// A learned embedding, whose first `offset` rows belong to no token.
    Learned { offset: usize },
    /// Rotary (RoPE).
    Rotary(RotaryDim, Pairing),
}

/// Which layers use sliding-window attention.
#[derive(Clone, Copy)]
pub(super) enum Windows {
    /// None.
    None,
    /// All, or those that `layer_types` names. This field gives the window in tokens, with the
    /// default where it is absent; where it is null, attention is full.
    Every(&'static str, usize),
    /// If `use_sliding_window` is set, those that `layer_types` names, or all from
    /// `max_window_layers` on.
    Some,
}

/// Where queries, keys and values are stored.
pub enum Qkv {
    /// In three tensors.
    Three([&'static str; 3]),
    /// In the rows of one: all queries, all keys, all values.
    Stacked(&'static str),
    /// In the rows of one, head by head: its query, its key, its value.
    ByHead(&'static str),
}

/// Tensor names in a checkpoint, without `.weight` and `.bias`.
pub struct Names {
    /// Before every name but the head's; a checkpoint may omit it, or its first parts.
    pub prefix: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Position embedding.
    pub positions: &'static str,
    /// Before a layer's number and the names inside it.
    pub layer: &'static str,
    /// Attention's norm.
    pub norm1: &'static str,
    /// Queries, keys, values.
    pub qkv: Qkv,
    /// Norms of q and of k, where there are any.
    pub qk_norm: [&'static str; 2],
    /// Attention's output projection.
    pub o: &'static str,
    /// The MLP's norm.
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

impl Family {
    /// The architecture that a configuration of this family describes.
    ///
    /// # Errors
    ///
    /// A field that is missing or out of range, an option that changes the forward pass and is not
    /// implemented; each names the field.
    pub fn arch(&self, config: &Config) -> Result<Arch> {
        self.refuse_unimplemented(config)?;
        let keys = &self.keys;
        let layers = config.aliased(keys.layers)?;
        // Per-layer lists are allocated before any weight is looked up; the deepest real models
        // have a few hundred layers.
        if layers > 1 << 16 {
            return Err(
                config.error(keys.layers[0], format!("{layers} layers are no real model's"))
            );
        }
        let width = config.aliased(keys.width)?;
        let n_heads = config.aliased(keys.n_heads)?;
        let head_dim = self.head_dim(config, width, n_heads)?;
        let n_kv_heads = keys.n_kv_heads.read(config, n_heads)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            let what = format!("{n_kv_heads} key/value heads do not divide {n_heads} heads");
            return Err(config.error("num_key_value_heads", what));
        }
        let max_positions = config.aliased(keys.max_positions)?;
        Ok(Arch {
            family: self.name,
            layers,
            width,
            inner: keys.inner.read(config, 4 * width)?,
            n_heads,
            n_kv_heads,
            head_dim,
            vocabulary: config.size("vocab_size")?,
            max_positions,
            windows: keys.windows.read(config, layers)?,
            norm: self.norm,
            norms: self.norms,
            qk_norm: self.qk_norm,
            eps: keys.eps.read(config)?,
            act: activation(config, keys.act)?,
            parallel: self.parallel.read(config)?,
            positions: match self.positions {
                PositionEncoding::Learned { .. } => Positions::Learned,
                PositionEncoding::Rotary(dim, pairing) => {
                    let rotary = Rotary::read(config, dim, pairing, head_dim, max_positions)?;
                    Positions::Rotary(vec![rotary])
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
            tie_embeddings: config.bool_or("tie_word_embeddings", keys.tie_embeddings)?,
        })
    }

    /// Refuses options that change the forward pass and are not implemented.
    fn refuse_unimplemented(&self, config: &Config) -> Result<()> {
        let refused = |field, what| {
            Err(Error::input(&config.path, field, what, "use another checkpoint of this family"))
        };
        for &(field, implemented) in self.fixed {
            if config.bool_or(field, implemented)? != implemented {
                return refused(field, format!("only {implemented} is implemented"));
            }
        }
        let width = config.aliased(self.keys.width)?;
        for &field in self.as_wide {
            if config.size_or(field, Some(width))? != width {
                let what = format!("only the model's own width, {width}, is implemented");
                return refused(field, what);
            }
        }
        Ok(())
    }

    /// E, as the configuration gives it or as D/H.
    fn head_dim(&self, config: &Config, width: usize, n_heads: usize) -> Result<usize> {
        match self.keys.head_dim.read(config, 0)? {
            0 if width.is_multiple_of(n_heads) => Ok(width / n_heads),
            0 => {
                let what = format!("{n_heads} heads do not divide the width {width}");
                Err(config.error(self.keys.n_heads[0], what))
            }
            given => Ok(given),
        }
    }
}

impl Flag {
    fn read(self, config: &Config) -> Result<bool> {
        match self {
            Flag::Const(value) => Ok(value),
            Flag::Config(field, default) => config.bool_or(field, default),
        }
    }
}

impl Eps {
    fn read(self, config: &Config) -> Result<f64> {
        match self {
            Eps::Const(eps) => Ok(eps),
            Eps::Config(field, default) => config.positive_or(field, default),
        }
    }
}

impl Dim {
    fn read(self, config: &Config, derived: usize) -> Result<usize> {
        match self {
            Dim::Derived => Ok(derived),
            Dim::Config(field) => config.size_or(field, Some(derived)),
            Dim::ConfigOr(field, default) if config.value.get(field).is_none() => Ok(default),
            Dim::ConfigOr(field, _) => config.size_or(field, Some(derived)),
            Dim::Required(field) => config.size(field),
        }
    }
}

impl Windows {
    /// The window of each layer.
    fn read(self, config: &Config, layers: usize) -> Result<Vec<Option<usize>>> {
        let (window, from) = match self {
            Windows::None => return Ok(vec![None; layers]),
            Windows::Every(field, default) => (Windows::tokens(config, field, default)?, 0.0),
            Windows::Some if config.bool_or("use_sliding_window", false)? => (
                Windows::tokens(config, "sliding_window", 4096)?,
                config.number_or("max_window_layers", 28.0)?,
            ),
            Windows::Some => (None, 0.0),
        };
        let sliding = match config.get("layer_types") {
            None => (0..layers).map(|l| window.is_some() && l as f64 >= from).collect(),
            Some(types) => layer_types(config, types, layers)?,
        };
        if window.is_none() && sliding.contains(&true) {
            let what = "asks for sliding_attention, but by sliding_window or use_sliding_window \
                        there is no window";
            return Err(config.error("layer_types", what));
        }
        Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
    }

    /// The size of the window in tokens; none where the field is null.
    fn tokens(config: &Config, field: &str, default: usize) -> Result<Option<usize>> {
        match config.value.get(field) {
            None => Ok(Some(default)),
            Some(_) => config.get(field).map(|_| config.size(field)).transpose(),
        }
    }
}

/// Which layers have a window, by `layer_types`.
fn layer_types(config: &Config, types: &serde_json::Value, layers: usize) -> Result<Vec<bool>> {
    let sliding = |name: &serde_json::Value| match name.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let each: Option<Vec<bool>> =
        types.as_array().and_then(|types| types.iter().map(sliding).collect());
    each.filter(|each| each.len() == layers).ok_or_else(|| {
        let what = format!("is not {layers} times full_attention or sliding_attention");
        config.error("layer_types", what)
    })
}

fn activation(config: &Config, (field, default): (&str, &str)) -> Result<Act> {
    let name = config.string_or(field, default)?;
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
