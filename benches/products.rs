//! What products with a frozen matrix reach, by the number of rows, against the most this machine
//! reached with any of them.
//!
//! `cargo bench --bench products`; `-- BF16`, say, for some; `-- --save-baseline NAME` and
//! `-- --baseline NAME` to compare two commits.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use incise::base::{DType, Rng};
use incise::ops::linear;
use incise::tensor::{Layout, Precision, Tensor, Weight};

/// Products that were run, and their GFLOP/s, the best of some runs.
type Rates = Vec<(String, f64)>;

fn products(criterion: &mut Criterion) {
    let mut rates = Rates::new();
    for dtype in [DType::F32, DType::BF16] {
        for layout in [Layout::OutIn, Layout::InOut] {
            for shape in [[3072, 768], [768, 3072]] {
                matrix(criterion, dtype, layout, shape, &mut rates);
            }
        }
    }
    let most = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    println!("{:>44}  {:>8}  {:>7}", "matrix (out, in), product, rows", "GFLOP/s", "of most");
    for (name, rate) in rates {
        println!("{name:>44}  {rate:>8.1}  {:>5.0} %", 100.0 * rate / most);
    }
}

fn matrix(
    criterion: &mut Criterion,
    dtype: DType,
    layout: Layout,
    [out, inner]: [usize; 2],
    rates: &mut Rates,
) {
    let mut rng = Rng::new(0, "products");
    let values: Vec<f64> = (0..out * inner).map(|_| rng.normal()).collect();
    let mut bytes = Vec::new();
    dtype.narrow(&values, &mut bytes);
    let w = Weight::stored(Arc::new(bytes), dtype, layout, [out, inner]);
    let name = format!("{} {layout:?} ({out}, {inner})", dtype.name());
    let mut group = criterion.benchmark_group(&name);
    group.sample_size(10).nresamples(10_000);
    group.warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_millis(300));
    for rows in [1, 8, 25, 48, 96, 192, 512, 2048] {
        let flop = 2 * rows * out * inner;
        group.throughput(Throughput::Elements(flop as u64));
        let of = |width| Tensor::of(Precision::F32, &[rows, width], &vec![0.5; rows * width]);
        let mut run = |product: &str, run: &mut dyn FnMut()| {
            let mut best = f64::INFINITY;
            group.bench_function(BenchmarkId::new(product, rows), |bencher| {
                bencher.iter_custom(|n| {
                    let start = Instant::now();
                    (0..n).for_each(|_| run());
                    let took = start.elapsed();
                    best = best.min(took.as_secs_f64() / n as f64);
                    took
                });
            });
            if best.is_finite() {
                rates.push((format!("{name} {product} {rows}"), flop as f64 / best / 1e9));
            }
        };
        let (x, mut y) = (of(inner), of(out));
        run("y = xW'", &mut || linear::forward(&x, &w, None, &mut y));
        let (dy, mut dx) = (of(out), of(inner));
        run("dx = dyW", &mut || linear::backward(&dy, &w, &mut dx, false));
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
