//! Launches of `kernels/sample.cu`.

use crate::base::Result;
use crate::gpu::kernels::sample::{MAX_K, Sample, SampleTop, THREADS};
use crate::gpu::launch::{Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::sample::Sampling;

/// The k ≤ [`MAX_K`] likeliest tokens of each row of z (R, V) f32 in order, into `ids` (R, k) i32,
/// and their logits into `values` (R, k).
pub fn top(engine: &Engine, z: &Array, k: usize, values: &mut Array, ids: &mut Array) {
    let rows = ids.len() / k;
    let v = z.len() / rows.max(1);
    assert!(k <= MAX_K && (k <= v || rows == 0), "top: {k} of {v} tokens");
    SampleTop { z: z.read(), V: int(v), k: int(k), values: values.write(), ids: ids.write() }
        .launch(engine, Grid::line(rows, THREADS));
}

/// A token of each row of z (R, V) f32 by a number in [0, 1) of its own, `uniform` (R) f32, into
/// `ids` (R) i32; −1 where a row is not finite.
pub fn choose(engine: &Engine, z: &Array, by: Sampling, uniform: &Array, ids: &mut Array) {
    assert!(by.temperature > 0.0, "choose: at temperature 0 it is the likeliest");
    let rows = ids.len();
    let v = z.len() / rows.max(1);
    Sample {
        z: z.read(),
        uniform: uniform.read(),
        temperature: by.temperature as f32,
        top_k: int(by.top_k.min(v)),
        top_p: by.top_p as f32,
        V: int(v),
        id: ids.write(),
    }
    .launch(engine, Grid::line(rows, THREADS));
}

/// The likeliest token of z (1, V); none where its logit is not finite.
///
/// # Errors
///
/// The device has no more memory.
pub fn likeliest(engine: &Engine, z: &Array) -> Result<Option<u32>> {
    let mut value = engine.array(Elem::F32, 1)?;
    let mut id = engine.array(Elem::I32, 1)?;
    top(engine, z, 1, &mut value, &mut id);
    let finite = f32::from_bits(number(&value)).is_finite();
    Ok(finite.then(|| number(&id)))
}

/// A token of z (1, V) by chance; none where z is not finite.
///
/// # Errors
///
/// The device has no more memory.
pub fn chosen(engine: &Engine, z: &Array, by: Sampling, uniform: f64) -> Result<Option<u32>> {
    // The nearest f32 may be 1.
    let uniform = (uniform as f32).min(1.0f32.next_down());
    let uniform = engine.upload(Elem::F32, &uniform.to_le_bytes())?;
    let mut id = engine.array(Elem::I32, 1)?;
    choose(engine, z, by, &uniform, &mut id);
    Ok(i32::try_from(number(&id)).ok().map(|id| id as u32))
}

/// The bits of the one number of an array.
fn number(array: &Array) -> u32 {
    u32::from_le_bytes(array.download().try_into().expect("four bytes"))
}
