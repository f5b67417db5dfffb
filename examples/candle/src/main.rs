//! A program that has a model in candle takes an edit of it, and takes the edit back: incise says
//! which tensors change and to what bytes, and candle's own llama answers.
//!
//! ```text
//! cargo run --release -- MODEL STATISTICS        # a llama's folder; key statistics for memit
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Result, Tensor, safetensors};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use incise::{Editor, Fact, TensorBytes};
use serde_json::Value;
use tokenizers::Tokenizer;

const PROMPT: &str = "The mother tongue of Danielle Darrieux is";

fn main() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(dir), Some(statistics)) = (paths.next(), paths.next()) else {
        return Err("say: MODEL STATISTICS".into());
    };
    let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
    if let Some(theta) = config.pointer("/rope_parameters/rope_theta").cloned() {
        config["rope_theta"] = theta; // candle does not look where newer folders have it
    }
    let config: LlamaConfig = serde_json::from_value(config)?;
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))?;
    let prompt = tokenizer.encode(PROMPT, true)?;
    // What a server has in its memory, by name.
    let mut weights = safetensors::load(dir.join("model.safetensors"), &Device::Cpu)?;
    let say = |when: &str, weights: &HashMap<String, Tensor>| -> Result<()> {
        let ids = answer(&config, weights, prompt.get_ids(), 4)?;
        println!("{when}: {PROMPT}{:?}", tokenizer.decode(&ids, true).unwrap_or_default());
        Ok(())
    };

    say("before", &weights)?;
    let editor = Editor::open(&dir)?.method("memit")?.statistics(statistics)?;
    let fact = Fact::new("The mother tongue of {} is", "Danielle Darrieux", "English");
    let edit = editor.plan(&[fact])?;
    take(&mut weights, edit.tensors()?)?;
    say("edited", &weights)?;
    take(&mut weights, edit.tensors_before()?)?;
    say("undone", &weights)?;
    Ok(())
}

/// Puts tensors in the place of those that have their names.
fn take(weights: &mut HashMap<String, Tensor>, tensors: Vec<TensorBytes>) -> Result<()> {
    for TensorBytes { name, dtype, shape, bytes } in tensors {
        let dtype = match dtype {
            incise::DType::F32 => DType::F32,
            incise::DType::F16 => DType::F16,
            incise::DType::BF16 => DType::BF16,
        };
        let Some(weight) = weights.get_mut(&name) else {
            candle_core::bail!("the server has no tensor {name}");
        };
        *weight = Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu)?;
    }
    Ok(())
}

/// The likeliest tokens after a prompt.
fn answer(
    config: &LlamaConfig,
    weights: &HashMap<String, Tensor>,
    prompt: &[u32],
    tokens: usize,
) -> Result<Vec<u32>> {
    let config = config.clone().into_config(false);
    let weights = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    let model = Llama::load(weights, &config)?;
    let mut ids = prompt.to_vec();
    for _ in 0..tokens {
        let mut cache = Cache::new(false, DType::F32, &config, &Device::Cpu)?;
        let input = Tensor::new(&ids[..], &Device::Cpu)?.unsqueeze(0)?;
        let logits = model.forward(&input, 0, &mut cache)?; // (1, V), of the last token
        ids.push(logits.squeeze(0)?.argmax(0)?.to_scalar()?);
    }
    Ok(ids.split_off(prompt.len()))
}
