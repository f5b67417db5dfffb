//! Models of known shapes with random weights: what benchmarks run. Time depends on shapes, and on
//! how full of ones the numbers are, but not on what they mean.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::config::Config;
use super::family::{self, Place};
use super::load::{Editable, Layer, Linear, Model};
use crate::base::{DType, Result, Rng, catch_device_error};
use crate::ops::norm::{Norm, NormKind};
use crate::tensor::{Compute, Layout, Tensor, Weight};

/// Numbers that are drawn; they repeat. A prime, so that no two rows are alike.
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

/// Draws matrices of one model. Those of one size share their bytes on the host, and have their
/// own on a device.
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
    /// A configuration that is not of a family we run; a device without room.
    pub fn random(config: &Value, dtype: DType, seed: u64, compute: &Compute) -> Result<Model> {
        let config = Config { value: config, path: PathBuf::from("random model") };
        let (family, a) = family::read(&config)?;
        let mut rng = Rng::new(seed, "random model");
        let values: Vec<f64> = (0..DRAWN).map(|_| 0.02 * rng.normal()).collect();
        let mut drawn = Vec::new();
        dtype.narrow(&values, &mut drawn);
        let mut draw = Draw { bytes: HashMap::new(), drawn, dtype, compute: compute.clone() };
        let (layout, qw, kw) = (family.names.layout, a.queries * a.head, a.groups * a.head);
        catch_device_error(|| {
            let layer = |l, draw: &mut Draw| Layer {
                norm1: draw.norm(a.norm, a.eps, a.width),
                q: draw.linear([qw, a.width], layout, a.biases.qkv),
                k: draw.linear([kw, a.width], layout, a.biases.qkv),
                v: draw.linear([kw, a.width], layout, a.biases.qkv),
                o: draw.linear([a.width, qw], layout, a.biases.o),
                norm2: draw.norm(a.norm, a.eps, a.width),
                gate: family
                    .names
                    .gate
                    .map(|_| draw.linear([a.inner, a.width], layout, a.biases.mlp)),
                up: draw.linear([a.inner, a.width], layout, a.biases.mlp),
                down: draw.linear([a.width, a.inner], layout, a.biases.mlp),
                heads: a.heads(l),
                head_norms: a
                    .head_norms
                    .then(|| [0; 2].map(|_| draw.norm(NormKind::Rms, a.eps, a.head))),
            };
            let layers = (0..a.layers).map(|l| Arc::new(layer(l, &mut draw))).collect();
            let embed = draw.matrix([a.vocabulary, a.width], Layout::OutIn);
            let learned = matches!(family.place, Place::Learned { .. });
            let mut head = draw.linear([a.vocabulary, a.width], Layout::OutIn, a.biases.head);
            if a.tied {
                head.w = embed.clone();
            }
            let editable = |l| Editable {
                tensor: format!("{l}.{}.weight", family.names.down),
                module: format!("{l}.{}", family.names.down),
                fan_in_fan_out: layout == Layout::InOut,
                out: a.width,
                inner: a.inner,
            };
            Ok(Model {
                positions: learned.then(|| draw.matrix([a.context, a.width], Layout::OutIn)),
                norm: draw.norm(a.norm, a.eps, a.width),
                editable: (0..a.layers).map(editable).collect(),
                compute: compute.clone(),
                fast: false,
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

    fn linear(&mut self, size: [usize; 2], layout: Layout, biased: bool) -> Linear {
        let b = biased.then(|| Tensor::zeros(&self.compute, &size[..1]));
        Linear { w: self.matrix(size, layout), b }
    }

    fn norm(&self, kind: NormKind, eps: f64, width: usize) -> Norm {
        let gain = Tensor::of(&self.compute, &[width], &vec![1.0; width]);
        let bias = (kind == NormKind::Layer).then(|| Tensor::zeros(&self.compute, &[width]));
        Norm { kind, eps, gain, bias }
    }
}
