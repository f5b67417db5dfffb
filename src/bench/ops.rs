//! Operations against the machine's limits. Whether they are right, the tests' case tables say; of
//! products, which are larger here than there, a random projection.

use super::limits::{Limits, product};
use super::{Row, Sizes, Unit, time};
use crate::base::or_unwind;
use crate::base::{DType, Result};
use crate::model::Batch;
use crate::ops::act::{self, Act};
use crate::ops::attention::{self, AttentionGrads, Heads, KvRows, Packing};
use crate::ops::gram::{Totals, packed_len};
use crate::ops::norm::{self, Norm, NormKind, Saved};
use crate::ops::rope::{self, Angles, Pairing};
use crate::ops::{loss, rows};
use crate::tensor::{Compute, Tensor};

struct Bench<'a> {
    compute: &'a Compute,
    sizes: Sizes,
    limits: Limits,
    rows: &'a mut Vec<Row>,
}

/// All operations, on a device with fast products too; D and F are those of the shape that is
/// measured.
///
/// # Errors
///
/// A product whose answer is wrong.
pub fn measure(
    compute: &Compute,
    sizes: Sizes,
    [d, f]: [usize; 2],
    limits: Limits,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut bench = Bench { compute, sizes, limits, rows };
    bench.wide([d, f]);
    let fast = compute.engine().map(|_| compute.fast());
    for compute in [Some(compute), fast.as_ref()].into_iter().flatten() {
        let mut bench = Bench { compute, sizes, limits, rows: bench.rows };
        bench.narrow([d, f]);
        bench.short_attention(d);
        bench.long_attention(d);
        bench.gram(f);
    }
    bench.products([d, f])
}

impl Bench<'_> {
    fn row(&mut self, name: &str, shape: String, unit: Unit, work: usize, run: impl FnMut()) {
        let took = time(self.compute, self.sizes.seconds, run);
        let limit = match unit {
            Unit::Bytes => Some(self.limits.copy),
            Unit::Flop => Some(self.limits.product),
            _ => None,
        };
        let fast = self.compute.narrow_size() < self.compute.precision().size();
        let name = format!("{name}{}", if fast { ", bf16" } else { "" });
        self.rows.push(Row::new("ops", [name, shape], took, (work as f64, unit), limit));
    }

    /// Some numbers of size 1, in f32.
    fn of(&self, shape: [usize; 2]) -> Tensor {
        let values: Vec<f64> =
            (0..shape[0] * shape[1]).map(|i| (i % 97) as f64 / 48.0 - 1.0).collect();
        Tensor::of(self.compute, &shape, &values)
    }

    /// The same as products read them.
    fn read(&self, shape: [usize; 2]) -> Tensor {
        let mut narrow = Tensor::narrow(self.compute, &shape);
        rows::put(&self.of(shape), 0..shape[0], &mut narrow, 0);
        narrow
    }

    /// What moves f32 however products are made, as many rows as pass the caches.
    fn wide(&mut self, [d, _]: [usize; 2]) {
        let n = (self.sizes.bytes / (16 * d)).max(1);
        let shape = format!("{n} × {d}");
        let p = self.norm(d);
        let (x, dy, mut dx) = (self.of([n, d]), self.of([n, d]), self.of([n, d]));
        let mut saved = Saved::new(self.compute, n, d);
        norm::forward(&x, &p, &mut self.of([n, d]), &mut saved);
        let run = || norm::backward(&dy, &p, &saved, &mut dx);
        self.row("layer norm, backward", shape.clone(), Unit::Bytes, 16 * n * d, run);
        self.row("residual", shape, Unit::Bytes, 12 * n * d, || rows::add(&mut dx, &x));
        let (v, n) = (50_257.min(self.sizes.bytes / 8), (self.sizes.bytes / 8 / 50_257).max(1));
        let (z, mut logp) = (self.of([n, v]), self.of([n, v]));
        let chosen: Vec<usize> = (0..n).collect();
        let run = || loss::log_softmax(&z, &chosen, &mut logp);
        self.row("log-softmax", format!("{n} × {v}"), Unit::Bytes, 8 * n * v, run);
    }

    fn norm(&self, d: usize) -> Norm {
        let of = || {
            let one = self.of([1, d]).to_f64();
            Tensor::of(self.compute, &[d], &one)
        };
        Norm { kind: NormKind::Layer, eps: 1e-5, gain: of(), bias: Some(of()) }
    }

    /// What moves numbers as products read them, s bytes each.
    fn narrow(&mut self, [d, f]: [usize; 2]) {
        let s = self.compute.narrow_size();
        let n = (self.sizes.bytes / ((12 + s) * d)).max(1);
        let (p, x, mut y) = (self.norm(d), self.of([n, d]), self.read([n, d]));
        let mut saved = Saved::new(self.compute, n, d);
        let run = || norm::forward(&x, &p, &mut y, &mut saved);
        // Reads x, keeps it, writes y.
        let shape = format!("{n} × {d}");
        self.row("layer norm", shape.clone(), Unit::Bytes, (8 + s) * n * d, run);
        let run = || rows::put(&x, 0..n, &mut y, 0);
        self.row("rounding", shape, Unit::Bytes, (4 + s) * n * d, run);
        let n = (self.sizes.bytes / (3 * s * f)).max(1);
        let (up, mut key) = (self.read([n, f]), self.read([n, f]));
        let shape = format!("{n} × {f}");
        let run = || act::forward(Act::GeluTanh, &up, None, &mut key);
        self.row("gelu_tanh", shape.clone(), Unit::Bytes, 2 * s * n * f, run);
        let run = || act::backward(Act::GeluTanh, &up, None, &mut key);
        self.row("gelu_tanh, backward", shape, Unit::Bytes, 3 * s * n * f, run);
        let heads = (d / 64).max(1);
        let width = d / heads;
        let n = (self.sizes.bytes / (2 * s * d)).max(1);
        let (cos, sin) = (self.of([n, width / 2]), self.of([n, width / 2]));
        let angles = Angles { cos, sin, pairing: Pairing::Adjacent };
        let mut q = self.read([n, heads * width]);
        let run = || rope::rotate(&mut q, heads, &angles, false);
        self.row("rotary", format!("{n} × {heads} × {width}"), Unit::Bytes, 2 * s * n * d, run);
    }

    /// The search's: sequences of four tokens after 12 shared and 8 of their own.
    fn short_attention(&mut self, d: usize) {
        let sequences = (self.sizes.side / 4).max(1);
        let mut batch = Batch::default();
        for i in 0..sequences {
            batch.push_after(&[0; 4], [0..12, 12 + 8 * i..20 + 8 * i]);
        }
        let (past, s) = (12 + 8 * sequences, self.compute.narrow_size());
        let unit = (Unit::Bytes, s * d * (4 * batch.len() + 2 * past));
        self.attention(&format!("{sequences} × 4 of 24"), &batch, past, d, [unit, unit]);
    }

    /// Whole sequences; N²/2 products a head and direction, twice (q kᵀ and p v), five in backward.
    fn long_attention(&mut self, d: usize) {
        let tokens = self.sizes.side;
        for length in [128, 256, 512].into_iter().filter(|n| n * 8 <= tokens) {
            let sequences = tokens / length;
            let batch = Batch::whole((0..sequences).map(|_| vec![0; length]));
            let flop = 2 * d * sequences * length * (length + 1) / 2;
            let units = [2, 5].map(|products| (Unit::Flop, products * flop));
            self.attention(&format!("{sequences} × {length}"), &batch, 0, d, units);
        }
    }

    fn attention(
        &mut self,
        what: &str,
        batch: &Batch,
        past: usize,
        d: usize,
        work: [(Unit, usize); 2],
    ) {
        let (width, n) = (256.min(d), batch.len());
        let heads = d / width;
        let [q, k, v, mut o, dout] = [(); 5].map(|()| self.read([n, d]));
        let [past_k, past_v] = [(); 2].map(|()| self.read([past, d]));
        let per_head = || Tensor::zeros(self.compute, &[n, heads]);
        let (mut lse, total, mean) = (per_head(), per_head(), per_head());
        let [dq, dk, dv] = [(); 3].map(|()| self.read([n, d]));
        let mut grads = AttentionGrads { dq, dk, dv, total, mean };
        let scale = (width as f64).powf(-0.5);
        let heads = Heads { queries: heads, groups: heads, width, scale, window: None, cap: None };
        let packing = self.compute.engine().map(|e| or_unwind(Packing::of(e, &batch.seqs, heads)));
        let keys = KvRows {
            k: &k,
            v: &v,
            past: (&past_k, &past_v),
            seqs: &batch.seqs,
            packing: packing.as_ref(),
            heads,
        };
        let shape = format!("{what}, {} × {width}", heads.queries);
        let [(unit, ahead), (_, back)] = work;
        let run = || attention::forward(&q, keys, &mut o, &mut lse);
        self.row("attention", shape.clone(), unit, ahead, run);
        let run = || attention::backward(&dout, &q, keys, &lse, &mut grads);
        self.row("attention, backward", shape, unit, back, run);
    }

    fn gram(&mut self, f: usize) {
        let n = self.sizes.side;
        let k = self.read([n, f]);
        let mut totals = Totals::new(self.compute, f, vec![0.0; packed_len(f)]);
        let run = || totals.add(&k);
        self.row("second moment", format!("{n} × {f}"), Unit::Flop, n * f * f, run);
    }

    /// The products of a layer, in both orientations, by rows; where a library makes them, by our
    /// kernels too.
    fn products(&mut self, [d, f]: [usize; 2]) -> Result<()> {
        let own = self.compute.own().map(|own| ("product with BF16, own", own));
        let ways: Vec<_> =
            [("product with BF16", self.compute.clone())].into_iter().chain(own).collect();
        for n in [1, 8, 64, 512, 2048, 8192].into_iter().filter(|&n| n <= self.sizes.side) {
            for [out, inner] in [[d, d], [f, d], [d, f]] {
                for (name, compute) in &ways {
                    let shape = [n, out, inner];
                    let took = product(compute, DType::BF16, shape, self.sizes.seconds)?;
                    let work = (2.0 * (n * out * inner) as f64, Unit::Flop);
                    let what = [(*name).to_owned(), format!("{n} × {out} × {inner}")];
                    self.rows.push(Row::new("ops", what, took, work, Some(self.limits.product)));
                }
            }
        }
        Ok(())
    }
}
