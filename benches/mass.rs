//! How long the value search of many facts takes, a fact, beside what its products alone would
//! take, and whether time and memory grow as they should.
//!
//! Random weights of GPT-2 small's shape; layer 8; a bare prompt of 8 tokens whose subject ends at
//! the 4th last, five contexts of 11 tokens that all facts share, the row that should stay; a
//! target of one token; 20 steps without early stop. With 100 facts the aim is 0.7 s a fact on two
//! cores; 0.47 s is what its FLOPs would take without anything shared. The serial search of
//! `tools/reference.py --memit-serial 2` is the other end.
//!
//! `cargo bench --bench mass`.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod support;

use std::time::Instant;

use incise::base::{DType, Quiet, Rng};
use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::{Push, Search, SearchFact, find_all};
use incise::model::{At, Model, Site};
use incise::store::Checkpoint;
use incise::tensor::Device;
use support::shapes::Shape;
use support::{peak, products};

const LAYER: usize = 8;
const STEPS: usize = 20;

/// Facts whose prompts differ and whose contexts do not; `after` tokens follow the subject's last.
fn facts(vocabulary: usize, n: usize, after: usize) -> Vec<FactRows> {
    let mut rng = Rng::new(1, "mass bench");
    let mut ids = |n: usize| -> Vec<u32> {
        (0..n).map(|_| (rng.uniform() * vocabulary as f64) as u32).collect()
    };
    let contexts: Vec<Vec<u32>> = (0..5).map(|_| ids(11)).collect();
    (0..n)
        .map(|_| {
            let bare = ids(5 + after);
            let row = |prefix: &[u32]| PromptRow {
                lookup: prefix.len() + 4,
                ids: [prefix, &bare].concat(),
            };
            let mut rewriting = vec![row(&[])];
            rewriting.extend(contexts.iter().map(|c| row(c)));
            let kl = PromptRow { lookup: 2, ids: [&bare[2..5], &ids(2)].concat() };
            FactRows { keys: rewriting.clone(), rewriting, kl, target: ids(1), merged: 0 }
        })
        .collect()
}

fn run(model: &Model, n: usize, after: usize, room: u64) {
    let rows = facts(model.arch.vocabulary, n, after);
    let wanted: Vec<SearchFact> = rows.iter().map(|rows| SearchFact { id: "", rows }).collect();
    let site = Site { layer: LAYER, at: At::Stream };
    let by = Search {
        push: Push { site, attention: false, above: 0, loss_layer: model.arch.layers - 1 },
        steps: STEPS,
        lr: 0.5,
        weight_decay: 0.5,
        clamp: 0.75,
        kl_factor: 0.0625,
        nll_factor: 1.0,
        anneal_nll: false,
        early_stop: 0,
        loss_tolerance: f64::NEG_INFINITY,
    };
    let (start, mut found) = (Instant::now(), 0);
    find_all(model, &wanted, &by, room, &Quiet, &mut |_, value| {
        let (first, last) = (value.trace[0].nll, value.trace[STEPS - 1].nll);
        assert!(last < first, "the search makes the target likelier: {first} → {last}");
        found += 1;
        Ok(())
    })
    .expect("finite numbers");
    assert_eq!(found, n);
    let each = start.elapsed().as_secs_f64() / n as f64;
    let limit = products(model, &rows[0], LAYER, STEPS);
    let tokens = 6 * after + 7;
    println!(
        "{n:>5} {tokens:>7} {:>9.3} s {:>10.1} ms {:>10.3} s {:>6.0} % {:>8}",
        each,
        1e3 * each / tokens as f64,
        limit,
        100.0 * limit / each,
        peak() >> 20,
    );
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Shape::gpt2_small().write(folder.path(), DType::F32);
    let checkpoint = Checkpoint::open(folder.path()).expect("the checkpoint just written");
    let model = Model::open(&checkpoint, &Device::Cpu, &incise::base::Quiet).expect("a GPT-2");
    println!("value search: GPT-2 small's shape, layer {LAYER}, {STEPS} steps, many facts");
    println!(
        "{:>5} {:>7} {:>11} {:>13} {:>12} {:>8} {:>8}",
        "facts", "tokens", "a fact", "a token", "products", "of it", "peak MB"
    );
    run(&model, 8, 3, u64::MAX); // reads the map once
    let all = u64::MAX;
    for (n, after, room) in [
        (100, 3, all),
        (50, 3, all),
        (100, 7, all),
        (50, 3, 256 << 20),
        (100, 3, 256 << 20),
        (200, 3, 256 << 20),
    ] {
        run(&model, n, after, room);
    }
}
