//! From a checkpoint to a model: every tensor by name, every size checked, no weight read.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::arch::Arch;
use super::config::Config;
use super::family::{self, Family, Names, Place, Qkv};
use crate::base::rescue;
use crate::base::{Error, Result};
use crate::linalg::vector::dot;
use crate::ops::attention::Heads;
use crate::ops::norm::{Kind, Norm};
use crate::store::{Checkpoint, StoredTensor, model_fingerprint, same_sample};
use crate::tensor::{Compute, Device, Layout, Precision, Tensor, Weight};

/// A decoder with its weights. Cloning shares them.
///
/// On a device without room, what returns a `Result` says so; what returns none unwinds to
/// [`rescue`].
#[derive(Clone)]
pub struct Model {
    /// Sizes and choices.
    pub arch: Arch,
    /// Where and in which type it computes.
    pub compute: Compute,
    /// Whether a search's steps may take fast products, where there are such.
    pub fast: bool,
    /// Further devices that share facts and text with it.
    pub peers: Vec<Compute>,
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
    pub(super) editable: Vec<Editable>,
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
    /// Of each query and each key (E), where the family has them.
    pub head_norms: Option<[Norm; 2]>,
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
    /// The model of a checkpoint, computing in f32 on a device.
    ///
    /// # Errors
    ///
    /// A device that does not start; as [`load`](Model::load).
    pub fn open(checkpoint: &Checkpoint, device: &Device) -> Result<Model> {
        let mut devices = device.start()?.into_iter();
        let mut model = Model::load(checkpoint, devices.next().expect("at least one"))?;
        model.peers = devices.collect();
        Ok(model)
    }

    /// The model of a checkpoint, computing where and in which type is said.
    ///
    /// # Errors
    ///
    /// A configuration that is not of a family we run; a tensor that is missing, of another shape
    /// or of a type we do not compute with; one of the layers that the configuration does not tell
    /// of; a stored head that differs from the embedding it is tied to.
    pub fn load(checkpoint: &Checkpoint, compute: impl Into<Compute>) -> Result<Model> {
        let (family, arch) = read_arch(checkpoint)?;
        rescue(|| Loader::new(checkpoint, family, &arch, compute.into()).model())
    }

    /// The matrix that edits of layer l change.
    pub fn editable(&self, l: usize) -> &Editable {
        &self.editable[l]
    }

    /// The same model, as a search's steps compute.
    pub fn stepping(&self) -> Model {
        Model { compute: self.steps(), ..self.clone() }
    }

    /// Where and how a search's steps compute.
    pub fn steps(&self) -> Compute {
        if self.fast { self.compute.fast() } else { self.compute.clone() }
    }

    /// How many weights a layer has.
    pub fn weights_a_layer(&self) -> usize {
        let layer = &self.layers[0];
        let linears = [&layer.q, &layer.k, &layer.v, &layer.o, &layer.up, &layer.down];
        let size = |linear: &Linear| linear.w.dims().iter().product::<usize>();
        linears.into_iter().chain(&layer.gate).map(size).sum()
    }

    /// Bytes of the weights as they are stored.
    fn bytes(&self) -> u64 {
        let layer = |l: &Layer| -> u64 {
            let linears = [&l.q, &l.k, &l.v, &l.o, &l.up, &l.down].into_iter().chain(&l.gate);
            linears.map(|linear| linear.w.bytes()).sum()
        };
        let embeddings = self.embed.bytes() + self.positions.as_ref().map_or(0, Weight::bytes);
        let head = if self.arch.tied { 0 } else { self.head.w.bytes() };
        self.layers.iter().map(|l| layer(l)).sum::<u64>() + embeddings + head
    }

    /// Whether weights come and go on the device: they would leave a quarter of it or less.
    pub fn streams(&self) -> bool {
        self.compute.engine().is_some_and(|e| self.bytes() > e.memory().limit / 4 * 3)
    }

    /// Bytes of a device that are left for other things, once the weights are there; nothing on
    /// the host. Weights that come and go have half of the device.
    pub fn spare(&self) -> Option<u64> {
        let limit = self.compute.engine()?.memory().limit;
        let weights = if self.streams() { limit / 2 } else { self.bytes() };
        Some((limit - weights) / 4 * 3)
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
        let w = match self.compute.precision() {
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
    let loader = Loader::new(checkpoint, family, &arch, Precision::F32.into());
    let down = |l| loader.layer_name(l, family.names.down) + ".weight";
    let editable: HashSet<String> = (0..arch.layers).map(down).collect();
    model_fingerprint(checkpoint, &|name| editable.contains(name))
}

fn read_arch(checkpoint: &Checkpoint) -> Result<(&'static Family, Arch)> {
    let path = checkpoint.dir().join("config.json");
    family::read(&Config { value: checkpoint.config(), path })
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    family: &'static Family,
    arch: &'a Arch,
    compute: Compute,
    prefix: &'static str,            // as this checkpoint has it
    asked: RefCell<HashSet<String>>, // names of tensors
}

const TWO_MODELS: &str = "compare config.json with the checkpoint: they are of two models";

/// What layers of old checkpoints hold and no code reads: masks, and frequencies made anew.
const BUFFERS: [&str; 5] = [
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "rotary_emb.inv_freq",
];

impl<'a> Loader<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        family: &'static Family,
        arch: &'a Arch,
        compute: Compute,
    ) -> Self {
        let names = &family.names;
        let has =
            |prefix: &str| checkpoint.entry(&format!("{prefix}{}.weight", names.embed)).is_some();
        let ends = names.prefix.match_indices('.').map(|(dot, _)| &names.prefix[dot + 1..]);
        let prefix = ends.into_iter().find(|prefix| has(prefix)).unwrap_or(names.prefix);
        Loader { checkpoint, family, arch, compute, prefix, asked: RefCell::default() }
    }

    fn model(&self) -> Result<Model> {
        let (names, a) = (&self.family.names, self.arch);
        let beyond = self.layer_name(a.layers, names.norm1) + ".weight";
        if self.checkpoint.entry(&beyond).is_some() {
            let what = format!("config.json tells of {} layers, and here is one more", a.layers);
            return Err(Error::input(self.checkpoint.dir(), beyond, what, TWO_MODELS));
        }
        let embed_name = format!("{}{}", self.prefix, names.embed);
        let embed = self.matrix(&embed_name, Layout::OutIn, [a.vocabulary, a.width])?;
        let positions = match self.family.place {
            Place::Rotary(..) => None,
            Place::Learned { offset } => {
                let (name, rows) =
                    (format!("{}{}", self.prefix, names.positions), offset..offset + a.context);
                Some(self.matrix(&name, Layout::OutIn, [rows.end, a.width])?.slice(rows))
            }
        };
        let has = |name: &&&str| self.checkpoint.entry(&format!("{name}.weight")).is_some();
        let head_name = names.head.iter().find(has).unwrap_or(&names.head[0]);
        let head = Linear {
            w: match a.tied {
                true => {
                    self.tied_to(&format!("{embed_name}.weight"))?;
                    embed.clone()
                }
                false => self.matrix(head_name, Layout::OutIn, [a.vocabulary, a.width])?,
            },
            b: self.bias(head_name, a.vocabulary, a.biases.head)?,
        };
        let layers = (0..a.layers).map(|l| self.layer(l).map(Arc::new)).collect::<Result<_>>()?;
        self.nothing_unread()?;
        Ok(Model {
            arch: a.clone(),
            compute: self.compute.clone(),
            fast: false,
            peers: Vec::new(),
            embed,
            positions,
            layers,
            norm: self.norm(&format!("{}{}", self.prefix, names.norm), a.norm, a.width)?,
            head,
            editable: (0..a.layers).map(|l| self.editable(l)).collect(),
        })
    }

    /// Refuses a stored head that is not the embedding where the configuration says it is. As many
    /// bytes of the two are compared as enter a fingerprint, so a head that differs in a few rows
    /// only may pass.
    fn tied_to(&self, embed: &str) -> Result<()> {
        for head in self.family.names.head.iter().map(|head| format!("{head}.weight")) {
            let stored = [embed, &head].map(|name| self.checkpoint.entry(name));
            let [Some((of, e)), Some((by, h))] = stored else { continue };
            let alike = e.dtype == h.dtype && e.shape == h.shape;
            if !alike || !same_sample(&of.bytes(&e.range), &by.bytes(&h.range))? {
                let what = format!("is stored and differs from {embed}, and config.json ties them");
                let remedy = "say \"tie_word_embeddings\": false in config.json if the head is the \
                              model's own, else take it out of the checkpoint";
                return Err(Error::input(self.checkpoint.dir(), head, what, remedy));
            }
        }
        Ok(())
    }

    /// Refuses a tensor of the layers that no line above asked for: a bias that the configuration
    /// switches off, another family's norms, an adapter. The model without it is another one.
    fn nothing_unread(&self) -> Result<()> {
        let (asked, ours) =
            (self.asked.borrow(), format!("{}{}", self.prefix, self.family.names.layer));
        let unread = |name: &&str| {
            let buffer = || BUFFERS.iter().any(|buffer| name.ends_with(buffer));
            name.starts_with(&ours) && !asked.contains(*name) && !buffer()
        };
        let Some(name) = self.checkpoint.names().find(unread) else { return Ok(()) };
        let what = "is stored, and by config.json the model has no such tensor: config and weights \
                    disagree";
        let remedy = "take both from one source, or merge an adapter into the weights first";
        Err(Error::input(self.checkpoint.dir(), name, what, remedy))
    }

    fn layer(&self, l: usize) -> Result<Layer> {
        let (names, a) = (&self.family.names, self.arch);
        let linear = |name, out, inner, biased| {
            self.linear(&self.layer_name(l, name), names.layout, [out, inner], biased)
        };
        let (qw, kw) = (a.queries * a.head, a.groups * a.head);
        let (biased, mlp) = (a.biases.qkv, a.biases.mlp);
        let [q, k, v] = match names.qkv {
            Qkv::Stacked(name) | Qkv::ByHead(name) => self.fused(&self.layer_name(l, name))?,
            Qkv::Three([q, k, v]) => [
                linear(q, qw, a.width, biased)?,
                linear(k, kw, a.width, biased)?,
                linear(v, kw, a.width, biased)?,
            ],
        };
        let norm = |name| self.norm(&self.layer_name(l, name), a.norm, a.width);
        let head_norm = |name| self.norm(&self.layer_name(l, name), Kind::Rms, a.head);
        let head_norms = match names.head_norms {
            Some([q, k]) => Some([head_norm(q)?, head_norm(k)?]),
            None => None,
        };
        Ok(Layer {
            norm1: norm(names.norm1)?,
            q,
            k,
            v,
            o: linear(names.o, a.width, qw, a.biases.o)?,
            norm2: norm(names.norm2)?,
            gate: names.gate.map(|gate| linear(gate, a.inner, a.width, mlp)).transpose()?,
            up: linear(names.up, a.inner, a.width, mlp)?,
            down: linear(names.down, a.width, a.inner, mlp)?,
            heads: a.heads(l),
            head_norms,
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
        let dir = self.checkpoint.dir();
        self.asked.borrow_mut().insert(name.to_owned());
        let tensor = self
            .checkpoint
            .tensor(name)?
            .ok_or_else(|| Error::input(dir, name, "no such tensor", TWO_MODELS))?;
        if tensor.shape != shape {
            let what = format!("has the shape {:?}, not {shape:?}", tensor.shape);
            return Err(Error::input(dir, name, what, TWO_MODELS));
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
        t.dtype.widen(&t.bytes.read(0..t.bytes.len())?, &mut wide);
        Ok(Tensor::of(&self.compute, &[len], &wide))
    }

    fn linear(&self, name: &str, layout: Layout, size: [usize; 2], biased: bool) -> Result<Linear> {
        Ok(Linear { w: self.matrix(name, layout, size)?, b: self.bias(name, size[0], biased)? })
    }

    fn bias(&self, name: &str, len: usize, biased: bool) -> Result<Option<Tensor>> {
        biased.then(|| self.vector(&format!("{name}.bias"), len)).transpose()
    }

    /// Queries, keys and values stored as rows of one matrix: one after the other, or by heads.
    fn fused(&self, name: &str) -> Result<[Linear; 3]> {
        let (a, Names { qkv, layout, .. }) = (self.arch, &self.family.names);
        let [qw, kw] = [a.queries, a.groups].map(|heads| heads * a.head);
        let (outs, blocks) = match qkv {
            Qkv::ByHead(_) => ([a.head; 3], a.queries),
            _ => ([qw, kw, kw], 1),
        };
        let period: usize = outs.iter().sum();
        let whole = self.linear(name, *layout, [blocks * period, a.width], a.biases.qkv)?;
        let bias = whole.b.map(|b| b.to_f64());
        let mut from = 0;
        Ok(outs.map(|out| {
            let rows = from..from + out;
            from += out;
            let b = bias.as_ref().map(|b| {
                let own: Vec<f64> =
                    b.chunks(period).flat_map(|b| b[rows.clone()].iter().copied()).collect();
                Tensor::of(&self.compute, &[own.len()], &own)
            });
            Linear { w: whole.w.every(rows, period), b }
        }))
    }

    fn norm(&self, name: &str, kind: Kind, width: usize) -> Result<Norm> {
        Ok(Norm {
            kind,
            eps: self.arch.eps,
            gain: self.vector(&format!("{name}.weight"), width)?,
            bias: self.bias(name, width, kind == Kind::Layer)?,
        })
    }
}

/// The checkpoint of a folder and its model.
///
/// # Errors
///
/// As [`Checkpoint::open`] and [`Model::open`].
pub fn open(dir: &Path, device: &Device) -> Result<(Checkpoint, Model)> {
    let checkpoint = Checkpoint::open(dir)?;
    let model = Model::open(&checkpoint, device)?;
    Ok((checkpoint, model))
}
