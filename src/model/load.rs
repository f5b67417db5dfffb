//! From a checkpoint to a model: every tensor by name, every size checked, no matrix read.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::arch::{Arch, Gain};
use super::assemble::{self, LayerTensors, StackedRows};
use super::families::{self, Described, INNER_PREFIXES};
use super::family::{Family, PositionEncoding};
use super::layer::Layer;
use super::matrix::{Linear, StoredPlace};
use super::model::{Model, SearchPrecision};
use crate::base::{Error, Progress, Result, catch_device_error};
use crate::ops::norm::{Norm, NormKind};
use crate::ops::proof;
use crate::store::{Checkpoint, RowBlocks, StoredTensor, same_sample};
use crate::tensor::{Compute, Device, Layout, Precision, Tensor, Weight};

/// The checkpoint of a folder and its model.
///
/// # Errors
///
/// As [`Checkpoint::open`] and [`Model::open`].
pub fn open(dir: &Path, device: &Device, progress: &dyn Progress) -> Result<(Checkpoint, Model)> {
    let checkpoint = Checkpoint::open(dir)?;
    let model = Model::open(&checkpoint, device, progress)?;
    Ok((checkpoint, model))
}

impl Model {
    /// The model of a checkpoint, computing in f32 on a device, which is asked first whether it
    /// computes what it should.
    ///
    /// # Errors
    ///
    /// A device that does not start, or has not proved itself; as [`load`](Model::load).
    pub fn open(
        checkpoint: &Checkpoint,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Model> {
        let mut devices = proof::start(device, room(checkpoint), progress)?.into_iter();
        let mut model = Model::load(checkpoint, devices.next().expect("at least one"))?;
        model.peers = devices.collect();
        model.prove(progress)?;
        Ok(model)
    }

    /// The model of a checkpoint, computing in a given place and type.
    ///
    /// # Errors
    ///
    /// A configuration whose family is not implemented; a tensor that is missing, of another shape
    /// or of a type we do not compute with; a tensor of the layers that the configuration does not
    /// account for; a stored head that differs from the embedding it is tied to; a device that is
    /// out of memory.
    pub fn load(checkpoint: &Checkpoint, compute: impl Into<Compute>) -> Result<Model> {
        let described = described(checkpoint)?;
        catch_device_error(|| Loader::new(checkpoint, &described, compute.into()).model())
    }
}

/// Bytes of a device with which a model runs, its weights coming and going: three of its largest
/// matrices, and what a pass needs besides.
fn room(checkpoint: &Checkpoint) -> u64 {
    let bytes = checkpoint.entries().map(|(_, _, entry)| entry.range.end - entry.range.start);
    3 * bytes.max().unwrap_or(0) + (1 << 30)
}

/// The tensors of a checkpoint that hold down projections.
///
/// # Errors
///
/// A configuration whose family is not implemented.
pub(super) fn down_projections(checkpoint: &Checkpoint) -> Result<HashSet<String>> {
    let described = described(checkpoint)?;
    let loader = Loader::new(checkpoint, &described, Precision::F32.into());
    let down = described.family.names.down;
    Ok((0..described.arch.layers).map(|l| loader.place(l, down).tensor).collect())
}

/// Whether a checkpoint's family and options are implemented.
pub fn is_known(checkpoint: &Checkpoint) -> bool {
    described(checkpoint).is_ok()
}

fn described(checkpoint: &Checkpoint) -> Result<Described> {
    families::describe(checkpoint.config(), &checkpoint.dir().join("config.json"))
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    family: &'static Family,
    arch: &'a Arch,
    compute: Compute,
    own_prefix: &'static str,            // as the framework has it
    prefix: &'static str,                // as this checkpoint has it
    requested: RefCell<HashSet<String>>, // names of tensors
}

const TWO_MODELS: &str = "compare config.json with the checkpoint: they are of two models";

/// Tensors in the layers of old checkpoints that no code reads: masks, and frequencies that are
/// computed anew.
const BUFFERS: [&str; 5] = [
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "rotary_emb.inv_freq",
];

impl<'a> Loader<'a> {
    fn new(checkpoint: &'a Checkpoint, of: &'a Described, compute: Compute) -> Self {
        let Described { family, arch, inner } = of;
        let names = &family.names;
        let has =
            |prefix: &str| checkpoint.entry(&format!("{prefix}{}.weight", names.embed)).is_some();
        let [own, older] = match inner {
            true => INNER_PREFIXES,
            false => [names.prefix; 2],
        };
        let ends = own.match_indices('.').map(|(dot, _)| &own[dot + 1..]);
        let prefix = ends.chain([older]).find(|prefix| has(prefix)).unwrap_or(own);
        let requested = RefCell::default();
        Loader { checkpoint, family, arch, compute, own_prefix: own, prefix, requested }
    }

    fn model(&self) -> Result<Model> {
        let names = &self.family.names;
        let a = self.arch;
        let beyond = self.layer_name(a.layers, names.down) + ".weight";
        if self.checkpoint.entry(&beyond).is_some() {
            let what = format!("is stored, and config.json has {} layers", a.layers);
            return Err(Error::input(self.checkpoint.dir(), beyond, what, TWO_MODELS));
        }
        let embed_name = format!("{}{}", self.prefix, names.embed);
        let embed = self.matrix(&embed_name, Layout::OutIn, [a.vocabulary, a.width])?;
        let positions = self.positions()?;
        let heads = self.heads();
        let has = |name: &&String| self.checkpoint.entry(&format!("{name}.weight")).is_some();
        let head_name = heads.iter().find(has).unwrap_or(&heads[0]);
        let head_weight = if a.tie_embeddings {
            self.refuse_another_head(&format!("{embed_name}.weight"))?;
            embed.clone()
        } else {
            self.matrix(head_name, Layout::OutIn, [a.vocabulary, a.width])?
        };
        let head = Linear {
            w: head_weight,
            b: self.bias(head_name, a.vocabulary, a.biases.head)?,
            stored: Arc::new(StoredPlace {
                tensor: format!("{head_name}.weight"),
                module: head_name.clone(),
                fan_in_fan_out: false,
                rows: None,
            }),
        };
        let layers = (0..a.layers).map(|l| self.layer(l).map(Arc::new)).collect::<Result<_>>()?;
        self.refuse_unread()?;
        Ok(Model {
            arch: a.clone(),
            compute: self.compute.clone(),
            search_precision: SearchPrecision::Exact,
            peers: Vec::new(),
            embed,
            positions,
            layers,
            norm: self
                .norm(&format!("{}{}", self.prefix, names.norm), a.norm, a.width)?
                .times(a.scales.logits),
            head,
        })
    }

    /// The position embedding without the rows that belong to no token, where it is learned.
    fn positions(&self) -> Result<Option<Weight>> {
        let PositionEncoding::Learned { offset } = self.family.positions else { return Ok(None) };
        let name = format!("{}{}", self.prefix, self.family.names.positions);
        let rows = offset..offset + self.arch.max_positions;
        let whole = self.matrix(&name, Layout::OutIn, [rows.end, self.arch.width])?;
        Ok(Some(whole.slice(rows)))
    }

    /// The names the head may have; in older files of a wrapper they are behind the text model's.
    fn heads(&self) -> Vec<String> {
        let own = self.family.names.head.iter().map(|&head| head.to_owned());
        let inner = INNER_PREFIXES.contains(&self.own_prefix);
        let older = self.family.names.head.iter().map(|head| format!("language_model.{head}"));
        own.chain(older.filter(|_| inner)).collect()
    }

    /// Refuses a stored head that differs from the embedding where the configuration ties the two.
    /// The same sample of bytes is compared as enters a fingerprint, so a head that differs in a
    /// few rows only may pass.
    fn refuse_another_head(&self, embed: &str) -> Result<()> {
        for head in self.heads().iter().map(|head| format!("{head}.weight")) {
            let stored = [embed, &head].map(|name| self.checkpoint.entry(name));
            let [Some((embed_file, e)), Some((head_file, h))] = stored else { continue };
            let alike = e.dtype == h.dtype && e.shape == h.shape;
            if !alike || !same_sample(&embed_file.bytes(&e.range), &head_file.bytes(&h.range))? {
                let what = format!("is stored and differs from {embed}, and config.json ties them");
                let remedy = "set \"tie_word_embeddings\": false in config.json if the model has \
                              a head of its own, else remove this tensor from the checkpoint";
                return Err(Error::input(self.checkpoint.dir(), head, what, remedy));
            }
        }
        Ok(())
    }

    /// Refuses a tensor of the layers that was not requested: a bias that the configuration
    /// switches off, another family's norms, an adapter. Without it this would be another model.
    fn refuse_unread(&self) -> Result<()> {
        let requested = self.requested.borrow();
        let layers = format!("{}{}", self.prefix, self.family.names.layer);
        let unread = |name: &&str| {
            let buffer = || BUFFERS.iter().any(|buffer| name.ends_with(buffer));
            name.starts_with(&layers) && !requested.contains(*name) && !buffer()
        };
        let Some(name) = self.checkpoint.names().find(unread) else { return Ok(()) };
        let what = "is stored, and by config.json the model has no such tensor: config and weights \
                    disagree";
        let remedy = "take both from one source, or merge an adapter into the weights first";
        Err(Error::input(self.checkpoint.dir(), name, what, remedy))
    }

    fn layer(&self, l: usize) -> Result<Layer> {
        assemble::layer(self.arch, &self.family.names, l, &mut StoredLayer { of: self, l })
    }

    fn layer_name(&self, l: usize, name: &str) -> String {
        format!("{}{}{l}.{name}", self.prefix, self.family.names.layer)
    }

    /// Where a matrix of layer l is.
    fn place(&self, l: usize, name: &str) -> StoredPlace {
        let names = &self.family.names;
        StoredPlace {
            tensor: self.layer_name(l, name) + ".weight",
            module: format!("{}{}{l}.{name}", self.own_prefix, names.layer),
            fan_in_fan_out: names.layout == Layout::InOut,
            rows: None,
        }
    }

    /// A tensor of the given stored shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<StoredTensor> {
        let dir = self.checkpoint.dir();
        self.requested.borrow_mut().insert(name.to_owned());
        let tensor =
            self.checkpoint.tensor(name)?.ok_or_else(|| match self.checkpoint.unlisted(name) {
                Some(file) => {
                    let remedy = "fetch the index and the files again, from one release";
                    Error::input(
                        file,
                        name,
                        "is in this file, and the index does not list it",
                        remedy,
                    )
                }
                None => Error::input(dir, name, "no such tensor", TWO_MODELS),
            })?;
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

    fn bias(&self, name: &str, len: usize, biased: bool) -> Result<Option<Tensor>> {
        biased.then(|| self.vector(&format!("{name}.bias"), len)).transpose()
    }

    /// A norm of the stream; of queries and keys it has no bias.
    fn norm(&self, name: &str, kind: NormKind, width: usize) -> Result<Norm> {
        let stored = || self.vector(&format!("{name}.weight"), width);
        let gain = match self.arch.gain {
            Gain::Stored => stored()?,
            Gain::OnePlus => {
                let gain: Vec<f64> = stored()?.to_f64().into_iter().map(|w| 1.0 + w).collect();
                Tensor::of(&self.compute, &[width], &gain)
            }
            Gain::One => Tensor::of(&self.compute, &[width], &vec![1.0; width]),
        };
        let biased = self.arch.biases.norm && kind == self.arch.norm;
        Ok(Norm { kind, eps: self.arch.eps, gain, bias: self.bias(name, width, biased)? })
    }
}

/// A layer's tensors in a checkpoint.
struct StoredLayer<'a> {
    of: &'a Loader<'a>,
    l: usize,
}

impl LayerTensors for StoredLayer<'_> {
    fn linear(&mut self, name: &str, size: [usize; 2], biased: bool) -> Result<Linear> {
        let (of, stored) = (self.of, Arc::new(self.of.place(self.l, name)));
        let name = of.layer_name(self.l, name);
        let w = of.matrix(&name, stored.layout(), size)?;
        Ok(Linear { w, b: of.bias(&name, size[0], biased)?, stored })
    }

    fn stacked<const N: usize>(&mut self, rows: StackedRows<N>) -> Result<[Linear; N]> {
        let StackedRows { name, outs, blocks, biased } = rows;
        let period: usize = outs.iter().sum();
        let whole = self.linear(name, [blocks * period, self.of.arch.width], biased)?;
        let bias = whole.b.map(|b| b.to_f64());
        let mut from = 0;
        Ok(outs.map(|out| {
            let rows = from..from + out;
            from += out;
            let b = bias.as_ref().map(|b| {
                let own: Vec<f64> =
                    b.chunks(period).flat_map(|block| &block[rows.clone()]).copied().collect();
                Tensor::of(&self.of.compute, &[own.len()], &own)
            });
            let rows = RowBlocks { start: rows.start, len: out, period, count: blocks };
            let stored = StoredPlace { rows: Some(rows), ..(*whole.stored).clone() };
            Linear { w: stored.part(whole.w.clone()), b, stored: Arc::new(stored) }
        }))
    }

    fn norm(&mut self, name: &str, kind: NormKind, width: usize) -> Result<Norm> {
        self.of.norm(&self.of.layer_name(self.l, name), kind, width)
    }
}
