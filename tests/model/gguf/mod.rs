//! GGUF files as checkpoints: each recorded model is written as llama.cpp's converter would write
//! it, and comes back.

mod cases;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use incise::base::Quiet;
use incise::model::Arch;
use incise::model::families::{Described, describe};
use incise::model::gguf::{GgufModel, import};
use incise::store::Checkpoint;
use serde_json::{Value, json};

use crate::support::gguf::GgufWriter;
use crate::support::golden::Golden;
use cases::{BASE, CASES, Case, OUTSIDE, Turn};

fn folder(golden: &str) -> PathBuf {
    crate::support::root().join("tests/golden").join(golden)
}

fn arch_of(golden: &str) -> Arch {
    let checkpoint = Checkpoint::open(&folder(golden)).unwrap();
    let Described { arch, .. } = describe(checkpoint.config(), Path::new("config.json")).unwrap();
    arch
}

/// The values of a tensor of a checkpoint, and its sizes.
fn values(checkpoint: &Checkpoint, name: &str) -> (Vec<f32>, Vec<usize>) {
    let tensor = checkpoint.tensor(name).unwrap().unwrap();
    let mut values = vec![0.0; tensor.shape.iter().product()];
    tensor.dtype.widen(&tensor.bytes, &mut values);
    (values, tensor.shape)
}

/// As the converter turns it: by sizes and strides, and not row by row as it is turned back.
fn turned(x: &[f32], shape: &[usize], turn: Turn, heads: usize, groups: usize) -> Vec<f32> {
    let width = shape.get(1).copied().unwrap_or(1);
    let row = |r: usize| &x[r * width..][..width];
    let mut out = Vec::new();
    match turn {
        Turn::No => out.extend(x),
        Turn::Transpose => {
            for column in 0..width {
                out.extend((0..shape[0]).map(|r| row(r)[column]));
            }
        }
        Turn::Pairs => {
            let half = shape[0] / heads / 2;
            for head in 0..heads {
                for i in 0..half {
                    for s in 0..2 {
                        out.extend(row((head * 2 + s) * half + i));
                    }
                }
            }
        }
        Turn::Regroup => {
            let part = shape[0] / groups / 3;
            for which in 0..3 {
                for group in 0..groups {
                    (0..part).for_each(|i| out.extend(row((group * 3 + which) * part + i)));
                }
            }
        }
    }
    out
}

/// The pairs of a recorded model's sizes.
fn sizes(file: &mut GgufWriter, a: &str, config: &Value, arch: &Arch) {
    let key = |name: &str| format!("{a}.{name}");
    let context = ["max_position_embeddings", "n_positions"];
    let context = context.iter().find_map(|field| config[field].as_u64()).unwrap();
    for (name, size) in [
        ("block_count", arch.layers),
        ("embedding_length", arch.width),
        ("feed_forward_length", arch.inner),
        ("attention.head_count", arch.n_heads),
        ("attention.head_count_kv", arch.n_kv_heads),
        ("attention.key_length", arch.head_dim),
        ("attention.value_length", arch.head_dim),
        ("context_length", context as usize),
    ] {
        file.u32(&key(name), size as u32);
    }
    for name in ["attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"] {
        file.f32(&key(name), arch.eps as f32);
    }
    if let Some(rotary) = arch.rotary().last() {
        file.u32(&key("rope.dimension_count"), 2 * rotary.frequency.len() as u32);
        let named = ["rope_theta", "rotary_emb_base"].map(|field| config[field].as_f64());
        let parameters = &config["rope_parameters"];
        let inner = [parameters, &parameters["full_attention"]].map(|p| p["rope_theta"].as_f64());
        let theta = named.into_iter().chain(inner).flatten().next().unwrap_or(1e4);
        file.f32(&key("rope.freq_base"), theta as f32);
    }
    file.bool(&key("use_parallel_residual"), arch.parallel);
}

/// Name in the file, and what is done, of a tensor of a checkpoint.
fn place(case: &Case, stem: &str) -> (String, Turn) {
    let inside = stem.split_once("layers.").or_else(|| stem.split_once(".h."));
    match inside.and_then(|(_, rest)| rest.split_once('.')) {
        None => {
            let find = |(own, _): &&(&str, &str)| stem.ends_with(own);
            (OUTSIDE.iter().find(find).unwrap().1.to_owned(), Turn::No)
        }
        Some((l, own)) => {
            let (_, there, turn) = case.names.iter().find(|(name, ..)| *name == own).unwrap();
            (format!("blk.{l}.{there}"), *turn)
        }
    }
}

/// The file of a recorded model.
fn written(case: &Case) -> GgufWriter {
    let checkpoint = Checkpoint::open(&folder(case.golden)).unwrap();
    let (config, arch) = (checkpoint.config(), arch_of(case.golden));
    let mut file = GgufWriter::new();
    file.text("general.architecture", case.architecture).text("general.type", "model");
    sizes(&mut file, case.architecture, config, &arch);
    vocabulary(&mut file);
    (case.more)(&mut file, config, &arch);
    for name in checkpoint.names() {
        let (mut x, mut shape) = values(&checkpoint, name);
        let (stem, kind) = name.rsplit_once('.').unwrap();
        let (there, turn) = place(case, stem);
        let turn = if turn == Turn::Transpose && shape.len() == 1 { Turn::No } else { turn };
        let heads = if there.ends_with("attn_k") { arch.n_kv_heads } else { arch.n_heads };
        x = turned(&x, &shape, turn, heads, arch.n_kv_heads);
        if turn == Turn::Transpose {
            shape.reverse();
        }
        if case.gains && there.ends_with("norm") {
            x.iter_mut().for_each(|x| *x += 1.0);
        }
        file.tensor(&format!("{there}.{kind}"), &shape, "F32", bytemuck::cast_slice(&x));
    }
    file
}

/// A vocabulary of small letters and the space.
fn vocabulary(file: &mut GgufWriter) {
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
    let letters: Vec<String> = ('a'..='z').chain(['Ġ']).map(String::from).collect();
    file.texts("tokenizer.ggml.tokens", &letters).texts::<&str>("tokenizer.ggml.merges", &[]);
    file.u32("tokenizer.ggml.eos_token_id", 25);
}

/// A small model of Llama's layout.
pub fn small() -> GgufWriter {
    written(&BASE)
}

#[test]
fn every_family_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    for (i, case) in CASES.iter().enumerate() {
        let (path, out) = (temp.path().join("x.gguf"), temp.path().join(i.to_string()));
        fs::write(&path, written(case).bytes()).unwrap();
        let golden = case.golden;
        import(&path, &out, None, &Quiet).unwrap_or_else(|e| panic!("{golden}: {e}"));
        let (made, recorded) = (Checkpoint::open(&out).unwrap(), folder(golden));
        let recorded = Checkpoint::open(&recorded).unwrap();
        let mut want = arch_of(golden);
        let got = describe(made.config(), Path::new("config.json")).unwrap().arch;
        (case.adjust)(&mut want, &got);
        assert_eq!(got, want, "{golden}");
        assert!(made.names().eq(recorded.names()), "{golden}");
        for name in recorded.names() {
            let ((x, shape), (mut wanted, sizes)) = (values(&made, name), values(&recorded, name));
            if case.gains && name.contains("norm") {
                wanted.iter_mut().for_each(|w| *w = (*w + 1.0) - 1.0);
            }
            assert_eq!(shape, sizes, "{golden}: {name}");
            assert_eq!(x, wanted, "{golden}: {name}");
        }
        incise::model::Model::load(&made, incise::tensor::Precision::F32)
            .unwrap_or_else(|e| panic!("{golden}: {e}"));
    }
}

/// The types of elements: as in the file, or as asked.
#[test]
fn types_of_elements() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    let golden = Golden::open("llama");
    fs::write(&path, written(&BASE).bytes()).unwrap();
    for (asked, name, words) in [
        (None, "F32", "float32"),
        (Some(incise::base::DType::BF16), "BF16", "bfloat16"),
        (Some(incise::base::DType::F16), "F16", "float16"),
    ] {
        let out = temp.path().join(name);
        let made = import(&path, &out, asked, &Quiet).unwrap();
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.config()["torch_dtype"], words);
        assert!(checkpoint.entries().all(|(_, _, entry)| entry.dtype == name), "{name}");
        let (_, file, _) = checkpoint.entries().next().unwrap();
        let metadata = &file.header().metadata;
        assert_eq!((&*metadata["format"], &metadata["gguf"]), ("pt", &made.origin));
        assert_eq!(made.origin.len(), 32);
    }
    // The recorded model is in F16, so that this type holds its values.
    let (f16, recorded) = (temp.path().join("F16"), &golden.dir);
    let (f16, recorded) = (Checkpoint::open(&f16).unwrap(), Checkpoint::open(recorded).unwrap());
    for name in recorded.names() {
        assert_eq!(values(&f16, name), values(&recorded, name), "{name}");
    }
}

/// Llama 3 keeps its scaling as factors. By this base one frequency stays, one is between and one
/// is divided by 32.
#[test]
fn factors_of_frequencies() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    let theta = 2.16e8f32;
    let scaling = |factors: [f32; 3]| {
        let mut file = written(&BASE);
        file.replace("llama.rope.freq_base", 6, &theta.to_le_bytes());
        file.tensor("rope_freqs.weight", &[3], "F32", bytemuck::cast_slice(&factors));
        fs::write(&path, file.bytes()).unwrap();
        GgufModel::open(&path).unwrap().config()["rope_scaling"].clone()
    };
    // As the converter computes them, from wavelengths, in single precision.
    let factors = [0, 1, 2].map(|i| {
        let wave = std::f32::consts::TAU * theta.powf(i as f32 / 3.0);
        let smooth = (8192.0 / wave - 1.0) / 3.0;
        match wave {
            w if w < 2048.0 => 1.0,
            w if w > 8192.0 => 32.0,
            _ => 1.0 / ((1.0 - smooth) / 32.0 + smooth),
        }
    });
    assert!(1.0 < factors[1] && factors[1] < 32.0, "{factors:?}");
    let want = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    assert_eq!(scaling(factors), want);
    // Any others are kept as they are, and reach as far as the context.
    let want = json!({"rope_type": "longrope", "short_factor": [1.5, 2.0, 32.0],
                      "long_factor": [1.5, 2.0, 32.0], "attention_factor": 1.0,
                      "original_max_position_embeddings": 71});
    assert_eq!(scaling([1.5, 2.0, 32.0]), want);
}

/// What published files say and their family's row has to take: a window of 0 is none, YaRN's
/// factor of cos and sin, special tokens outside of the vocabulary that nobody adds.
#[test]
fn keys_of_published_files() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    let config = |golden: &str, change: &dyn Fn(&mut GgufWriter)| {
        let mut file = written(CASES.iter().find(|case| case.golden == golden).unwrap());
        change(&mut file);
        fs::write(&path, file.bytes()).unwrap();
        let model = GgufModel::open(&path).unwrap();
        model.tokenizer().unwrap();
        model.config().clone()
    };
    let none = |file: &mut GgufWriter| {
        file.replace("phi3.attention.sliding_window", 4, &[0; 4]);
        file.u32("tokenizer.ggml.padding_token_id", u32::MAX);
    };
    assert_eq!(config("phi3", &none)["sliding_window"], Value::Null);
    let yarn = |file: &mut GgufWriter| {
        file.text("olmo2.rope.scaling.type", "yarn").f32("olmo2.rope.scaling.factor", 8.0);
        file.f32("olmo2.rope.scaling.attn_factor", 1.25);
    };
    let scaling = config("olmo2", &yarn)["rope_scaling"].clone();
    assert_eq!(scaling, json!({"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.25}));
}
