//! Checkpoints of GPT-2's layout with random weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use incise::base::{DType, Rng};
use incise::store::write::{self, Item};
use serde_json::json;

/// Sizes of a GPT-2.
#[derive(Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub vocabulary: usize,
    pub context: usize,
}

impl Shape {
    pub const SMALL: Shape =
        Shape { layers: 12, width: 768, heads: 12, vocabulary: 50_257, context: 1024 };

    /// Writes config.json and model.safetensors.
    pub fn write(&self, dir: &Path, dtype: DType) {
        let d = self.width;
        let mut shapes = vec![
            ("wte.weight".to_owned(), vec![self.vocabulary, d]),
            ("wpe.weight".to_owned(), vec![self.context, d]),
        ];
        let norm = |name: String| [(name.clone() + ".weight", vec![d]), (name + ".bias", vec![d])];
        let linear = |name: String, inner: usize, out: usize| {
            [(name.clone() + ".weight", vec![inner, out]), (name + ".bias", vec![out])]
        };
        for l in 0..self.layers {
            shapes.extend(norm(format!("h.{l}.ln_1")));
            shapes.extend(linear(format!("h.{l}.attn.c_attn"), d, 3 * d));
            shapes.extend(linear(format!("h.{l}.attn.c_proj"), d, d));
            shapes.extend(norm(format!("h.{l}.ln_2")));
            shapes.extend(linear(format!("h.{l}.mlp.c_fc"), d, 4 * d));
            shapes.extend(linear(format!("h.{l}.mlp.c_proj"), 4 * d, d));
        }
        shapes.extend(norm("ln_f".to_owned()));
        let item = |(name, shape)| Item { name, dtype: dtype.name(), shape };
        let items: Vec<Item> = shapes.into_iter().map(item).collect();
        let path = dir.join("model.safetensors");
        write::write(&path, &BTreeMap::new(), &items, &mut |i, out| {
            let item = &items[i];
            let len = item.shape.iter().product();
            // GPT-2's own initialisation: gains 1, biases 0, the rest normal with 0.02.
            let mut rng = Rng::new(i as u64, "benchmark weights");
            let constant = f64::from(u8::from(item.name.contains("ln_")));
            let values: Vec<f64> = match item.name.ends_with(".bias") {
                true => vec![0.0; len],
                false if item.shape.len() == 1 => vec![constant; len],
                false => (0..len).map(|_| 0.02 * rng.normal()).collect(),
            };
            let mut bytes = Vec::new();
            dtype.narrow(&values, &mut bytes);
            out.write_all(&bytes)
        })
        .expect("room for the checkpoint");
        let config = json!({
            "model_type": "gpt2", "n_layer": self.layers, "n_embd": d, "n_head": self.heads,
            "vocab_size": self.vocabulary, "n_positions": self.context,
        });
        fs::write(dir.join("config.json"), config.to_string()).expect("room for a file");
    }
}
