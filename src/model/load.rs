//! From a checkpoint to a model: every tensor by name, every size checked, no weight read.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::arch::{Arch, Positions};
use super::config::Config;
use super::families::{self, Family};
use crate::base::{Error, Result};
use crate::linalg::vector::dot;
use crate::ops::attention::Heads;
use crate::ops::norm::{Kind, Norm};
use crate::store::{Checkpoint, StoredTensor, model_fingerprint};
use crate::tensor::{Device, Layout, Precision, Tensor, Weight};

/// A decoder with its weights. Cloning shares them.
#[derive(Clone)]
pub struct Model {
    /// Sizes and choices.
    pub arch: Arch,
    /// The type it computes in.
    pub precision: Precision,
    /// Token embedding (V, D).
    pub embed: Weight,
    /// Position embedding (context, D), where positions are learned.
    pub positions: Option<Weight>,
    /// The layers, first one first.
    pub layers: Vec<Arc<Layer>>,
    /// Before the head.
    pub norm: Norm,
    /// (V, D).
    pub head: Linear,
    editable: Vec<Editable>,
}

/// y = x Wᵀ + b.
#[derive(Clone)]
pub struct Linear {
    /// (out, in).
    pub w: Weight,
    /// (out).
    pub b: Option<Tensor>,
}

/// The weights of one layer.
#[derive(Clone)]
pub struct Layer {
    /// Before attention.
    pub norm1: Norm,
    /// (H·E, D).
    pub q: Linear,
    /// (G·E, D).
    pub k: Linear,
    /// (G·E, D).
    pub v: Linear,
    /// (D, H·E).
    pub o: Linear,
    /// Before the MLP.
    pub norm2: Norm,
    /// (F, D), in gated MLPs.
    pub gate: Option<Linear>,
    /// (F, D).
    pub up: Linear,
    /// (D, F): what edits change.
    pub down: Linear,
    /// H, G, E and the scale of the scores.
    pub heads: Heads,
}

/// What the store must know of a matrix that edits change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Editable {
    /// Its name in the checkpoint.
    pub tensor: String,
    /// The framework's path of its module, with the prefix even where the checkpoint lacks it.
    pub module: String,
    /// Whether it is stored (in, out).
    pub fan_in_fan_out: bool,
    /// D.
    pub out: usize,
    /// F.
    pub inner: usize,
}

impl Model {
    /// The model of a checkpoint, computing in f32.
    pub fn open(checkpoint: &Checkpoint, device: &Device) -> Result<Model> {
        device.ready()?;
        Model::load(checkpoint, Precision::F32)
    }

    /// The model of a checkpoint in a chosen precision.
    pub fn load(checkpoint: &Checkpoint, precision: Precision) -> Result<Model> {
        let (family, arch) = read_arch(checkpoint)?;
        Loader::new(checkpoint, family, &arch, precision).model()
    }

    /// The matrix that edits of layer l change.
    pub fn editable(&self, l: usize) -> &Editable {
        &self.editable[l]
    }

    /// W k + b of layer l's down projection, in f64: k (F), result (D).
    pub fn down(&self, l: usize, k: &[f64]) -> Vec<f64> {
        let Linear { w, b } = &self.layers[l].down;
        let [out, inner] = w.dims();
        let mut row = vec![0.0; inner];
        let mut m = b.as_ref().map_or(vec![0.0; out], Tensor::to_f64);
        for (i, m) in m.iter_mut().enumerate() {
            w.row(i, &mut row);
            *m += dot(&row, k);
        }
        m
    }

    /// The same model with another down projection in layer l: W (D, F), kept in f64 by a model
    /// that computes in it.
    pub fn with_down(&self, l: usize, w: Vec<f64>) -> Model {
        let [out, inner] = self.layers[l].down.w.dims();
        let w = match self.precision {
            Precision::F32 => {
                Weight::dense_f32(w.into_iter().map(|w| w as f32).collect(), out, inner)
            }
            Precision::F64 => Weight::dense_f64(w, out, inner),
        };
        let mut model = self.clone();
        Arc::make_mut(&mut model.layers[l]).down.w = w;
        model
    }
}

/// The fingerprint of a checkpoint's model, which leaves out the down projections: an edited
/// checkpoint has that of its base.
///
/// # Errors
///
/// A configuration that is not of a family we run.
pub fn fingerprint(checkpoint: &Checkpoint) -> Result<String> {
    let (family, arch) = read_arch(checkpoint)?;
    let loader = Loader::new(checkpoint, family, &arch, Precision::F32);
    let down = |l| loader.layer_name(l, family.names.down) + ".weight";
    let editable: HashSet<String> = (0..arch.layers).map(down).collect();
    Ok(model_fingerprint(checkpoint, &|name| editable.contains(name)))
}

fn read_arch(checkpoint: &Checkpoint) -> Result<(&'static Family, Arch)> {
    let path = checkpoint.dir().join("config.json");
    families::read(&Config { value: checkpoint.config(), path })
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    family: &'static Family,
    arch: &'a Arch,
    precision: Precision,
    prefix: &'static str, // as this checkpoint has it
}

impl<'a> Loader<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        family: &'static Family,
        arch: &'a Arch,
        precision: Precision,
    ) -> Self {
        let names = &family.names;
        let bare = checkpoint.entry(&format!("{}.weight", names.embed)).is_some();
        let prefix = if bare { "" } else { names.prefix };
        Loader { checkpoint, family, arch, precision, prefix }
    }

    fn model(&self) -> Result<Model> {
        let (names, a) = (&self.family.names, self.arch);
        let beyond = self.layer_name(a.layers, names.norm1) + ".weight";
        if self.checkpoint.entry(&beyond).is_some() {
            let what = format!("config.json tells of {} layers, and here is one more", a.layers);
            let remedy = "compare config.json with the checkpoint: they are of two models";
            return Err(Error::input(self.checkpoint.dir(), beyond, what, remedy));
        }
        let embed_name = format!("{}{}", self.prefix, names.embed);
        let embed = self.matrix(&embed_name, Layout::OutIn, [a.vocabulary, a.width])?;
        let positions = match a.positions {
            Positions::Rotary(_) => None,
            Positions::Learned => {
                let name = format!("{}{}", self.prefix, names.positions);
                Some(self.matrix(&name, Layout::OutIn, [a.context, a.width])?)
            }
        };
        let head = match a.tied {
            true => Linear { w: embed.clone(), b: None },
            false => self.linear(names.head, Layout::OutIn, [a.vocabulary, a.width], false)?,
        };
        let layers = (0..a.layers).map(|l| self.layer(l).map(Arc::new)).collect::<Result<_>>()?;
        Ok(Model {
            arch: a.clone(),
            precision: self.precision,
            embed,
            positions,
            layers,
            norm: self.norm(&format!("{}{}", self.prefix, names.norm))?,
            head,
            editable: (0..a.layers).map(|l| self.editable(l)).collect(),
        })
    }

    fn layer(&self, l: usize) -> Result<Layer> {
        let (names, a) = (&self.family.names, self.arch);
        let linear = |name, out, inner, biased| {
            self.linear(&self.layer_name(l, name), names.layout, [out, inner], biased)
        };
        let (qw, kw) = (a.queries * a.head, a.groups * a.head);
        let (attention, mlp) = (a.biases.attention, a.biases.mlp);
        let [q, k, v] = match names.qkv {
            [q, k, _] if q == k => self.fused(&self.layer_name(l, q), [qw, kw, kw], attention)?,
            [q, k, v] => [
                linear(q, qw, a.width, attention)?,
                linear(k, kw, a.width, attention)?,
                linear(v, kw, a.width, attention)?,
            ],
        };
        Ok(Layer {
            norm1: self.norm(&self.layer_name(l, names.norm1))?,
            q,
            k,
            v,
            o: linear(names.o, a.width, qw, attention)?,
            norm2: self.norm(&self.layer_name(l, names.norm2))?,
            gate: names.gate.map(|gate| linear(gate, a.inner, a.width, mlp)).transpose()?,
            up: linear(names.up, a.inner, a.width, mlp)?,
            down: linear(names.down, a.width, a.inner, mlp)?,
            heads: Heads { queries: a.queries, groups: a.groups, width: a.head, scale: a.scale(l) },
        })
    }

    fn layer_name(&self, l: usize, name: &str) -> String {
        format!("{}{}{l}.{name}", self.prefix, self.family.names.layer)
    }

    fn editable(&self, l: usize) -> Editable {
        let names = &self.family.names;
        Editable {
            tensor: self.layer_name(l, names.down) + ".weight",
            module: format!("{}{}{l}.{}", names.prefix, names.layer, names.down),
            fan_in_fan_out: names.layout == Layout::InOut,
            out: self.arch.width,
            inner: self.arch.inner,
        }
    }

    /// A tensor of the given stored shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<StoredTensor> {
        let config = "compare config.json with the checkpoint: they are of two models";
        let dir = self.checkpoint.dir();
        let tensor = self
            .checkpoint
            .tensor(name)?
            .ok_or_else(|| Error::input(dir, name, "no such tensor", config))?;
        if tensor.shape != shape {
            let what = format!("has the shape {:?}, not {shape:?}", tensor.shape);
            return Err(Error::input(dir, name, what, config));
        }
        Ok(tensor)
    }

    fn matrix(&self, name: &str, layout: Layout, [out, inner]: [usize; 2]) -> Result<Weight> {
        let shape = if layout == Layout::OutIn { [out, inner] } else { [inner, out] };
        let t = self.tensor(&format!("{name}.weight"), &shape)?;
        Ok(Weight::stored(Arc::new(t.bytes), t.dtype, layout, [out, inner]))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Tensor> {
        let t = self.tensor(name, &[len])?;
        let mut wide = vec![0.0f64; len];
        t.dtype.widen(t.bytes.as_ref(), &mut wide);
        Ok(Tensor::of(self.precision, &[len], &wide))
    }

    fn linear(&self, name: &str, layout: Layout, size: [usize; 2], biased: bool) -> Result<Linear> {
        let b = biased.then(|| self.vector(&format!("{name}.bias"), size[0])).transpose()?;
        Ok(Linear { w: self.matrix(name, layout, size)?, b })
    }

    /// Projections stored as consecutive rows of one matrix.
    fn fused(&self, name: &str, outs: [usize; 3], biased: bool) -> Result<[Linear; 3]> {
        let (all, inner) = (outs.iter().sum(), self.arch.width);
        let whole = self.linear(name, self.family.names.layout, [all, inner], biased)?;
        let bias = whole.b.map(|b| b.to_f64());
        let mut from = 0;
        Ok(outs.map(|out| {
            let rows = from..from + out;
            from += out;
            let b = bias.as_ref().map(|b| Tensor::of(self.precision, &[out], &b[rows.clone()]));
            Linear { w: whole.w.slice(rows), b }
        }))
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let width = self.arch.width;
        Ok(Norm {
            kind: self.arch.norm,
            eps: self.arch.eps,
            gain: self.vector(&format!("{name}.weight"), width)?,
            bias: match self.arch.norm {
                Kind::Layer => Some(self.vector(&format!("{name}.bias"), width)?),
                Kind::Rms => None,
            },
        })
    }
}

/// The checkpoint of a folder and its model.
pub fn open(dir: &Path, device: &Device) -> Result<(Checkpoint, Model)> {
    let checkpoint = Checkpoint::open(dir)?;
    let model = Model::open(&checkpoint, device)?;
    Ok((checkpoint, model))
}
