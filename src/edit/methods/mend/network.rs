//! The network of MEND that turns the two factors of a gradient into those of a change: one a shape
//! of matrices, which the matrices of that shape share.
//!
//! ```text
//! x (N, in), δ (N, out)      rows of which neither is zero, t of them
//! h⁰ = [(x − μ_x)/(σ_x + 1e-7);  (δ − μ_δ)/(σ_δ + 1e-7)]             (N, M), M = in + out
//! h ← h + max(0, s_m ∘ (U V h + b) + a_m)                            two blocks; matrix m's s, a
//! [x̃; δ̃] = h²                                                        U (M, r), V (r, M), b (M)
//!
//! back: dq = dh where s_m ∘ (U V h + b) + a_m ≥ 0, else 0            its subgradient at 0 is 1
//!       da_m += Σ dq   ds_m += Σ dq ∘ (U V h + b)   dp = dq ∘ s_m    db += Σ dp
//!       dU += Σ dp (V h)ᵀ   dV += Σ (Uᵀdp) hᵀ   dh ← dh + Vᵀ Uᵀ dp
//! ```
//!
//! μ and σ are running over all rows that were trained on (Welford 1962), and constants of the
//! gradient. At the start U = 0, b = 0, s = 1, a = 0, so that h² = h⁰, and V is standard normal.
//! Names and shapes of the tensors are those of the public code.

use crate::base::{Float, Rng};
use crate::model::MatrixId;
use crate::ops::rows::Index;
use crate::ops::{linear, weight_gradient};
use crate::tensor::{Precision, Tensor};
use crate::train::Parameters;

/// Blocks of a network (`n_hidden` + 1).
const BLOCKS: usize = 2;
/// Added to σ.
const EPS: f64 = 1e-7;

/// A network: where its tensors are among the parameters.
#[derive(Clone, Debug)]
pub struct Network {
    /// In, out.
    pub sizes: [usize; 2],
    /// Its matrices, in order: each has its s and a.
    pub matrices: Vec<MatrixId>,
    normaliser: [Normaliser; 2], // of x, of δ
    count: usize,                // how many rows were seen
    blocks: [Block; BLOCKS],
}

/// Of each element: the mean, the deviation, and the sum of squared differences to the mean.
#[derive(Clone, Copy, Debug)]
struct Normaliser {
    mean: usize,
    deviation: usize,
    squares: usize,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    u: usize,
    v: usize,
    b: usize,
    shift: usize,
    scale: usize,
}

/// What a network made of a matrix' rows, and what it needs for the way back.
pub struct Made {
    /// x̃ (N, in).
    pub x: Tensor,
    /// δ̃ (N, out).
    pub delta: Tensor,
    blocks: Vec<BlockMade>,
}

struct BlockMade {
    h: Tensor,   // (N, M), what it reads
    low: Tensor, // (N, r), V h
    p: Tensor,   // (N, M), U V h + b
}

impl Network {
    /// Adds a network for matrices of a shape to the parameters; `rank` is at most r.
    pub fn new(
        parameters: &mut Parameters,
        sizes: [usize; 2],
        matrices: Vec<MatrixId>,
        (rank, rate, seed): (usize, f64, u64),
    ) -> Network {
        let [inner, out] = sizes;
        let (m, n) = (inner + out, matrices.len());
        let rank = rank.min(m);
        let prefix = format!("mend.({inner}, {out})");
        let mut rng = Rng::new(seed, &prefix);
        let mut fixed = |name: &str, width: usize, value: f64| {
            parameters.add(format!("{prefix}.{name}"), &[width], &vec![value; width], None)
        };
        let mut normaliser = |letter: &str, width: usize| Normaliser {
            mean: fixed(&format!("{letter}_mean"), width, 0.0),
            deviation: fixed(&format!("{letter}_std"), width, 0.0),
            squares: fixed(&format!("{letter}_s"), width, 0.0),
        };
        let normaliser = [normaliser("u", inner), normaliser("v", out)];
        let count = fixed("k", 1, 0.0);
        let blocks = std::array::from_fn(|i| {
            let mut add = |name: &str, shape: &[usize], values: &[f64]| {
                let name = format!("{prefix}.mlp.layers.{i}.{name}");
                parameters.add(name, shape, values, Some(rate))
            };
            let normal: Vec<f64> = (0..rank * m).map(|_| rng.normal()).collect();
            Block {
                u: add("u", &[m, rank], &vec![0.0; m * rank]),
                v: add("v", &[rank, m], &normal),
                shift: add("mode_shift.weight", &[n, m], &vec![0.0; n * m]),
                scale: add("mode_scale.weight", &[n, m], &vec![1.0; n * m]),
                b: add("bias", &[m], &vec![0.0; m]),
            }
        });
        Network { sizes, matrices, normaliser, count, blocks }
    }

    /// The factors of the change of its i-th matrix, from rows of x and δ, on the host; `learn`
    /// says whether the normaliser sees the rows first.
    pub fn forward(
        &self,
        parameters: &mut Parameters,
        i: usize,
        (x, delta): (&Tensor, &Tensor),
        learn: bool,
    ) -> Made {
        let [inner, out] = self.sizes;
        let rows = nonzero_rows(x, delta);
        let [x, delta] = [chosen(x, &rows), chosen(delta, &rows)];
        let seen = parameters.value(self.count).to_f64()[0];
        for (own, read) in self.normaliser.iter().zip([&x, &delta]).filter(|_| learn) {
            own.learn(parameters, read, seen);
        }
        if learn {
            let all = [seen + rows.len() as f64];
            *parameters.value_mut(self.count) = Tensor::of(parameters.precision(), &[1, 1], &all);
        }
        let [x, delta] = [(0, &x), (1, &delta)]
            .map(|(which, read)| self.normaliser[which].apply(parameters, read));
        let mut h = beside(&x, &delta);
        let mut blocks = Vec::with_capacity(BLOCKS);
        for block in &self.blocks {
            let (made, next) = block.forward(parameters, i, h);
            blocks.push(made);
            h = next;
        }
        let [x, delta] = apart(&h, [inner, out]);
        Made { x, delta, blocks }
    }

    /// Adds the gradients of the i-th matrix' parameters, from those for x̃ and δ̃.
    pub fn backward(
        &self,
        parameters: &mut Parameters,
        i: usize,
        made: &Made,
        (dx, ddelta): (&Tensor, &Tensor),
    ) {
        let mut dh = beside(dx, ddelta);
        for (block, made) in self.blocks.iter().zip(&made.blocks).rev() {
            block.backward(parameters, i, made, &mut dh);
        }
    }
}

impl Normaliser {
    /// Sees rows, after `seen` others.
    fn learn(self, parameters: &mut Parameters, rows: &Tensor, seen: f64) {
        let [n, width] = rows.dims();
        let mut mean = parameters.value(self.mean).to_f64();
        let mut squares = parameters.value(self.squares).to_f64();
        let rows = rows.to_f64();
        let mut k = seen;
        for row in rows.chunks(width) {
            k += 1.0;
            for ((x, mean), s) in row.iter().zip(&mut mean).zip(&mut squares) {
                let before = *x - *mean;
                *mean += before / k;
                *s += before * (*x - *mean);
            }
        }
        if n == 0 {
            return;
        }
        let spread = (k - 1.0).max(1.0);
        let deviation: Vec<f64> = squares.iter().map(|s| (s / spread).sqrt()).collect();
        let precision = parameters.precision();
        for (i, values) in [(self.mean, mean), (self.squares, squares), (self.deviation, deviation)]
        {
            *parameters.value_mut(i) = Tensor::of(precision, &[1, width], &values);
        }
    }

    /// (rows − μ)/(σ + ε).
    fn apply(self, parameters: &Parameters, rows: &Tensor) -> Tensor {
        let [n, width] = rows.dims();
        let [mean, deviation] = [self.mean, self.deviation].map(|i| parameters.value(i).to_f64());
        let mut values = rows.to_f64();
        for row in values.chunks_mut(width) {
            for ((x, mean), deviation) in row.iter_mut().zip(&mean).zip(&deviation) {
                *x = (*x - mean) / (deviation + EPS);
            }
        }
        Tensor::of(parameters.precision(), &[n, width], &values)
    }
}

impl Block {
    /// h + max(0, q), and what the way back needs.
    fn forward(&self, parameters: &Parameters, i: usize, h: Tensor) -> (BlockMade, Tensor) {
        let [n, m] = h.dims();
        let [_, rank] = parameters.weight(self.u).dims();
        let (mut low, mut p) = (h.like(&[n, rank]), h.like(&[n, m]));
        linear::forward(&h, parameters.weight(self.v), None, &mut low);
        let b = parameters.value(self.b);
        linear::forward(&low, parameters.weight(self.u), Some(b), &mut p);
        let mut next = h.clone();
        let own = [self.scale, self.shift].map(|at| parameters.value(at));
        match h.precision() {
            Precision::F32 => rise::<f32>(own, i, &p, &mut next),
            Precision::F64 => rise::<f64>(own, i, &p, &mut next),
        }
        (BlockMade { h, low, p }, next)
    }

    /// dh becomes the gradient for what the block read.
    fn backward(&self, parameters: &mut Parameters, i: usize, made: &BlockMade, dh: &mut Tensor) {
        let [n, rank] = made.low.dims();
        let cuts = Index::new(&dh.compute(), weight_gradient::cuts([n]));
        let dp = match dh.precision() {
            Precision::F32 => self.slope::<f32>(parameters, i, &made.p, dh),
            Precision::F64 => self.slope::<f64>(parameters, i, &made.p, dh),
        };
        weight_gradient::accumulate(&dp, &made.low, &cuts, parameters.gradient_mut(self.u));
        let mut dlow = dh.like(&[n, rank]);
        linear::backward(&dp, parameters.weight(self.u), &mut dlow, false);
        weight_gradient::accumulate(&dlow, &made.h, &cuts, parameters.gradient_mut(self.v));
        linear::backward(&dlow, parameters.weight(self.v), dh, true);
    }

    /// dp (N, M), and the gradients of b, s and a.
    fn slope<T: Float>(
        &self,
        parameters: &mut Parameters,
        i: usize,
        p: &Tensor,
        dh: &Tensor,
    ) -> Tensor {
        let [n, m] = p.dims();
        let row = i * m..(i + 1) * m;
        let [scale, shift] = [self.scale, self.shift]
            .map(|at| parameters.value(at).get::<T>()[row.clone()].to_vec());
        let mut dp = dh.clone();
        let [mut ds, mut da, mut db] = [(); 3].map(|()| vec![T::default(); m]);
        for (dp, p) in dp.get_mut::<T>().chunks_mut(m).zip(p.get::<T>().chunks(m)).take(n) {
            for j in 0..m {
                let dq = match scale[j] * p[j] + shift[j] >= T::default() {
                    true => dp[j],
                    false => T::default(),
                };
                da[j] += dq;
                ds[j] += dq * p[j];
                dp[j] = dq * scale[j];
                db[j] += dp[j];
            }
        }
        for (at, from, sum) in
            [(self.scale, row.start, ds), (self.shift, row.start, da), (self.b, 0, db)]
        {
            let into = &mut parameters.gradient_mut(at).get_mut::<T>()[from..from + m];
            into.iter_mut().zip(sum).for_each(|(g, sum)| *g += sum);
        }
        dp
    }
}

/// h ← h + max(0, s ∘ p + a), with row i of s and a.
fn rise<T: Float>([scale, shift]: [&Tensor; 2], i: usize, p: &Tensor, h: &mut Tensor) {
    let [_, m] = p.dims();
    let [scale, shift] = [scale, shift].map(|own| &own.get::<T>()[i * m..(i + 1) * m]);
    for (h, p) in h.get_mut::<T>().chunks_mut(m).zip(p.get::<T>().chunks(m)) {
        for j in 0..m {
            h[j] += (scale[j] * p[j] + shift[j]).max(T::default());
        }
    }
}

/// The rows in which neither is all zero.
fn nonzero_rows(x: &Tensor, delta: &Tensor) -> Vec<usize> {
    let [n, _] = x.dims();
    let any = |all: &Tensor, i: usize| all.row_f64(i).iter().any(|x| *x != 0.0);
    (0..n).filter(|&i| any(x, i) && any(delta, i)).collect()
}

fn chosen(all: &Tensor, rows: &[usize]) -> Tensor {
    let mut some = all.like(&[0, all.shape()[1]]);
    rows.iter().for_each(|&i| some.push_rows_of(all, i..i + 1));
    some
}

/// [a; b] of each row.
fn beside(a: &Tensor, b: &Tensor) -> Tensor {
    let ([n, first], [_, second]) = (a.dims(), b.dims());
    let rows = (0..n).flat_map(|i| [a.row_f64(i), b.row_f64(i)].concat());
    Tensor::of(a.precision(), &[n, first + second], &rows.collect::<Vec<f64>>())
}

/// The reverse.
fn apart(h: &Tensor, [first, second]: [usize; 2]) -> [Tensor; 2] {
    let [n, _] = h.dims();
    let part = |columns: std::ops::Range<usize>| {
        let rows = (0..n).flat_map(|i| h.row_f64(i)[columns.clone()].to_vec());
        Tensor::of(h.precision(), &[n, columns.len()], &rows.collect::<Vec<f64>>())
    };
    [part(0..first), part(first..first + second)]
}
