//! Checkpoints of known models' shapes, with random weights or none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use incise::base::{DType, Rng};
use incise::store::write::{self, Item};
use serde_json::{Value, json};

/// A configuration and the tensors that belong to it.
pub struct Shape {
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
}

impl Shape {
    /// GPT-2 small: 124 M parameters.
    pub fn gpt2_small() -> Shape {
        let (l, d, v, context) = (12, 768, 50_257, 1024);
        let mut it = Shape {
            config: json!({
                "model_type": "gpt2", "n_layer": l, "n_embd": d, "n_head": 12,
                "vocab_size": v, "n_positions": context,
            }),
            tensors: vec![],
        };
        it.matrix("wte", [v, d]);
        it.matrix("wpe", [context, d]);
        for l in 0..l {
            it.norm(&format!("h.{l}.ln_1"), d);
            it.linear(&format!("h.{l}.attn.c_attn"), [d, 3 * d], 3 * d);
            it.linear(&format!("h.{l}.attn.c_proj"), [d, d], d);
            it.norm(&format!("h.{l}.ln_2"), d);
            it.linear(&format!("h.{l}.mlp.c_fc"), [d, 4 * d], 4 * d);
            it.linear(&format!("h.{l}.mlp.c_proj"), [4 * d, d], d);
        }
        it.norm("ln_f", d);
        it
    }

    /// Pythia 2.8B.
    pub fn pythia() -> Shape {
        let (l, d, v) = (32, 2560, 50_304);
        let mut it = Shape {
            config: json!({
                "model_type": "gpt_neox", "num_hidden_layers": l, "hidden_size": d,
                "intermediate_size": 4 * d, "num_attention_heads": 32, "vocab_size": v,
                "max_position_embeddings": 2048, "rotary_pct": 0.25,
            }),
            tensors: vec![],
        };
        it.matrix("gpt_neox.embed_in", [v, d]);
        for l in 0..l {
            let name = |part: &str| format!("gpt_neox.layers.{l}.{part}");
            it.norm(&name("input_layernorm"), d);
            it.linear(&name("attention.query_key_value"), [3 * d, d], 3 * d);
            it.linear(&name("attention.dense"), [d, d], d);
            it.norm(&name("post_attention_layernorm"), d);
            it.linear(&name("mlp.dense_h_to_4h"), [4 * d, d], 4 * d);
            it.linear(&name("mlp.dense_4h_to_h"), [d, 4 * d], d);
        }
        it.norm("gpt_neox.final_layer_norm", d);
        it.matrix("embed_out", [v, d]);
        it
    }

    /// Llama 2 13B with seven layers more: 30 GB in 16 bits.
    pub fn llama_30gb() -> Shape {
        let (l, d, f, v) = (47, 5120, 13_824, 32_000);
        let mut it = Shape {
            config: json!({
                "model_type": "llama", "num_hidden_layers": l, "hidden_size": d,
                "intermediate_size": f, "num_attention_heads": 40, "vocab_size": v,
                "max_position_embeddings": 4096,
            }),
            tensors: vec![],
        };
        it.matrix("model.embed_tokens", [v, d]);
        for l in 0..l {
            let name = |part: &str| format!("model.layers.{l}.{part}");
            it.tensors.push((name("input_layernorm.weight"), vec![d]));
            for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                it.matrix(&name(&format!("self_attn.{part}")), [d, d]);
            }
            it.tensors.push((name("post_attention_layernorm.weight"), vec![d]));
            it.matrix(&name("mlp.gate_proj"), [f, d]);
            it.matrix(&name("mlp.up_proj"), [f, d]);
            it.matrix(&name("mlp.down_proj"), [d, f]);
        }
        it.tensors.push(("model.norm.weight".into(), vec![d]));
        it.matrix("lm_head", [v, d]);
        it
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) {
        self.tensors.push((format!("{name}.weight"), shape.to_vec()));
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], out: usize) {
        self.matrix(name, shape);
        self.tensors.push((format!("{name}.bias"), vec![out]));
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.tensors.push((format!("{name}.weight"), vec![width]));
        self.tensors.push((format!("{name}.bias"), vec![width]));
    }

    /// Writes config.json and model.safetensors: gains 1, biases 0, the rest normal with 0.02, as
    /// GPT-2 was initialised, each tensor another stretch of the same million numbers.
    pub fn write(&self, dir: &Path, dtype: DType) {
        let size = dtype.size();
        let mut rng = Rng::new(0, "benchmark weights");
        let normal: Vec<f64> = (0..1 << 20).map(|_| 0.02 * rng.normal()).collect();
        let mut pool = Vec::new();
        dtype.narrow(&normal, &mut pool);
        let items: Vec<Item> = self.items(dtype);
        write::write(&dir.join("model.safetensors"), &BTreeMap::new(), &items, &mut |i, out| {
            let item = &items[i];
            let mut left = item.shape.iter().product::<usize>();
            if item.shape.len() == 1 {
                let constant = f64::from(u8::from(item.name.ends_with(".weight")));
                let mut bytes = Vec::new();
                dtype.narrow(&vec![constant; left], &mut bytes);
                return out.write_all(&bytes);
            }
            let mut from = i * 7919 % normal.len();
            while left > 0 {
                let run = left.min(normal.len() - from);
                out.write_all(&pool[from * size..][..run * size])?;
                (left, from) = (left - run, 0);
            }
            Ok(())
        })
        .expect("room for the checkpoint");
        self.write_config(dir);
    }

    /// The same files, with a hole where the weights would be.
    pub fn write_hole(&self, dir: &Path, dtype: DType) {
        let mut at = 0;
        let mut header = serde_json::Map::new();
        for item in self.items(dtype) {
            let bytes = item.shape.iter().product::<usize>() * dtype.size();
            let offsets = [at, at + bytes];
            let entry = json!({"dtype": item.dtype, "shape": item.shape, "data_offsets": offsets});
            header.insert(item.name, entry);
            at += bytes;
        }
        let header = serde_json::to_vec(&header).expect("plain values");
        let path = dir.join("model.safetensors");
        let head = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        fs::write(&path, &head).expect("room for a header");
        let size = (head.len() + at) as u64;
        let file = File::options().write(true).open(&path).expect("just written");
        file.set_len(size).expect("a file system that knows holes");
        self.write_config(dir);
    }

    fn items(&self, dtype: DType) -> Vec<Item> {
        let item = |(name, shape): &(String, Vec<usize>)| Item {
            name: name.clone(),
            dtype: dtype.into(),
            shape: shape.clone(),
        };
        self.tensors.iter().map(item).collect()
    }

    fn write_config(&self, dir: &Path) {
        fs::write(dir.join("config.json"), self.config.to_string()).expect("room for a file");
    }
}
