//! Launches of `kernels/sample.cu`.

use crate::gpu::kernels::sample::{MOST, Sample, SampleGreedy, SampleTop, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};
use crate::ops::sample::Rule;

/// The likeliest token of each row of z (R, V) f32, into `ids` (R) i32.
pub fn greedy(engine: &Engine, z: &Array, ids: &mut Array) {
    let rows = ids.len();
    SampleGreedy { z: z.read(), V: (z.len() / rows.max(1)) as i32, id: ids.write() }
        .launch(engine, Grid::line(rows, THREADS as u32));
}

/// The k ≤ [`MOST`] likeliest tokens of each row of z (R, V) f32 in order, into `ids` (R, k) i32,
/// and their logits into `values` (R, k).
pub fn top(engine: &Engine, z: &Array, k: usize, values: &mut Array, ids: &mut Array) {
    let rows = ids.len() / k;
    let v = z.len() / rows.max(1);
    assert!(k <= MOST && (k <= v || rows == 0), "top: {k} of {v} tokens");
    SampleTop { z: z.read(), V: v as i32, k: k as i32, values: values.write(), ids: ids.write() }
        .launch(engine, Grid::line(rows, THREADS as u32));
}

/// A token of each row of z (R, V) f32 by a number in [0, 1) of its own, `uniform` (R) f32, into
/// `ids` (R) i32; −1 where a row is not finite.
pub fn choose(engine: &Engine, z: &Array, rule: Rule, uniform: &Array, ids: &mut Array) {
    assert!(rule.temperature > 0.0, "choose: at temperature 0 it is greedy");
    let rows = ids.len();
    Sample {
        z: z.read(),
        uniform: uniform.read(),
        temperature: rule.temperature as f32,
        top_k: rule.top_k as i32,
        top_p: rule.top_p as f32,
        V: (z.len() / rows.max(1)) as i32,
        id: ids.write(),
    }
    .launch(engine, Grid::line(rows, THREADS as u32));
}
