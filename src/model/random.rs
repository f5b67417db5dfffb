//! Models of known shapes with random weights, for benchmarks. Time depends on the shapes, and on
//! how many bits of the weights are set, but not on their meaning.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::arch::{Arch, Positions};
use super::assemble::{self, LayerTensors, StackedRows};
use super::families::{self, Described};
use super::matrix::{Linear, StoredPlace};
use super::model::{Model, SearchPrecision};
use crate::base::{DType, Error, Result, Rng, catch_device_error};
use crate::ops::norm::{Norm, NormKind};
use crate::tensor::{Compute, Layout, Tensor, Weight};

/// How many numbers are drawn; they repeat. A prime, so that no two rows are alike.
const DRAWN: usize = 1_000_003;

/// The configuration of a shape, if it is known: `tiny`, `gpt2-small` or `gpt-j-6b`.
pub fn config(shape: &str) -> Option<Value> {
    let gptj = |layers: usize, width: usize, heads: usize, vocabulary: usize| {
        json!({
            "model_type": "gptj", "n_layer": layers, "n_embd": width, "n_head": heads,
            "rotary_dim": 64.min(width / heads), "vocab_size": vocabulary, "n_positions": 2048,
            "activation_function": "gelu_new", "tie_word_embeddings": false,
        })
    };
    match shape {
        "tiny" => Some(gptj(3, 32, 2, 61)),
        "gpt2-small" => Some(json!({
            "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12,
            "vocab_size": 50_257, "n_positions": 1024,
        })),
        "gpt-j-6b" => Some(gptj(28, 4096, 16, 50_400)),
        _ => None,
    }
}

/// The architecture of a known shape, and whether its MLPs are gated.
///
/// # Errors
///
/// A shape that is not known.
pub fn arch(shape: &str) -> Result<(Arch, bool)> {
    let value = config(shape).ok_or_else(|| {
        Error::refused(format!("`{shape}`: no such shape"), "say tiny, gpt2-small or gpt-j-6b")
    })?;
    let Described { family, arch, .. } = families::describe(&value, Path::new(shape))?;
    Ok((arch, family.names.up.is_gated()))
}

/// Weights of a layer's matrices.
pub fn layer_weights(a: &Arch, gated: bool) -> f64 {
    let attention = a.width * (2 * a.n_heads + 2 * a.n_kv_heads) * a.head_dim;
    (attention + (2 + usize::from(gated)) * a.width * a.inner) as f64
}

/// Draws the weights of one model. Matrices of one size share their bytes on the host; on a device
/// each has its own.
struct Draw {
    bytes: HashMap<usize, Arc<Vec<u8>>>, // by length
    drawn: Vec<u8>,
    dtype: DType,
    compute: Compute,
}

impl Model {
    /// The model of a configuration with weights of one type.
    ///
    /// # Errors
    ///
    /// A configuration whose family is not implemented; a device that is out of memory.
    pub fn random(config: &Value, dtype: DType, seed: u64, compute: &Compute) -> Result<Model> {
        let described = families::describe(config, Path::new("random model"))?;
        let Described { family, arch: a, .. } = described;
        let names = &family.names;
        let mut rng = Rng::new(seed, "random model");
        let values: Vec<f64> = (0..DRAWN).map(|_| 0.02 * rng.normal()).collect();
        let mut drawn = Vec::new();
        dtype.narrow(&values, &mut drawn);
        let mut draw = Draw { bytes: HashMap::new(), drawn, dtype, compute: compute.clone() };
        catch_device_error(|| {
            let mut layers = Vec::new();
            for l in 0..a.layers {
                let mut drawn = DrawnLayer { draw: &mut draw, arch: &a, layout: names.layout, l };
                layers.push(Arc::new(assemble::layer(&a, names, l, &mut drawn)?));
            }
            let embed = draw.matrix([a.vocabulary, a.width], Layout::OutIn);
            let mut head =
                draw.linear("head", [a.vocabulary, a.width], Layout::OutIn, a.biases.head);
            if a.tie_embeddings {
                head.w = embed.clone();
            }
            let learned = a.positions == Positions::Learned;
            Ok(Model {
                positions: learned.then(|| draw.matrix([a.max_positions, a.width], Layout::OutIn)),
                norm: draw.norm(&a, a.norm, a.width).times(a.scales.logits),
                compute: compute.clone(),
                search_precision: SearchPrecision::Exact,
                peers: Vec::new(),
                arch: a.clone(),
                layers,
                embed,
                head,
            })
        })
    }
}

impl Draw {
    fn matrix(&mut self, [out, inner]: [usize; 2], layout: Layout) -> Weight {
        let len = out * inner * self.dtype.size();
        let repeated = || Arc::new(self.drawn.iter().copied().cycle().take(len).collect());
        let bytes = self.bytes.entry(len).or_insert_with(repeated).clone();
        Weight::stored(bytes, self.dtype, layout, [out, inner])
    }

    fn linear(&mut self, name: &str, size: [usize; 2], layout: Layout, biased: bool) -> Linear {
        let b = biased.then(|| Tensor::zeros(&self.compute, &size[..1]));
        let stored = StoredPlace {
            tensor: format!("{name}.weight"),
            module: name.to_owned(),
            fan_in_fan_out: layout == Layout::InOut,
            rows: None,
        };
        Linear { w: self.matrix(size, layout), b, stored: Arc::new(stored) }
    }

    fn norm(&self, a: &Arch, kind: NormKind, width: usize) -> Norm {
        let gain = Tensor::of(&self.compute, &[width], &vec![1.0; width]);
        let biased = a.biases.norm && kind == a.norm;
        let bias = biased.then(|| Tensor::zeros(&self.compute, &[width]));
        Norm { kind, eps: a.eps, gain, bias }
    }
}

/// A layer's tensors, drawn.
struct DrawnLayer<'a> {
    draw: &'a mut Draw,
    arch: &'a Arch,
    layout: Layout,
    l: usize,
}

impl LayerTensors for DrawnLayer<'_> {
    fn linear(&mut self, name: &str, size: [usize; 2], biased: bool) -> Result<Linear> {
        Ok(self.draw.linear(&format!("{}.{name}", self.l), size, self.layout, biased))
    }

    fn stacked<const N: usize>(&mut self, rows: StackedRows<N>) -> Result<[Linear; N]> {
        let StackedRows { name, outs, blocks, biased } = rows;
        let width = self.arch.width;
        let mut i = 0;
        Ok(outs.map(|out| {
            i += 1; // drawn apart
            let name = format!("{}.{name}.{i}", self.l);
            self.draw.linear(&name, [blocks * out, width], self.layout, biased)
        }))
    }

    fn norm(&mut self, _: &str, kind: NormKind, width: usize) -> Result<Norm> {
        Ok(self.draw.norm(self.arch, kind, width))
    }
}
