//! What the benchmarks share: checkpoints of known shapes, spreads, and the limit they are held to.

#[allow(dead_code)] // not every benchmark needs every shape
pub mod shapes;

use std::time::Instant;

use incise::edit::prompts::FactRows;
use incise::model::Model;
use incise::ops::linear;
use incise::tensor::{Precision, Tensor, Weight};

/// Mean and standard deviation.
#[allow(dead_code)] // not every benchmark repeats itself
pub fn spread(times: &[f64]) -> (f64, f64) {
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    let square: f64 = times.iter().map(|t| (t - mean).powi(2)).sum();
    (mean, (square / (n - 1.0).max(1.0)).sqrt())
}

/// Seconds that the products of a search alone take at the rate `gemm` reaches with 512 rows on
/// this machine: 4 FLOP a weight and suffix token in the layers above, and a row of the head.
#[allow(dead_code)] // not every benchmark searches
pub fn products(model: &Model, rows: &FactRows, layer: usize, steps: usize) -> f64 {
    let suffix: usize = rows.rewriting.iter().map(|r| r.ids.len() - r.lookup).sum::<usize>() + 1;
    let read = rows.rewriting.len() * rows.target.len() + 1;
    let a = &model.arch;
    let block = a.width * (2 * a.n_heads + 2 * a.n_kv_heads) * a.head_dim + 2 * a.width * a.inner;
    let weights = (a.layers - 1 - layer) * block * suffix + a.width * a.vocabulary * read;
    4.0 * weights as f64 * steps as f64 / rate()
}

/// FLOP/s of y = x Wᵀ with 512 rows in f32, forward and backward alike.
fn rate() -> f64 {
    let (n, out, inner) = (512, 3072, 768);
    let w = Weight::dense_f32(vec![0.01; out * inner], out, inner);
    let x = Tensor::of(Precision::F32, &[n, inner], &vec![0.5; n * inner]);
    let mut y = Tensor::zeros(Precision::F32, &[n, out]);
    linear::forward(&x, &w, None, &mut y);
    let (start, runs) = (Instant::now(), 200); // seconds, over which a machine's moods even out
    (0..runs).for_each(|_| linear::forward(&x, &w, None, &mut y));
    2.0 * (n * out * inner * runs) as f64 / start.elapsed().as_secs_f64()
}

/// The most memory the process had since this was asked last, in bytes; 0 where the system does
/// not say.
#[allow(dead_code)] // not every benchmark asks
pub fn peak() -> u64 {
    let said = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = said.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kb = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let _ = std::fs::write("/proc/self/clear_refs", "5"); // starts it again
    kb.unwrap_or(0) * 1024
}
