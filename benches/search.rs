//! How long the value search of one fact takes, beside what its products alone would take.
//!
//! Random weights of GPT-2 small's shape; layer 8; a bare prompt of 8 tokens whose subject ends at
//! the 4th last, five contexts that add 11 tokens each, the row that should stay; a target of one
//! token; 20 steps without early stop. The aim is 1.0 s on two cores; the public serial code needs
//! 10 s (`tools/reference.py --random-gpt2-small` measures it).
//!
//! `cargo bench --bench search`; `-- BF16`, say, for one storage type; `-- --save-baseline NAME`
//! and `-- --baseline NAME` to compare two commits.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod support;

use std::cell::LazyCell;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use incise::base::{DType, Quiet, Rng};
use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::{Push, Search};
use incise::model::{At, Model, Site};
use incise::store::Checkpoint;
use incise::tensor::Device;
use support::shapes::Shape;
use support::{products, spread};

const LAYER: usize = 8;
const STEPS: usize = 20;
const RUNS: usize = 10;

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

/// A model of random weights, in a folder that lives as long as its map.
struct Subject {
    model: Model,
    rows: FactRows,
    _folder: tempfile::TempDir,
}

impl Subject {
    fn new(dtype: DType) -> Subject {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Shape::gpt2_small().write(folder.path(), dtype);
        let checkpoint = Checkpoint::open(folder.path()).expect("the checkpoint just written");
        let model = Model::open(&checkpoint, &Device::Cpu, &incise::base::Quiet).expect("a GPT-2");
        let rows = rows(model.arch.vocabulary);
        let subject = Subject { model, rows, _folder: folder };
        subject.search(); // reads the map once
        subject
    }

    fn search(&self) -> Duration {
        let by = Search {
            steps: STEPS,
            lr: 0.5,
            weight_decay: 0.5,
            clamp: 4.0,
            kl_factor: 0.0625,
            push: Push {
                site: Site { layer: LAYER, at: At::VALUE },
                attention: false,
                above: 0,
                loss_layer: self.model.arch.layers - 1,
            },
            nll_factor: 1.0,
            anneal_nll: false,
            early_stop: 0,
            loss_tolerance: f64::NEG_INFINITY,
        };
        let start = Instant::now();
        let found = incise::edit::search::find(&self.model, &self.rows, &by, &Quiet)
            .expect("finite numbers");
        let took = start.elapsed();
        assert_eq!(found.trace.len(), STEPS);
        let first = found.trace[0].nll;
        let last = found.trace[STEPS - 1].nll;
        assert!(last < first, "the search makes the target likelier: {first} → {last}");
        took
    }
}

fn search(criterion: &mut Criterion) {
    println!("value search: GPT-2 small's shape, layer {LAYER}, {STEPS} steps, one fact");
    let mut group = criterion.benchmark_group("search");
    group.sample_size(RUNS).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
    for dtype in [DType::F32, DType::BF16] {
        let subject = LazyCell::new(|| Subject::new(dtype));
        let mut times = Vec::new();
        group.bench_function(dtype.name(), |bencher| {
            bencher.iter_custom(|n| {
                let took: Duration = (0..n).map(|_| subject.search()).sum();
                times.push(took.as_secs_f64() / n as f64);
                took
            });
        });
        if times.is_empty() {
            continue; // not asked for
        }
        let (mean, sigma) = spread(&times);
        let limit = products(&subject.model, &subject.rows, LAYER, STEPS);
        println!(
            "{}: {mean:.3} ± {sigma:.3} s, {:.1} ms a step; products alone {limit:.3} s, {:.0} %\n",
            dtype.name(),
            1e3 * mean / STEPS as f64,
            100.0 * limit / mean,
        );
    }
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
