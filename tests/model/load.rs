//! Checkpoints whose weights and configuration disagree.

use std::collections::BTreeMap;
use std::fs;

use incise::model::{Batch, Model, Past};
use incise::store::Checkpoint;
use incise::tensor::Precision;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::{Value, json};

use crate::support::golden::Golden;

/// Stored tensors of one file: type, shape and elements.
type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The error of opening a recorded model after its fields and tensors were changed.
fn open(name: &'static str, fields: Value, change: impl Fn(&mut Stored)) -> Result<(), String> {
    opened(name, fields, change).map(drop)
}

/// The same, with the model.
fn opened(
    name: &'static str,
    fields: Value,
    change: impl Fn(&mut Stored),
) -> Result<Model, String> {
    let golden = Golden::open(name);
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read(golden.dir.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    fields.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(golden.dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored =
        |(name, t): (String, TensorView)| (name, (t.dtype(), t.shape().into(), t.data().into()));
    let mut tensors: Stored = file.tensors().into_iter().map(stored).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let bytes = serialize(views, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let model = Model::load(&Checkpoint::open(folder.path()).unwrap(), Precision::F32);
    model.map_err(|e| e.to_string())
}

fn add(tensors: &mut Stored, name: &str) {
    tensors.insert(name.to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
}

#[test]
fn a_stored_tensor_of_a_layer_that_the_configuration_leaves_unread_is_refused() {
    let q_bias = "model.layers.0.self_attn.q_proj.bias";
    for (name, fields, tensor) in [
        ("llama-tied", json!({}), "model.layers.1.self_attn.q_norm.weight"),
        ("llama-tied", json!({}), "model.layers.0.mlp.down_proj.lora_A.weight"),
        ("llama-tied", json!({}), "model.layers.99.mlp.up_proj.weight"),
        ("qwen2", json!({"model_type": "llama", "layer_types": null}), q_bias),
        ("gptj", json!({}), "transformer.h.0.attn.q_proj.bias"),
    ] {
        let error = open(name, fields, |t| {
            if !t.contains_key(tensor) {
                add(t, tensor);
            }
        });
        let error = error.expect_err(tensor);
        let layer = tensor.rsplit_once(".self_attn").map_or(tensor, |(layer, _)| layer);
        assert!(error.contains(layer) && error.contains("config and weights disagree"), "{error}");
        assert!(error.contains("one source"), "{error}");
    }
}

#[test]
fn what_old_checkpoints_store_and_no_code_reads_is_ignored() {
    for (name, tensors) in [
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.1.attention.masked_bias"]),
        ("llama-tied", ["model.layers.0.self_attn.rotary_emb.inv_freq", "score.weight"]),
    ] {
        open(name, json!({}), |t| tensors.iter().for_each(|tensor| add(t, tensor))).unwrap();
    }
}

#[test]
fn a_head_that_is_stored_and_differs_from_the_embedding_it_is_tied_to_is_refused() {
    let copy = |t: &mut Stored| {
        let embed = t["model.embed_tokens.weight"].clone();
        t.insert("lm_head.weight".into(), embed);
    };
    open("llama-tied", json!({}), copy).unwrap();
    let changed = |t: &mut Stored| {
        copy(t);
        t.get_mut("lm_head.weight").unwrap().2[5] ^= 1;
    };
    let error = open("llama-tied", json!({}), changed).unwrap_err();
    for word in ["lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings"] {
        assert!(error.contains(word), "{error}");
    }
    let error = open("llama-tied", json!({}), |t| add(t, "lm_head.weight")).unwrap_err();
    assert!(error.contains("tie_word_embeddings"), "{error}");
    open("llama-tied", json!({"tie_word_embeddings": false}), changed).unwrap();
}

/// What a wrapper's first release wrote: the text model under its own name, its head with it.
#[test]
fn a_head_under_the_older_prefix_of_a_text_model_is_read() {
    const NAME: &str = "mistral-inner";
    let model = opened(NAME, json!({}), |t| {
        let older = |name: &str| match name.strip_prefix("model.language_model.") {
            Some(rest) => format!("language_model.model.{rest}"),
            None => format!("language_model.{name}"),
        };
        *t = std::mem::take(t).into_iter().map(|(name, t)| (older(&name), t)).collect();
        assert!(t.contains_key("language_model.lm_head.weight"));
    });
    let (model, golden) = (model.unwrap(), Golden::open(NAME));
    let prompt = &golden.json.prompts[0];
    let all: Vec<usize> = (0..prompt.len()).collect();
    let z = model.logits(&Batch::whole([prompt]), Past::None, &all).unwrap();
    golden.check("logits.0", &Precision::F32.into(), &z.to_f64());
}
