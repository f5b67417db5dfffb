//! What a row of [`super::families`] contains: under which fields a configuration states its sizes
//! and options, and how a checkpoint names its tensors. A field that a family's framework code does
//! not read is not read here.

use super::arch::{Arch, Biases, Caps, Gain, NormPlace, Positions, QkNorm, Scales};
use super::config::Config;
use super::fields::{Activation, Cap, Dim, Eps, Factor, Flag, ScoreFactor, Windows};
use super::rotary::{RotaryKeys, RotarySizes, RotaryTables};
use crate::base::{Error, Result};
use crate::ops::norm::NormKind;
use crate::tensor::Layout;

/// One row of the table.
pub struct Family {
    /// `model_type`.
    pub name: &'static str,
    pub(super) norm: NormKind,
    pub(super) gain: Gain,
    pub(super) norm_bias: bool,
    pub(super) qk_norm: QkNorm,
    pub(super) positions: PositionEncoding,
    pub(super) parallel: Flag,
    pub(super) keys: ConfigKeys,
    /// Options that change the forward pass, with the only value that is implemented.
    pub(super) fixed: &'static [(&'static str, bool)],
    /// Options that change the forward pass and are not implemented: absent, or null.
    pub(super) absent: &'static [&'static str],
    /// Options without which the framework takes what no other family does: to be said.
    pub(super) required: &'static [&'static str],
    /// Widths that a configuration may set and that must equal D.
    pub(super) as_wide: &'static [&'static str],
    /// Sizes that the framework takes where a configuration does not say them.
    pub(super) defaults: &'static [(&'static str, usize)],
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
    pub act: Activation,
    pub score: ScoreFactor,
    pub score_by_layer: Flag,
    pub embed: Factor,
    pub residual: Factor,
    pub logits: Factor,
    pub score_cap: Cap,
    pub logit_cap: Cap,
    pub bias_qkv: Flag,
    pub bias_o: Flag,
    pub bias_mlp: Flag,
    pub bias_head: bool,
    pub tie_embeddings: bool, // where `tie_word_embeddings` is absent
}

/// Position encoding.
#[derive(Clone, Copy)]
pub(super) enum PositionEncoding {
    /// A learned embedding, whose first `offset` rows belong to no token.
    Learned { offset: usize },
    /// Rotary (RoPE).
    Rotary(RotaryKeys),
}

/// Where queries, keys and values are stored.
pub enum Qkv {
    /// In three tensors.
    Three([&'static str; 3]),
    /// In the rows of one: all queries, all keys, all values.
    Stacked(&'static str),
    /// In the rows of one, group by group: its queries, its key, its value.
    ByGroup(&'static str),
}

/// Where the matrices that read the stream are stored, of an MLP.
pub enum UpNames {
    /// Up alone.
    Up(&'static str),
    /// Gate and up.
    Gated([&'static str; 2]),
    /// In the rows of one: the gate's, and then up's.
    Stacked(&'static str),
}

/// The norms before and behind a branch, where it has them.
#[derive(Clone, Copy)]
pub struct BranchNorms {
    /// Of what the branch reads.
    pub before: Option<&'static str>,
    /// Of what it adds to the stream.
    pub behind: Option<&'static str>,
}

/// Tensor names in a checkpoint, without `.weight` and `.bias`.
pub struct Names {
    /// Before every name but the head's; a checkpoint may omit it, or its first parts. Inside a
    /// wrapper it is another ([`super::families`]).
    pub prefix: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Position embedding.
    pub positions: &'static str,
    /// Before a layer's number and the names inside it.
    pub layer: &'static str,
    /// Norms of what attention reads, and of what it adds to the stream.
    pub norm1: BranchNorms,
    /// Queries, keys, values.
    pub qkv: Qkv,
    /// Norms of q and of k, where there are any.
    pub qk_norm: [&'static str; 2],
    /// Attention's output projection.
    pub o: &'static str,
    /// The same of the MLP.
    pub norm2: BranchNorms,
    /// Gate and up projection.
    pub up: UpNames,
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
    /// The field of the configuration that says F; nothing where it is derived, or the same always.
    pub fn inner_field(&self) -> Option<&'static str> {
        match self.keys.inner {
            Dim::Config(field) | Dim::ConfigOr(field, _) | Dim::Required(field) => Some(field),
            Dim::Derived | Dim::Const(_) => None,
        }
    }

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
        let windows = keys.windows.read(config, layers)?;
        let (positions, turned_by, max_positions) = match self.positions {
            PositionEncoding::Learned { .. } => {
                (Positions::Learned, vec![None; layers], max_positions)
            }
            PositionEncoding::Rotary(rotary) => {
                let sizes = RotarySizes { head_dim, max_positions, windows: &windows };
                let read = RotaryTables::read(config, rotary, sizes)?;
                (Positions::Rotary(read.tables), read.of, read.max_positions)
            }
        };
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
            windows,
            norm: self.norm,
            norms: self.names.norm2.place(),
            gain: self.gain,
            qk_norm: self.qk_norm,
            eps: keys.eps.read(config)?,
            act: keys.act.read(config)?,
            parallel: self.parallel.read(config)?,
            positions,
            turned_by,
            scales: self.scales(config, head_dim, width)?,
            caps: Caps {
                scores: keys.score_cap.read(config)?,
                logits: keys.logit_cap.read(config)?,
            },
            biases: Biases {
                qkv: keys.bias_qkv.read(config)?,
                o: keys.bias_o.read(config)?,
                mlp: keys.bias_mlp.read(config)?,
                norm: self.norm_bias,
                head: keys.bias_head,
            },
            tie_embeddings: config.bool_or("tie_word_embeddings", keys.tie_embeddings)?,
        })
    }

    /// What is multiplied.
    fn scales(&self, config: &Config, head_dim: usize, width: usize) -> Result<Scales> {
        let keys = &self.keys;
        Ok(Scales {
            score: keys.score.read(config, head_dim)?,
            score_by_layer: keys.score_by_layer.read(config)?,
            embed: keys.embed.read(config, width)?,
            residual: keys.residual.read(config, width)?,
            logits: keys.logits.read(config, width)?,
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
        if let Some(&field) = self.absent.iter().find(|field| config.get(field).is_some()) {
            return refused(field, "is not implemented".to_owned());
        }
        if let Some(&field) = self.required.iter().find(|field| config.get(field).is_none()) {
            return Err(config.error(field, format!("is missing, and `{}` needs it", self.name)));
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

impl BranchNorms {
    /// One before the branch.
    pub(super) const fn before(name: &'static str) -> BranchNorms {
        BranchNorms { before: Some(name), behind: None }
    }

    /// One behind it.
    pub(super) const fn behind(name: &'static str) -> BranchNorms {
        BranchNorms { before: None, behind: Some(name) }
    }

    /// One on either side.
    pub(super) const fn both([before, behind]: [&'static str; 2]) -> BranchNorms {
        BranchNorms { before: Some(before), behind: Some(behind) }
    }

    /// Where they are.
    fn place(self) -> NormPlace {
        match self.behind {
            None => NormPlace::Before,
            Some(_) => NormPlace::Behind,
        }
    }
}

impl UpNames {
    /// Whether there is a gate.
    pub fn is_gated(&self) -> bool {
        !matches!(self, UpNames::Up(_))
    }
}
