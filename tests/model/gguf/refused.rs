//! Files that contradict themselves: a small model with one thing changed each.

use std::fs;

use incise::model::gguf::GgufModel;

use super::small;
use crate::store::toy::refusal;
use crate::support::gguf::{GgufWriter, text};

/// The changed file is refused in these words.
#[track_caller]
fn refused(change: impl Fn(&mut GgufWriter), why: &str) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    let mut file = small();
    change(&mut file);
    fs::write(&path, file.bytes()).unwrap();
    let message = refusal(GgufModel::open(&path).map(drop));
    assert!(message.contains("x.gguf: ") && message.contains(why), "{message}");
}

#[test]
fn sizes() {
    for (name, n, why) in [
        ("block_count", 1 << 31, "llama.block_count: is 2147483648, and the file has"),
        ("block_count", 4, "blk.3.attn_norm.weight: no such tensor"),
        ("block_count", 2, "a model of llama has no such tensor"),
        ("block_count", 0, "num_hidden_layers: 0 is not a size"),
        ("attention.head_count", 0, "num_attention_heads: 0 is not a size"),
        ("attention.head_count", 8, "blk.0.attn_q.weight: has the shape"),
        ("attention.value_length", 7, "attention.value_length: is not the width of keys"),
        ("embedding_length", u32::MAX, "hidden_size: 4294967295 is not a size"),
        ("feed_forward_length", 7, "blk.0.ffn_gate.weight: has the shape [50, 36]"),
        ("rope.dimension_count", 2, "rope.dimension_count: is 2, and in this family all"),
        ("context_length", 0, "max_position_embeddings: 0 is not a size"),
    ] {
        let key = format!("llama.{name}");
        refused(|file| _ = file.replace(&key, 4, &n.to_le_bytes()), why);
    }
}

#[test]
fn pairs() {
    refused(
        |file| _ = file.replace("general.architecture", 8, &text("mamba")),
        "general.architecture: `mamba` is not implemented; use a file of one of: llama, qwen2",
    );
    refused(
        |file| _ = file.replace("general.type", 8, &text("adapter")),
        "general.type: the file holds a `adapter`",
    );
    refused(|file| _ = file.pair("split.count", 2, &[3, 0]), "split.count: this is one of 3 files");
    refused(
        |file| _ = file.f32("llama.attn_logit_softcapping", 50.0),
        "llama.attn_logit_softcapping: no model of llama has it",
    );
    refused(
        |file| _ = file.f32("llama.rope.scaling.factor", f32::NAN),
        "llama.rope.scaling.factor: is NaN",
    );
    refused(
        |file| _ = file.text("llama.rope.scaling.type", "spiral"),
        "llama.rope.scaling.type: `spiral` is not implemented",
    );
    refused(
        |file| _ = file.replace("llama.attention.head_count", 6, &6f32.to_le_bytes()),
        "llama.attention.head_count: is no whole number",
    );
    refused(
        |file| {
            let each = [6u32, 3].map(u32::to_le_bytes).concat();
            file.remove("llama.attention.head_count");
            file.array("llama.attention.head_count", 4, 2, &each);
        },
        "llama.attention.head_count: differs from layer to layer",
    );
}

#[test]
fn tensors() {
    refused(
        |file| _ = file.tensor("rope_freqs.weight", &[2, 3], "F32", &[0; 24]),
        "rope_freqs.weight: is no vector",
    );
    refused(
        |file| _ = file.tensor("blk.0.ffn_gate_exps.weight", &[1], "F32", &[0; 4]),
        "blk.0.ffn_gate_exps.weight: a model of llama has no such tensor",
    );
    refused(
        |file| _ = file.tensor("blk.0.attn_output.bias", &[36], "F32", &[0; 144]),
        "some of the biases that attention_bias switches are there, not all",
    );
}

#[test]
fn vocabularies() {
    refused(
        |file| {
            let many: Vec<String> = (0..500).map(|i| i.to_string()).collect();
            file.remove("tokenizer.ggml.tokens").texts("tokenizer.ggml.tokens", &many);
        },
        "tokenizer.ggml.tokens: 500 tokens, and the embedding has 367 rows",
    );
    refused(|file| _ = file.remove("tokenizer.ggml.model"), "tokenizer.ggml.model: is missing");
    refused(
        |file| _ = file.replace("tokenizer.ggml.tokens", 8, &text("a")),
        "tokenizer.ggml.tokens: is no list of texts",
    );
}
