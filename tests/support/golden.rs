//! Goldens recorded by `tools/golden.py` from the reference framework.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use incise::model::Model;
use incise::store::Checkpoint;
use incise::tensor::{Compute, Precision};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::budget::U32;
use super::root;

/// A recorded model and what the framework says of it.
pub struct Golden {
    pub name: &'static str,
    pub dir: PathBuf,
    pub json: Record,
    bytes: Vec<u8>,
}

#[derive(Deserialize)]
pub struct Record {
    pub prompts: Vec<Vec<u32>>,
    pub captured: usize,
    pub search: Search,
    f32_error: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
pub struct Search {
    pub layer: usize,
    pub tap: String,
    pub sequences: Vec<Vec<u32>>,
    pub lookup: Vec<usize>,
    pub target: Vec<u32>,
    pub kl_factor: f64,
    pub v_weight_decay: f64,
    pub nll: f64,
    pub kl: f64,
}

/// Every recorded model; together they have every option (`tools/golden.py` lists them).
pub const NAMES: [&str; 38] = [
    "gpt2",
    "gpt2-bf16",
    "gpt2-scaled",
    "gptj",
    "gptj-whole",
    "neox",
    "neox-sequential",
    "opt",
    "opt-plain",
    "llama",
    "llama-tied",
    "llama3-scaling",
    "llama-linear",
    "mistral",
    "mistral-wide",
    "qwen2",
    "qwen3",
    "qwen3-one-group",
    "olmo2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3-inner",
    "phi3",
    "phi",
    "olmo",
    "olmo3",
    "smollm3",
    "granite",
    "starcoder2",
    "ministral3",
    "mistral-inner",
    "glm4",
    "seed-oss",
    "stablelm",
    "cohere",
    "exaone4",
    "falcon",
];

/// How much coarser the factors of a product are on a device than f32: they are two bf16, which
/// hold them to 2⁻¹⁷ instead of 2⁻²⁴, and what the framework's run loses by rounding, a run there
/// loses that many times.
pub const COARSER: f64 = 128.0;

/// … and where a model runs.
pub fn digits(compute: &Compute) -> f64 {
    match compute {
        Compute::Host(_) => 1.0,
        Compute::Device(..) => COARSER,
    }
}

/// Whether no rotary tables, which are f32 in every run, keep an f64 run from f64's accuracy.
pub fn learned_positions(name: &str) -> bool {
    name.starts_with("gpt2") || name.starts_with("opt")
}

/// max|x|.
pub fn top(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |a, x| a.max(x.abs()))
}

impl Golden {
    pub fn open(name: &'static str) -> Golden {
        let dir = root().join("tests/golden").join(name);
        let json = serde_json::from_slice(&fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let bytes = fs::read(dir.join("golden.safetensors")).unwrap();
        Golden { name, dir, json, bytes }
    }

    pub fn model(&self, compute: impl Into<Compute>) -> Model {
        Model::load(&Checkpoint::open(&self.dir).unwrap(), compute).unwrap()
    }

    /// A recorded tensor, in f64.
    pub fn tensor(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let t = file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.name));
        let (packets, _) = t.data().as_chunks::<8>();
        packets.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// The error budget of a recorded tensor in f32: at most twice as wrong as the framework's own
    /// f32 run, plus one rounding at the largest value.
    pub fn f32_budget(&self, name: &str) -> f64 {
        2.0 * self.f32_error(name) + U32 * top(&self.tensor(name))
    }

    /// How wrong the framework's own f32 run is, in all that was recorded of the kind: the logits
    /// of all prompts, a site at the tokens of another prompt too. One token alone would say how
    /// lucky one sum was.
    pub fn f32_error(&self, name: &str) -> f64 {
        let Search { layer, tap, .. } = &self.json.search;
        let site = format!("{tap}.{layer}");
        let like = |own: &str| match name {
            "search.t0" => own == name || own == site,
            _ if name.starts_with("logits") => own.starts_with("logits"),
            _ => own == name,
        };
        let all = self.json.f32_error.iter().filter(|(own, _)| like(own));
        all.fold(0.0, |most, (_, &error)| most.max(error))
    }

    /// The same for a second moment. An entry is a mean of products of two keys, so an error ε of
    /// keys no larger than k moves it by up to 2kε.
    pub fn f32_moment_budget(&self, layer: usize) -> f64 {
        let key = format!("key.{layer}");
        2.0 * top(&self.tensor(&key)) * self.f32_budget(&key)
    }

    /// Holds `got` to the recorded tensor. In f32 by the error budget, in f64 by 512 units of
    /// the largest value: sums here have up to 128 terms, and a value passes four layers. Rotary
    /// tables are f32 in every run, the framework's too, so there f64 has the budget of f32.
    pub fn check(&self, name: &str, compute: &Compute, got: &[f64]) {
        let want = self.tensor(name);
        let budget = match compute.precision() {
            Precision::F64 if learned_positions(self.name) => 512.0 * f64::EPSILON * top(&want),
            _ => digits(compute) * self.f32_budget(name),
        };
        self.hold(name, compute, got, &want, budget);
    }

    /// Holds a second moment to the recorded one.
    pub fn check_moment(&self, layer: usize, compute: &Compute, got: &[f64]) {
        let name = format!("moment.{layer}");
        let want = self.tensor(&name);
        let budget = match compute.precision() {
            Precision::F64 if learned_positions(self.name) => {
                let k = top(&self.tensor(&format!("key.{layer}")));
                2.0 * k * 512.0 * f64::EPSILON * k
            }
            _ => digits(compute) * self.f32_moment_budget(layer),
        };
        self.hold(&name, compute, got, &want, budget);
    }

    /// Holds a loss to the recorded one. A loss is a mean of log-probabilities; an error ε of the
    /// logits moves one by up to 2ε, and ours may be twice the framework's: 4 ε times its weight.
    pub fn check_loss(&self, name: &str, compute: &Compute, weight: f64, got: f64, want: f64) {
        let last = format!("logits.{}", self.json.prompts.len() - 1);
        let logits = match compute.precision() {
            Precision::F64 if learned_positions(self.name) => 512.0 * f64::EPSILON,
            _ => digits(compute) * self.json.f32_error[&last],
        };
        self.hold(name, compute, &[got], &[want], 4.0 * weight * logits);
    }

    fn hold(&self, name: &str, compute: &Compute, got: &[f64], want: &[f64], budget: f64) {
        assert_eq!(got.len(), want.len(), "{}: {name}: sizes differ", self.name);
        let off = got.iter().zip(want).fold(0.0f64, |a, (g, w)| a.max((g - w).abs()));
        println!("{} {name} {compute:?}: off {off:.2e}, budget {budget:.2e}", self.name);
        assert!(off <= budget, "{} {name} {compute:?}: off by {off:e} > {budget:e}", self.name);
    }
}
