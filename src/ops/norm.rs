//! Layer and RMS normalisation over the last axis.
//!
//! ```text
//! layer  m = mean(x)   s = 1/√(mean((x − m)²) + eps)   h = (x − m) s   y = g h + b
//! RMS    m = 0         the same from there on, b absent
//! dx    += s (p − mean(p) − h mean(p h)),   p = g dy       RMS: without mean(p)
//! ```
//!
//! x, y (N, D); g, b (D); m, s (N). g and b are frozen. A head is a row by itself. Source:
//! Ba, Kiros, Hinton 2016, arXiv:1607.06450; Zhang, Sennrich 2019, arXiv:1910.07467.

pub use super::cpu::norm::NormKind;
use super::{cpu, cuda, rows};
use crate::tensor::{Compute, Tensor, on, shapes};

/// The frozen parameters of one normalisation.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Layer or RMS.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f64,
    /// g (D).
    pub gain: Tensor,
    /// b (D).
    pub bias: Option<Tensor>,
}

impl Norm {
    /// The same where another computation runs.
    pub fn on(&self, compute: &Compute) -> Norm {
        let on = |t: &Tensor| t.on(compute).into_owned();
        Norm { gain: on(&self.gain), bias: self.bias.as_ref().map(on), ..*self }
    }

    /// With what it gives times a factor.
    pub fn times(self, factor: f64) -> Norm {
        if factor == 1.0 {
            return self;
        }
        let times = |t: &Tensor| {
            let scaled: Vec<f64> = t.to_f64().into_iter().map(|x| x * factor).collect();
            Tensor::of(t.compute(), t.shape(), &scaled)
        };
        Norm { gain: times(&self.gain), bias: self.bias.as_ref().map(times), ..self }
    }

    fn on_device(&self) -> cuda::norm::DeviceNorm<'_> {
        let kind = self.kind;
        let eps = self.eps as f32;
        let bias = self.bias.as_ref();
        cuda::norm::DeviceNorm { kind, eps, gain: self.gain.array(), bias: bias.map(Tensor::array) }
    }
}

/// What the backward pass needs: the input and two numbers a row.
#[derive(Clone, Debug)]
pub struct Saved {
    /// x (N, D).
    pub x: Tensor,
    /// m (N).
    pub mean: Tensor,
    /// s (N).
    pub rstd: Tensor,
}

impl Saved {
    /// Room for N rows of D.
    pub fn new(compute: impl Into<Compute>, n: usize, d: usize) -> Saved {
        let compute = compute.into();
        let zeros = |shape: &[usize]| Tensor::zeros(&compute, shape);
        Saved { x: zeros(&[n, d]), mean: zeros(&[n]), rstd: zeros(&[n]) }
    }

    fn on_device(&mut self) -> cuda::norm::DeviceSaved<'_> {
        let Saved { x, mean, rstd } = self;
        cuda::norm::DeviceSaved { x: x.array_mut(), m: mean.array_mut(), s: rstd.array_mut() }
    }

    /// Makes room for N rows of D, memory kept.
    pub fn set_shape(&mut self, [n, d]: [usize; 2]) {
        self.x.set_shape([n, d]);
        self.mean.set_rows(n);
        self.rstd.set_rows(n);
    }
}

/// y = g·(x − m)·s + b, row by row; stores x, m and s in `saved`.
pub fn forward(x: &Tensor, p: &Norm, y: &mut Tensor, saved: &mut Saved) {
    let [n, d] = x.dims();
    shapes!("norm": p.gain => [d], y => [n, d], saved.x => [n, d], saved.mean => [n],
        saved.rstd => [n]);
    on!(x,
        host T => {
            saved.x.get_mut::<T>().copy_from_slice(x.get());
            cpu::norm::forward::<T>(
                p.kind,
                x.get(),
                p.gain.get(),
                p.bias.as_ref().map(|b| b.get()),
                p.eps as T,
                y.get_mut(),
                saved.mean.get_mut(),
                saved.rstd.get_mut(),
            );
        },
        device e => {
            cuda::norm::forward(e, x.array(), p.on_device(), y.array_mut(), saved.on_device());
        },
    );
}

/// x += added, then [`forward`]; a device does both at once.
pub fn forward_adding(x: &mut Tensor, added: &Tensor, p: &Norm, y: &mut Tensor, saved: &mut Saved) {
    let Some(e) = added.engine() else {
        rows::add(x, added);
        return forward(x, p, y, saved);
    };
    let [n, d] = added.dims();
    shapes!("norm of a sum": x => [n, d], p.gain => [d], y => [n, d], saved.x => [n, d],
        saved.mean => [n], saved.rstd => [n]);
    let x = x.array_mut();
    let added = added.array();
    let y = y.array_mut();
    cuda::norm::forward_adding(e, x, added, p.on_device(), y, saved.on_device());
}

/// Every head of x (N, heads·E) ← itself normalised; `saved` gets the input, and m and s by head.
/// With one head it is the whole row, in place.
pub fn heads_forward(x: &mut Tensor, p: &Norm, saved: &mut Saved) {
    let ([n, width], [e]) = (x.dims(), p.gain.dims());
    assert!(width.is_multiple_of(e), "norm of heads: heads of another width");
    saved.set_shape([n * width / e, e]);
    on!(p.gain,
        host T => {
            saved.x.get_mut::<T>().copy_from_slice(x.get());
            cpu::norm::forward::<T>(
                p.kind,
                saved.x.get(),
                p.gain.get(),
                p.bias.as_ref().map(|b| b.get()),
                p.eps as T,
                x.get_mut(),
                saved.mean.get_mut(),
                saved.rstd.get_mut(),
            );
        },
        device e => {
            cuda::norm::heads_forward(e, x.array_mut(), p.on_device(), saved.on_device());
        },
    );
}

/// Turns the gradient for normalised heads (N, heads·E) into that for them as they were.
pub fn heads_backward(d: &mut Tensor, p: &Norm, saved: &Saved) {
    assert_eq!(d.len(), saved.x.len(), "norm of heads: another number of heads was saved");
    on!(saved.x,
        host T => {
            let dy = d.get::<T>().to_vec();
            d.get_mut::<T>().fill(T::default());
            cpu::norm::backward::<T>(
                p.kind,
                &dy,
                p.gain.get(),
                saved.x.get(),
                saved.mean.get(),
                saved.rstd.get(),
                d.get_mut(),
            );
        },
        device e => {
            let stats = [saved.mean.array(), saved.rstd.array()];
            cuda::norm::heads_backward(e, p.on_device(), saved.x.array(), stats, d.array_mut());
        },
    );
}

/// dx += the gradient that reaches x through the normalisation from dy.
pub fn backward(dy: &Tensor, p: &Norm, saved: &Saved, dx: &mut Tensor) {
    let [n, d] = dy.dims();
    shapes!("norm backward": p.gain => [d], saved.x => [n, d], saved.mean => [n], dx => [n, d]);
    on!(dy,
        host T => cpu::norm::backward::<T>(
            p.kind,
            dy.get(),
            p.gain.get(),
            saved.x.get(),
            saved.mean.get(),
            saved.rstd.get(),
            dx.get_mut(),
        ),
        device e => {
            let stats = [saved.mean.array(), saved.rstd.array()];
            let dy = dy.array();
            let x = saved.x.array();
            cuda::norm::backward(e, dy, p.on_device(), x, stats, dx.array_mut());
        },
    );
}
