//! How long the value search of one fact takes, beside what its products alone would take.
//!
//! Random weights of GPT-2 small's shape; layer 8; a bare prompt of 8 tokens whose subject ends at
//! the 4th last, five contexts that add 11 tokens each, the row that should stay; a target of one
//! token; 20 steps without early stop. The aim is 1.0 s on two cores; the public serial code needs
//! 10 s (`tools/reference.py --random-gpt2-small` measures it).
//!
//! `cargo bench --bench search`; `-- f32`, `-- bf16` for one storage type.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod support;

use std::time::Instant;

use incise::base::{DType, Quiet, Rng};
use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::{self, Push, Search};
use incise::model::{At, Model, Site};
use incise::store::Checkpoint;
use incise::tensor::Device;
use support::shapes::Shape;
use support::{products, spread};

const LAYER: usize = 8;
const STEPS: usize = 20;
const RUNS: usize = 5;

fn rows(vocabulary: usize) -> FactRows {
    let mut rng = Rng::new(1, "search bench");
    let mut ids = |n: usize| -> Vec<u32> {
        (0..n).map(|_| (rng.uniform() * vocabulary as f64) as u32).collect()
    };
    let bare = ids(8);
    let prefixed = |prefix: Vec<u32>| PromptRow {
        lookup: prefix.len() + 4,
        ids: [&prefix, &bare[..]].concat(),
    };
    let mut rewriting = vec![prefixed(vec![])];
    rewriting.extend((0..5).map(|_| prefixed(ids(11))));
    let kl = PromptRow { lookup: 2, ids: [&bare[2..5], &ids(2)].concat() };
    FactRows { keys: rewriting.clone(), rewriting, kl, target: vec![17], merged: 0 }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("value search: GPT-2 small's shape, layer {LAYER}, {STEPS} steps, one fact");
    println!("{:<6} {:>16} {:>12} {:>14} {:>10}", "type", "time", "a step", "products", "of limit");
    for dtype in [DType::F32, DType::BF16] {
        if wanted.is_empty() || wanted.iter().any(|w| w.eq_ignore_ascii_case(dtype.name())) {
            run(dtype);
        }
    }
}

fn run(dtype: DType) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Shape::gpt2_small().write(folder.path(), dtype);
    let checkpoint = Checkpoint::open(folder.path()).expect("the checkpoint just written");
    let model = Model::open(&checkpoint, &Device::Cpu).expect("a GPT-2");
    let rows = rows(model.arch.vocabulary);
    let by = Search {
        steps: STEPS,
        lr: 0.5,
        weight_decay: 0.5,
        clamp: 4.0,
        kl_factor: 0.0625,
        push: Push {
            site: Site { layer: LAYER, at: At::Value },
            attention: false,
            loss_layer: model.arch.layers - 1,
        },
        nll_factor: 1.0,
        anneal_nll: false,
        loss_tolerance: f64::NEG_INFINITY,
    };
    let search = || {
        let start = Instant::now();
        let found = search::find(&model, &rows, &by, &Quiet).expect("finite numbers");
        assert_eq!(found.trace.len(), STEPS);
        let (first, last) = (found.trace[0].nll, found.trace[STEPS - 1].nll);
        assert!(last < first, "the search makes the target likelier: {first} → {last}");
        start.elapsed().as_secs_f64()
    };
    search(); // reads the map once
    let times: Vec<f64> = (0..RUNS).map(|_| search()).collect();
    let (mean, sigma) = spread(&times);
    let limit = products(&model, &rows, LAYER, STEPS);
    println!(
        "{:<6} {:>7.3} ± {:.3} s {:>9.1} ms {:>12.3} s {:>8.0} %",
        dtype.name(),
        mean,
        sigma,
        1e3 * mean / STEPS as f64,
        limit,
        100.0 * limit / mean,
    );
}
