//! A real trained Llama with grouped heads, stories260K, generates its recorded story from a BOS
//! token. Its file is llama2.c's first format: seven i32 sizes (width, inner, layers, heads,
//! groups, vocabulary, context), then f32 matrices, each kind for all layers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use incise::base::{DType, Rng};
use incise::model::Model;
use incise::model::generate::{Sampling, generate};
use incise::store::Checkpoint;
use incise::store::write::{self, Item};
use incise::tensor::Device;
use serde_json::json;

use crate::support::shared::shared;

const BOS: u32 = 1;

struct Reader<'a>(&'a [f32]);

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Vec<f32> {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head.to_vec()
    }
}

/// Rows of a head from adjacent pairs (their order) to halves (the checkpoint's).
fn halves(w: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let e = w.len() / width / heads;
    let row = |h: usize, i: usize| {
        let from = if i < e / 2 { 2 * i } else { 2 * (i - e / 2) + 1 };
        &w[(h * e + from) * width..][..width]
    };
    (0..heads).flat_map(|h| (0..e).flat_map(move |i| row(h, i).to_vec())).collect()
}

/// The file as a checkpoint.
fn convert(bin: &Path, dir: &Path) -> usize {
    let bytes = fs::read(bin).unwrap();
    let size = |i: usize| i32::from_le_bytes(bytes[4 * i..][..4].try_into().unwrap()) as usize;
    let [d, f, layers, heads, groups, v, context]: [usize; 7] = std::array::from_fn(size);
    let kw = d / heads * groups;
    let floats: Vec<f32> =
        bytes[28..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut file = Reader(&floats);
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let embed = file.take(v * d);
    tensors.push(("model.embed_tokens.weight".into(), vec![v, d], embed));
    let kinds: [(&str, Vec<usize>); 9] = [
        ("input_layernorm", vec![d]),
        ("self_attn.q_proj", vec![d, d]),
        ("self_attn.k_proj", vec![kw, d]),
        ("self_attn.v_proj", vec![kw, d]),
        ("self_attn.o_proj", vec![d, d]),
        ("post_attention_layernorm", vec![d]),
        ("mlp.gate_proj", vec![f, d]),
        ("mlp.down_proj", vec![d, f]),
        ("mlp.up_proj", vec![f, d]),
    ];
    for (name, shape) in kinds {
        for l in 0..layers {
            let mut w = file.take(shape.iter().product());
            match name {
                "self_attn.q_proj" => w = halves(&w, heads, d),
                "self_attn.k_proj" => w = halves(&w, groups, d),
                _ => {}
            }
            tensors.push((format!("model.layers.{l}.{name}.weight"), shape.clone(), w));
        }
    }
    tensors.push(("model.norm.weight".into(), vec![d], file.take(d)));
    let item = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| Item {
        name: name.clone(),
        dtype: DType::F32.into(),
        shape: shape.clone(),
    };
    let items: Vec<Item> = tensors.iter().map(item).collect();
    let path = dir.join("model.safetensors");
    write::write(&path, &BTreeMap::new(), &items, &mut |i, out| {
        out.write_all(bytemuck::cast_slice(&tensors[i].2))
    })
    .unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": d, "intermediate_size": f,
        "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": groups, "vocab_size": v, "max_position_embeddings": context,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    v
}

/// The pieces of llama2.c's tokenizer: a u32, then score f32, length i32 and bytes of each.
fn pieces(path: &Path, v: usize) -> Vec<String> {
    let bytes = fs::read(path).unwrap();
    let mut at = 4;
    let mut piece = || {
        let len = i32::from_le_bytes(bytes[at + 4..][..4].try_into().unwrap()) as usize;
        at += 8 + len;
        String::from_utf8(bytes[at - len..at].to_vec()).unwrap()
    };
    (0..v).map(|_| piece()).collect()
}

#[test]
fn stories260k_tells_its_recorded_story() {
    let Some(dir) = shared("stories260k_tells_its_recorded_story", "stories260k") else { return };
    let folder = tempfile::tempdir().unwrap();
    let v = convert(&dir.join("stories260K.bin"), folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let model = Model::open(&checkpoint, &Device::Cpu, &incise::base::Quiet).unwrap();
    let mut rng = Rng::new(0, "greedy");
    let mut tokens =
        generate(&model, &[BOS], 256, Sampling::GREEDY, &mut rng, &[], &mut |_| true).unwrap();
    assert_eq!(tokens[..5], [403, 407, 261, 378, 432]);
    if let Some(end) = tokens.iter().position(|&t| t == BOS) {
        tokens.truncate(end);
    }
    let pieces = pieces(&dir.join("tok512.bin"), v);
    let text: String = tokens.iter().map(|&t| pieces[t as usize].replace("<0x0A>", "\n")).collect();
    let recorded = fs::read_to_string(dir.join("stories260K.md")).unwrap();
    let from = recorded.find("Once upon a time").unwrap();
    let want = recorded[from..].split("\n```").next().unwrap();
    assert_eq!(text.trim(), want.trim());
}
