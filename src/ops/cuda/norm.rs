//! Launches of `kernels/norm.cu`.

use crate::gpu::kernels::norm::{NormBwd, NormFwd, ROWS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};
use crate::ops::norm::Kind;

/// The frozen parameters of one normalisation.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Layer or RMS.
    pub kind: Kind,
    /// Added to the variance.
    pub eps: f32,
    /// g (D).
    pub gain: &'a Array,
    /// b (D).
    pub bias: Option<&'a Array>,
}

impl Norm<'_> {
    fn centred(&self) -> i32 {
        i32::from(self.kind == Kind::Layer)
    }
}

/// y (N, D), m (N) and s (N) from x (N, D).
pub fn forward(engine: &Engine, x: &Array, p: Norm, y: &mut Array, [m, s]: [&mut Array; 2]) {
    let (n, d) = (m.len(), p.gain.len());
    NormFwd {
        x: x.read(),
        g: p.gain.read(),
        b: p.bias.unwrap_or(p.gain).read(),
        eps: p.eps,
        centred: p.centred(),
        biased: i32::from(p.bias.is_some()),
        N: n as i32,
        D: d as i32,
        y: y.write(),
        m: m.write(),
        s: s.write(),
    }
    .launch(engine, Grid::warps(n, ROWS));
}

/// dx += the gradient that reaches x (N, D) through the normalisation from dy.
pub fn backward(
    engine: &Engine,
    dy: &Array,
    p: Norm,
    x: &Array,
    [m, s]: [&Array; 2],
    dx: &mut Array,
) {
    let (n, d) = (m.len(), p.gain.len());
    NormBwd {
        dy: dy.read(),
        g: p.gain.read(),
        x: x.read(),
        m: m.read(),
        s: s.read(),
        centred: p.centred(),
        N: n as i32,
        D: d as i32,
        dx: dx.update(),
    }
    .launch(engine, Grid::warps(n, ROWS));
}
