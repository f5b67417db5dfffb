//! GGUF files as checkpoints: each recorded model is written as llama.cpp's converter would write
//! it, and comes back.

use std::fs;
use std::path::{Path, PathBuf};

use incise::base::Quiet;
use incise::model::Arch;
use incise::model::families::{Described, describe};
use incise::model::gguf::{GgufModel, import};
use incise::store::Checkpoint;
use serde_json::{Value, json};

use crate::store::toy::refusal;
use crate::support::gguf::GgufWriter;
use crate::support::golden::Golden;

/// What the converter does to a tensor.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    /// Nothing.
    No,
    /// Rows of a head (2, E/2) become (E/2, 2).
    Pairs,
    /// Groups of q, k, v become all of q, all of k, all of v.
    Regroup,
    /// (in, out) becomes (out, in).
    Transpose,
}

/// A family: how its recorded model is called in a file, and what else the file says.
struct Case {
    golden: &'static str,
    architecture: &'static str,
    /// Names inside a layer: the framework's, llama.cpp's, and what is done.
    names: &'static [(&'static str, &'static str, Turn)],
    /// Whether the file has gains where the checkpoint has one less.
    gains: bool,
    /// Further pairs.
    more: fn(&mut GgufWriter, &Value, &Arch),
    /// What the recorded model has that no file can say.
    adjust: fn(&mut Arch, &Arch),
}

use Turn::{No, Pairs, Regroup, Transpose};

const LLAMA: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("self_attn.q_proj", "attn_q", Pairs),
    ("self_attn.k_proj", "attn_k", Pairs),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.o_proj", "attn_output", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("mlp.gate_proj", "ffn_gate", No),
    ("mlp.up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
];
const PLAIN: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("self_attn.q_proj", "attn_q", No),
    ("self_attn.k_proj", "attn_k", No),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.q_norm", "attn_q_norm", No),
    ("self_attn.k_norm", "attn_k_norm", No),
    ("self_attn.o_proj", "attn_output", No),
    ("self_attn.dense", "attn_output", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("mlp.gate_proj", "ffn_gate", No),
    ("mlp.up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
    ("mlp.fc1", "ffn_up", No),
    ("mlp.fc2", "ffn_down", No),
    ("mlp.c_fc", "ffn_up", No),
    ("mlp.c_proj", "ffn_down", No),
    ("self_attn.qkv_proj", "attn_qkv", No),
    ("mlp.gate_up_proj", "ffn_up", No),
    ("self_attention.query_key_value", "attn_qkv", No),
    ("self_attention.dense", "attn_output", No),
    ("mlp.dense_h_to_4h", "ffn_up", No),
    ("mlp.dense_4h_to_h", "ffn_down", No),
];
/// Norms behind the branches.
const BEHIND: &[(&str, &str, Turn)] = &[
    ("self_attn.q_proj", "attn_q", No),
    ("self_attn.k_proj", "attn_k", No),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.q_norm", "attn_q_norm", No),
    ("self_attn.k_norm", "attn_k_norm", No),
    ("self_attn.o_proj", "attn_output", No),
    ("input_layernorm", "attn_norm", No),
    ("post_attention_layernorm", "post_attention_norm", No),
    ("pre_feedforward_layernorm", "ffn_norm", No),
    ("post_feedforward_layernorm", "post_ffw_norm", No),
    ("mlp.gate_proj", "ffn_gate", No),
    ("mlp.up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
];
const GLM4: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("post_self_attn_layernorm", "post_attention_norm", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("post_mlp_layernorm", "post_ffw_norm", No),
    ("self_attn.q_proj", "attn_q", No),
    ("self_attn.k_proj", "attn_k", No),
    ("self_attn.v_proj", "attn_v", No),
    ("self_attn.o_proj", "attn_output", No),
    ("mlp.gate_up_proj", "ffn_up", No),
    ("mlp.down_proj", "ffn_down", No),
];
const GPT2: &[(&str, &str, Turn)] = &[
    ("ln_1", "attn_norm", No),
    ("attn.c_attn", "attn_qkv", Transpose),
    ("attn.c_proj", "attn_output", Transpose),
    ("ln_2", "ffn_norm", No),
    ("mlp.c_fc", "ffn_up", Transpose),
    ("mlp.c_proj", "ffn_down", Transpose),
];
const NEOX: &[(&str, &str, Turn)] = &[
    ("input_layernorm", "attn_norm", No),
    ("attention.query_key_value", "attn_qkv", Regroup),
    ("attention.dense", "attn_output", No),
    ("post_attention_layernorm", "ffn_norm", No),
    ("mlp.dense_h_to_4h", "ffn_up", No),
    ("mlp.dense_4h_to_h", "ffn_down", No),
];

/// Names outside of layers.
const OUTSIDE: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("wte", "token_embd"),
    ("embed_in", "token_embd"),
    ("word_embeddings", "token_embd"),
    ("wpe", "position_embd"),
    ("model.norm", "output_norm"),
    ("final_layernorm", "output_norm"),
    ("final_layer_norm", "output_norm"),
    ("ln_f", "output_norm"),
    ("lm_head", "output"),
    ("embed_out", "output"),
];

const BASE: Case = Case {
    golden: "llama",
    architecture: "llama",
    names: LLAMA,
    gains: false,
    more: |_, _, _| {},
    adjust: |_, _| {},
};
const OTHER: Case = Case { names: PLAIN, ..BASE };

/// The window and which layers have it.
fn windows(file: &mut GgufWriter, config: &Value, arch: &Arch) {
    let a = architecture(arch);
    let window = config["sliding_window"].as_u64().unwrap() as u32;
    file.u32(&format!("{a}.attention.sliding_window"), window);
    let each: Vec<u8> = arch.windows.iter().map(|window| window.is_some().into()).collect();
    file.array(&format!("{a}.attention.sliding_window_pattern"), 7, each.len(), &each);
}

fn no_windows(want: &mut Arch, got: &Arch) {
    want.windows.clone_from(&got.windows);
}

/// llama.cpp's name of a recorded model's family.
fn architecture(arch: &Arch) -> &'static str {
    cases().iter().find(|case| arch_of(case.golden).family == arch.family).unwrap().architecture
}

fn cases() -> Vec<Case> {
    vec![
        BASE,
        Case { golden: "llama-tied", ..BASE },
        Case {
            golden: "qwen2",
            architecture: "qwen2",
            more: |file, _, _| {
                file.text("qwen2.rope.scaling.type", "yarn").f32("qwen2.rope.scaling.factor", 4.0);
                file.u32("qwen2.rope.scaling.original_context_length", 64);
                file.f32("qwen2.rope.scaling.yarn_beta_fast", 8.0);
                file.f32("qwen2.rope.scaling.yarn_beta_slow", 0.5);
            },
            adjust: no_windows,
            ..OTHER
        },
        Case { golden: "qwen3", architecture: "qwen3", adjust: no_windows, ..OTHER },
        Case { golden: "gemma", architecture: "gemma", gains: true, ..OTHER },
        Case {
            golden: "gemma3",
            architecture: "gemma3",
            names: BEHIND,
            gains: true,
            more: |file, config, arch| {
                windows(file, config, arch);
                file.f32("gemma3.rope.freq_base_swa", 300.0);
                file.text("gemma3.rope.scaling.type", "linear");
                file.f32("gemma3.rope.scaling.factor", 2.0);
            },
            // The recorded model has another base of the scores' factor than any published one.
            adjust: |want, _| want.scales.score = (want.head_dim as f64).powf(-0.5),
        },
        Case {
            golden: "phi3",
            architecture: "phi3",
            more: |file, _, _| {
                file.u32("phi3.attention.sliding_window", 5);
                file.u32("phi3.rope.scaling.original_context_length", 48);
                for (name, factors) in [("short", [1.0f32, 1.25]), ("long", [2.0, 3.0])] {
                    let name = format!("rope_factors_{name}.weight");
                    file.tensor(&name, &[2], "F32", bytemuck::cast_slice(&factors));
                }
            },
            ..OTHER
        },
        Case { golden: "phi", architecture: "phi2", ..OTHER },
        Case { golden: "olmo", architecture: "olmo", ..BASE },
        Case { golden: "olmo2", architecture: "olmo2", names: BEHIND, ..BASE },
        Case {
            golden: "olmo3",
            architecture: "olmo2",
            names: BEHIND,
            more: |file, config, _| {
                let window = config["sliding_window"].as_u64().unwrap() as u32;
                file.u32("olmo2.attention.sliding_window", window);
                file.array("olmo2.attention.sliding_window_pattern", 7, 3, &[1, 1, 0]);
            },
            // Its two tables have bases that no published one has.
            adjust: |want, got| want.positions = got.positions.clone(),
            ..BASE
        },
        Case {
            golden: "smollm3",
            architecture: "smollm3",
            // The recorded model has other layers without positions than every fourth.
            adjust: |want, got| want.turned_by.clone_from(&got.turned_by),
            ..BASE
        },
        Case {
            golden: "granite",
            architecture: "granite",
            more: |file, _, _| {
                file.f32("granite.attention.scale", 0.4).f32("granite.embedding_scale", 3.5);
                file.f32("granite.residual_scale", 0.3).f32("granite.logit_scale", 1.75);
            },
            ..BASE
        },
        Case { golden: "starcoder2", architecture: "starcoder2", adjust: no_windows, ..OTHER },
        Case { golden: "stablelm", architecture: "stablelm", ..OTHER },
        Case { golden: "glm4", architecture: "glm4", names: GLM4, ..BASE },
        Case {
            golden: "cohere",
            architecture: "command-r",
            more: |file, _, _| {
                file.f32("command-r.logit_scale", 0.0625);
            },
            ..OTHER
        },
        Case { golden: "seed-oss", architecture: "seed_oss", names: BEHIND, ..BASE },
        Case {
            golden: "exaone4",
            architecture: "exaone4",
            names: BEHIND,
            more: windows,
            ..BASE
        },
        Case { golden: "gpt2", architecture: "gpt2", names: GPT2, ..BASE },
        Case { golden: "neox", architecture: "gptneox", names: NEOX, ..BASE },
        Case { golden: "falcon", architecture: "falcon", ..OTHER },
    ]
}

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
        No => out.extend(x),
        Transpose => {
            for column in 0..width {
                out.extend((0..shape[0]).map(|r| row(r)[column]));
            }
        }
        Pairs => {
            let half = shape[0] / heads / 2;
            for head in 0..heads {
                for i in 0..half {
                    for s in 0..2 {
                        out.extend(row((head * 2 + s) * half + i));
                    }
                }
            }
        }
        Regroup => {
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

/// The file of a recorded model.
fn written(case: &Case) -> GgufWriter {
    let checkpoint = Checkpoint::open(&folder(case.golden)).unwrap();
    let (config, arch, a) = (checkpoint.config(), arch_of(case.golden), case.architecture);
    let mut file = GgufWriter::new();
    let key = |name: &str| format!("{a}.{name}");
    file.text("general.architecture", a).text("general.type", "model");
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
    vocabulary(&mut file);
    (case.more)(&mut file, config, &arch);
    for name in checkpoint.names() {
        let (mut x, mut shape) = values(&checkpoint, name);
        let (stem, kind) = name.rsplit_once('.').unwrap();
        let inside = stem.split_once("layers.").or_else(|| stem.split_once(".h."));
        let inside = inside.and_then(|(_, rest)| rest.split_once('.'));
        let (there, turn) = match inside {
            None => {
                let find = |(own, _): &&(&str, &str)| stem.ends_with(own);
                (OUTSIDE.iter().find(find).unwrap().1.to_owned(), No)
            }
            Some((l, own)) => {
                let (_, there, turn) = case.names.iter().find(|(name, ..)| *name == own).unwrap();
                (format!("blk.{l}.{there}"), *turn)
            }
        };
        let turn = if turn == Transpose && shape.len() == 1 { No } else { turn };
        let heads = if there.ends_with("attn_k") { arch.n_kv_heads } else { arch.n_heads };
        x = turned(&x, &shape, turn, heads, arch.n_kv_heads);
        if turn == Transpose {
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
    for (i, case) in cases().into_iter().enumerate() {
        let (path, out) = (temp.path().join("x.gguf"), temp.path().join(i.to_string()));
        fs::write(&path, written(&case).bytes()).unwrap();
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

/// A file of a small model with one thing changed, and why it is refused.
#[test]
fn files_that_contradict_themselves() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    let refused = |change: &dyn Fn(&mut GgufWriter), why: &str| {
        let mut file = written(&BASE);
        change(&mut file);
        fs::write(&path, file.bytes()).unwrap();
        let message = refusal(GgufModel::open(&path).map(drop));
        assert!(message.contains("x.gguf: ") && message.contains(why), "{message}");
    };
    let key = |name: &str| format!("llama.{name}");
    let u32 = |name: &str, n: u32| {
        let key = key(name);
        move |file: &mut GgufWriter| {
            file.replace(&key, 4, &n.to_le_bytes());
        }
    };
    refused(&u32("block_count", 1 << 31), "llama.block_count: is 2147483648, and the file has");
    refused(&u32("block_count", 4), "blk.3.attn_norm.weight: no such tensor");
    refused(&u32("block_count", 2), "blk.2.attn_k.weight: a model of llama has no such tensor");
    refused(&u32("block_count", 0), "num_hidden_layers: 0 is not a size");
    refused(&u32("attention.head_count", 0), "num_attention_heads: 0 is not a size");
    refused(&u32("attention.head_count", 5), "blk.0.attn_q.weight: has the shape");
    refused(&u32("attention.value_length", 7), "attention.value_length: is not the width of keys");
    refused(&u32("embedding_length", u32::MAX), "hidden_size: 4294967295 is not a size");
    refused(&u32("feed_forward_length", 7), "blk.0.ffn_gate.weight: has the shape [50, 36]");
    refused(&u32("rope.dimension_count", 2), "rope.dimension_count: is 2, and in this family all");
    refused(&u32("context_length", 0), "max_position_embeddings: 0 is not a size");
    refused(
        &|file| {
            file.replace("general.architecture", 8, &crate::support::gguf::text("mamba"));
        },
        "general.architecture: `mamba` is not implemented; use a file of one of: llama, qwen2",
    );
    refused(
        &|file| {
            file.replace("general.type", 8, &crate::support::gguf::text("adapter"));
        },
        "general.type: the file holds a `adapter`",
    );
    refused(
        &|file| {
            file.pair("split.count", 2, &[3, 0]);
        },
        "split.count: this is one of 3 files",
    );
    refused(
        &|file| {
            file.f32("llama.attn_logit_softcapping", 50.0);
        },
        "llama.attn_logit_softcapping: no model of llama has it",
    );
    refused(
        &|file| {
            file.f32("llama.rope.scaling.factor", f32::NAN);
        },
        "llama.rope.scaling.factor: is NaN",
    );
    refused(
        &|file| {
            file.tensor("rope_freqs.weight", &[2, 3], "F32", &[0; 24]);
        },
        "rope_freqs.weight: is no vector",
    );
    refused(
        &|file| {
            file.tensor("blk.0.ffn_gate_exps.weight", &[1], "F32", &[0; 4]);
        },
        "blk.0.ffn_gate_exps.weight: a model of llama has no such tensor",
    );
    refused(
        &|file| {
            file.replace("llama.attention.head_count", 6, &6f32.to_le_bytes());
        },
        "llama.attention.head_count: is no whole number",
    );
    refused(
        &|file| {
            let many: Vec<String> = (0..500).map(|i| i.to_string()).collect();
            file.remove("tokenizer.ggml.tokens").texts("tokenizer.ggml.tokens", &many);
        },
        "tokenizer.ggml.tokens: 500 tokens, and the embedding has 367 rows",
    );
    refused(
        &|file| {
            file.remove("tokenizer.ggml.model");
        },
        "tokenizer.ggml.model: is missing",
    );
}
