//! How long one layer's solve takes at the largest size of the field: F = 16,384 (GPT-J), 10,000
//! facts, D = 4,096, in 24 GB. The aim is 2 to 3 minutes a layer on two cores.
//!
//! `cargo bench --bench solve`; `-- 2048 1000 512` for another F, n and D.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[allow(dead_code)] // this one needs no model
mod support;

use std::time::Instant;

use faer::Mat;
use incise::base::Rng;
use incise::linalg::least_squares::{Prior, Route, Solution, on_host, solve};
use support::peak;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [f, n, d] = match sizes[..] {
        [f, n, d] => [f, n, d],
        _ => [16_384, 10_000, 4_096],
    };
    let mut rng = Rng::new(1, "solve bench");
    let mut draw = |rows: usize, cols: usize| Mat::from_fn(rows, cols, |_, _| rng.uniform() - 0.5);
    let (k, r) = (draw(f, n), draw(d, n));
    // λC of a diagonal and a smooth part, made entry by entry as statistics are read.
    let entry = |i: usize, j: usize| {
        let near = 1.0 / (1.0 + i.abs_diff(j) as f64);
        if i == j { 15_000.0 } else { 1_000.0 * near * near }
    };
    let prior = || Mat::from_fn(f, f, entry);
    let prior = Prior::Matrix(&prior);
    let route = Route::choose(&prior, 1.0, [f, n, d]);
    let stated = route.bytes([f, n, d]) >> 20;
    println!("F {f}, n {n}, D {d}: {route:?}, {stated} MB beyond K and R");
    let start = Instant::now();
    let change = solve(&prior, 1.0, &k, &r, route, &on_host).expect("positive definite");
    let seconds = start.elapsed().as_secs_f64();
    // The answer: (M + KKᵀ)Δᵀ = KRᵀ, for one row of Δ.
    let row: Vec<f64> = match &change {
        Solution::Whole(x) => (0..f).map(|i| x[(i, 0)]).collect(),
        Solution::Right(x) => (0..f).map(|i| (0..n).map(|t| x[(i, t)] * r[(0, t)]).sum()).collect(),
    };
    let along: Vec<f64> = (0..n).map(|t| (0..f).map(|i| k[(i, t)] * row[i]).sum()).collect();
    let (mut gap, mut size) = (0.0, 0.0);
    for i in (0..f).step_by((f / 64).max(1)) {
        let prior: f64 = (0..f).map(|j| entry(i, j) * row[j]).sum();
        let left = prior + (0..n).map(|t| k[(i, t)] * along[t]).sum::<f64>();
        let right: f64 = (0..n).map(|t| k[(i, t)] * r[(0, t)]).sum();
        gap += (left - right).powi(2);
        size += right.powi(2);
    }
    let off = (gap / size).sqrt();
    assert!(off < 1e-8, "the solve is off by {off:e}");
    println!("{seconds:.1} s, residual {off:.1e}, peak {} MB", peak() >> 20);
}
