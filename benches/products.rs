//! What products with a frozen matrix reach, by the number of rows, against the most this machine
//! reached with any of them: `cargo bench --bench products`.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::sync::Arc;
use std::time::Instant;

use incise::base::{DType, Rng};
use incise::ops::linear;
use incise::tensor::{Layout, Precision, Tensor, Weight};

fn main() {
    println!("{:>28}  {:>6}  {:>8}  {:>8}", "matrix (out, in)", "rows", "y = xW'", "dx = dyW");
    for (dtype, layout) in [
        (DType::F32, Layout::OutIn),
        (DType::F32, Layout::InOut),
        (DType::BF16, Layout::OutIn),
        (DType::BF16, Layout::InOut),
    ] {
        for [out, inner] in [[3072, 768], [768, 3072]] {
            let mut rng = Rng::new(0, "products");
            let values: Vec<f64> = (0..out * inner).map(|_| rng.normal()).collect();
            let mut bytes = Vec::new();
            dtype.narrow(&values, &mut bytes);
            let w = Weight::stored(Arc::new(bytes), dtype, layout, [out, inner]);
            for rows in [1, 8, 25, 48, 96, 192, 512, 2048] {
                let of =
                    |width| Tensor::of(Precision::F32, &[rows, width], &vec![0.5; rows * width]);
                let (x, mut y) = (of(inner), of(out));
                let (dy, mut dx) = (of(out), of(inner));
                let forward = rate(rows * out * inner, || linear::forward(&x, &w, None, &mut y));
                let back = rate(rows * out * inner, || linear::backward(&dy, &w, &mut dx, false));
                let name = format!("{} {layout:?} ({out}, {inner})", dtype.name());
                println!("{name:>28}  {rows:>6}  {forward:>8.1}  {back:>8.1}");
            }
        }
    }
}

/// GFLOP/s, the best of some runs.
fn rate(products: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    let whole = Instant::now();
    while whole.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * products as f64 / best / 1e9
}
