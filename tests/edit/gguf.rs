//! Adapters as llama.cpp reads them, read back by a reader of our own; `tools/check_servers` gives
//! them to llama.cpp itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use incise::base::progress::Quiet;
use incise::edit::export::adapter::Adapter;
use incise::edit::export::gguf::write;
use incise::model::{Matrix, MatrixId, Model};
use incise::store::{Change, Checkpoint, Patch};
use incise::tensor::Precision;

use crate::ops::update::low_rank;
use crate::store::toy::{metadata, refusal};
use crate::support::golden::Golden;
use crate::support::session::{Session, done, fails, strs};

/// A value of a pair: text, or an f32 as text.
type Pairs = BTreeMap<String, String>;

/// Sizes from the inner one, and values.
type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

/// Reads a file as llama.cpp's `gguf.md` says.
fn read(bytes: &[u8]) -> (Pairs, Tensors) {
    let mut at = 0;
    let mut take = |n: usize| {
        at += n;
        &bytes[at - n..at]
    };
    let long = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
    let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
    assert_eq!(take(4), b"GGUF");
    assert_eq!(word(take(4)), 3);
    let (tensors, pairs) = (long(take(8)), long(take(8)));
    let text = |take: &mut dyn FnMut(usize) -> Vec<u8>| {
        let n = u64::from_le_bytes(take(8).try_into().unwrap()) as usize;
        String::from_utf8(take(n)).unwrap()
    };
    let mut take = |n: usize| take(n).to_vec();
    let mut found = Pairs::new();
    for _ in 0..pairs {
        let key = text(&mut take);
        let value = match word(&take(4)) {
            8 => text(&mut take),
            6 => f32::from_le_bytes(take(4).try_into().unwrap()).to_string(),
            kind => panic!("{kind}"),
        };
        found.insert(key, value);
    }
    let mut places = Vec::new();
    for _ in 0..tensors {
        let name = text(&mut take);
        let sizes: Vec<u64> = (0..word(&take(4))).map(|_| long(&take(8))).collect();
        assert_eq!(word(&take(4)), 0, "F32");
        places.push((name, sizes, long(&take(8)) as usize));
    }
    let data = at.next_multiple_of(32);
    let values = |(name, sizes, place): (String, Vec<u64>, usize)| {
        assert_eq!(place % 32, 0, "{name}");
        let n = sizes.iter().product::<u64>() as usize;
        let bytes = &bytes[data + place..][..4 * n];
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (name, (sizes, values.collect()))
    };
    (found, places.into_iter().map(values).collect())
}

/// The adapter of a change of one matrix of layer 1 of a recorded model, and its file.
fn adapter(name: &'static str, matrix: Matrix, file: &Path) -> (Adapter, incise::Result<()>) {
    let dir = &Golden::open(name).dir;
    let model = Model::load(&Checkpoint::open(dir).unwrap(), Precision::F32).unwrap();
    let w = model.matrix(MatrixId::new(1, matrix));
    let [out, inner] = w.w.dims();
    let change = Change {
        tensor: w.stored.tensor.clone(),
        module: w.stored.module.clone(),
        rows: w.stored.rows,
        out,
        inner,
        fan_in_fan_out: w.stored.fan_in_fan_out,
        fingerprint: String::new(),
        keys: None,
        delta: low_rank(out, inner, 3, 1.0, 1),
    };
    let patch = Patch { changes: vec![change], metadata: metadata(), file: None };
    let adapter = Adapter::of(&patch, None, &Quiet).unwrap();
    let written = write(&adapter, dir, file);
    (adapter, written)
}

#[test]
fn names_sizes_and_values() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a.gguf");
    for (model, architecture, matrix, name) in [
        ("llama", "llama", Matrix::Down, "ffn_down"),
        ("llama", "llama", Matrix::Gate, "ffn_gate"),
        ("mistral", "llama", Matrix::Up, "ffn_up"),
        ("qwen2", "qwen2", Matrix::V, "attn_v"),
        ("qwen3", "qwen3", Matrix::Q, "attn_q"),
        ("olmo2", "olmo2", Matrix::O, "attn_output"),
        ("gpt2", "gpt2", Matrix::Down, "ffn_down"),
        ("gpt2", "gpt2", Matrix::K, "attn_qkv"),
        ("neox", "gptneox", Matrix::Down, "ffn_down"),
        ("phi3", "phi3", Matrix::Q, "attn_qkv"),
        ("gemma2", "gemma2", Matrix::Down, "ffn_down"),
    ] {
        let (adapter, written) = adapter(model, matrix, &file);
        written.unwrap();
        let (pairs, tensors) = read(&fs::read(&file).unwrap());
        for (key, value) in [
            ("general.architecture", architecture),
            ("general.type", "adapter"),
            ("adapter.type", "lora"),
            ("adapter.lora.alpha", "8"),
        ] {
            assert_eq!(pairs[key], value, "{model}: {key}");
        }
        let module = &adapter.modules[0];
        let (out, inner, r) = (module.out as u64, module.inner as u64, adapter.rank as u64);
        let name = |side: &str| format!("blk.1.{name}.weight.lora_{side}");
        assert_eq!(tensors.len(), 2, "{model}");
        assert_eq!(tensors[&name("a")], (vec![inner, r], module.a.clone()), "{model}");
        assert_eq!(tensors[&name("b")], (vec![r, out], module.b.clone()), "{model}");
    }
}

/// Queries and keys of llama: the converter reshapes rows to (heads, 2, E/2) and swaps the last
/// two.
#[test]
fn rows_that_llamacpp_keeps_by_pairs() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a.gguf");
    let llama = Checkpoint::open(&Golden::open("llama").dir).unwrap();
    let arch = Model::load(&llama, Precision::F32).unwrap().arch;
    assert_ne!(arch.n_heads, arch.n_kv_heads);
    for (matrix, name, heads) in
        [(Matrix::Q, "attn_q", arch.n_heads), (Matrix::K, "attn_k", arch.n_kv_heads)]
    {
        let (adapter, written) = adapter("llama", matrix, &file);
        written.unwrap();
        let (_, tensors) = read(&fs::read(&file).unwrap());
        let (module, r, half) = (&adapter.modules[0], adapter.rank, arch.head_dim / 2);
        let mut want = Vec::new();
        for head in 0..heads {
            for i in 0..half {
                for s in 0..2 {
                    let row = (head * 2 + s) * half + i;
                    want.extend_from_slice(&module.b[row * r..][..r]);
                }
            }
        }
        assert_eq!(tensors[&format!("blk.1.{name}.weight.lora_b")].1, want, "{name}");
        assert_ne!(want, module.b, "{name}");
    }
}

/// Queries, keys and values of gpt_neox: one matrix, of each head its q, its k, its v; there all of
/// q, all of k, all of v.
#[test]
fn rows_that_llamacpp_keeps_apart() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a.gguf");
    let (adapter, written) = adapter("neox", Matrix::Q, &file);
    written.unwrap();
    let (_, tensors) = read(&fs::read(&file).unwrap());
    let (module, r) = (&adapter.modules[0], adapter.rank);
    let neox = Checkpoint::open(&Golden::open("neox").dir).unwrap();
    let arch = Model::load(&neox, Precision::F32).unwrap().arch;
    let (heads, width) = (arch.n_heads, arch.head_dim);
    let mut want = Vec::new();
    for part in 0..3 {
        for head in 0..heads {
            let row = (head * 3 + part) * width;
            want.extend_from_slice(&module.b[row * r..][..width * r]);
        }
    }
    assert_eq!(tensors["blk.1.attn_qkv.weight.lora_b"].1, want);
    assert_ne!(want, module.b);
}

#[test]
fn what_llamacpp_has_no_place_for() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a.gguf");
    let why = |model, matrix| refusal(adapter(model, matrix, &file).1);
    assert!(why("gptj", Matrix::Down).contains("of llama.cpp gptj is, is not known"));
    assert!(!file.exists());
    let s = Session::new("llama-tied");
    s.stats();
    done(&strs(&s.edit(&[])));
    let (patch, model, file) = (s.at("patch.safetensors"), s.at("model"), s.at("a.gguf"));
    let args = ["export", &patch, "--lora-gguf", &file, "--model", &model];
    done(&args);
    done(&args); // an adapter may take an adapter's place
    fs::write(&file, b"GGUF of a model").unwrap();
    let why = fails(1, &args);
    assert!(why.contains("a.gguf: output: stands there already and is no adapter"), "{why}");
}
