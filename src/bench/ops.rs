//! Operations against the machine's limits. Whether they are right, the tests' case tables say; of
//! products, which are larger here than there, a random projection.

use super::limits::{Limits, product};
use super::{Row, Sizes, Unit, time};
use crate::base::fits;
use crate::base::{DType, Result};
use crate::model::Batch;
use crate::ops::act::{self, Act};
use crate::ops::attention::{self, Grads, Heads, Keys, Packing};
use crate::ops::gram::{Totals, packed_len};
use crate::ops::norm::{self, Kind, Norm, Saved};
use crate::ops::rope::{self, Angles, Pairing};
use crate::ops::{loss, rows};
use crate::tensor::{Compute, Tensor};

struct Bench<'a> {
    compute: &'a Compute,
    sizes: Sizes,
    limits: Limits,
    rows: &'a mut Vec<Row>,
}

/// All operations; D and F are those of the shape that is measured.
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
    bench.elements([d, f]);
    bench.attention(d);
    bench.gram(f);
    bench.products([d, f])
}

impl Bench<'_> {
    fn row(&mut self, name: &str, shape: String, unit: Unit, work: usize, run: impl FnMut()) {
        let [seconds, spread] = time(self.compute, self.sizes.seconds, run);
        let limit = match unit {
            Unit::Bytes => Some(self.limits.copy),
            Unit::Flop => Some(self.limits.product),
            _ => None,
        };
        let (name, work) = (name.to_owned(), work as f64);
        self.rows.push(Row { part: "ops", name, shape, seconds, spread, work, unit, limit });
    }

    /// What moves bytes: as many rows as pass the caches.
    fn elements(&mut self, [d, f]: [usize; 2]) {
        let compute = self.compute;
        let of = |shape: &[usize]| {
            let len = shape.iter().product();
            let values: Vec<f64> = (0..len).map(|i| (i % 97) as f64 / 48.0 - 1.0).collect();
            Tensor::of(compute, shape, &values)
        };
        let n = (self.sizes.bytes / (16 * d)).max(1);
        let shape = format!("{n} × {d}");
        let (x, mut y, mut dx) = (of(&[n, d]), of(&[n, d]), of(&[n, d]));
        let (gain, bias) = (of(&[d]), Some(of(&[d])));
        let p = Norm { kind: Kind::Layer, eps: 1e-5, gain, bias };
        let mut saved = Saved::new(compute, n, d);
        let moved = 4 * n * d;
        let mut run = || norm::forward(&x, &p, &mut y, &mut saved);
        // Reads x, keeps it, writes y.
        self.row("layer norm", shape.clone(), Unit::Bytes, 4 * moved, &mut run);
        let run = || norm::backward(&x, &p, &saved, &mut dx);
        self.row("layer norm, backward", shape.clone(), Unit::Bytes, 4 * moved, run);
        self.row("residual", shape.clone(), Unit::Bytes, 3 * moved, || rows::add(&mut dx, &x));
        let n = (self.sizes.bytes / (12 * f)).max(1);
        let moved = 4 * n * f;
        let (up, mut key) = (of(&[n, f]), of(&[n, f]));
        let shape = format!("{n} × {f}");
        let run = || act::forward(Act::GeluTanh, &up, None, &mut key);
        self.row("gelu_tanh", shape.clone(), Unit::Bytes, 2 * moved, run);
        let run = || act::backward(Act::GeluTanh, &up, None, &mut key);
        self.row("gelu_tanh, backward", shape, Unit::Bytes, 3 * moved, run);
        let heads = (d / 64).max(1);
        let width = d / heads;
        let n = (self.sizes.bytes / (8 * d)).max(1);
        let (cos, sin) = (of(&[n, width / 2]), of(&[n, width / 2]));
        let angles = Angles { cos, sin, pairing: Pairing::Adjacent };
        let mut q = of(&[n, heads * width]);
        let run = || rope::rotate(&mut q, heads, &angles, false);
        self.row("rotary", format!("{n} × {heads} × {width}"), Unit::Bytes, 8 * n * d, run);
        let (v, n) = (50_257.min(self.sizes.bytes / 8), (self.sizes.bytes / 8 / 50_257).max(1));
        let (z, mut logp) = (of(&[n, v]), of(&[n, v]));
        let chosen: Vec<usize> = (0..n).collect();
        let run = || loss::log_softmax(&z, &chosen, &mut logp);
        self.row("log-softmax", format!("{n} × {v}"), Unit::Bytes, 8 * n * v, run);
    }

    /// The search's: sequences of four tokens after 12 shared and 8 of their own.
    fn attention(&mut self, d: usize) {
        let (width, heads) = (256.min(d), d / 256.min(d));
        let sequences = (self.sizes.side / 4).max(1);
        let mut batch = Batch::default();
        for i in 0..sequences {
            batch.push_after(&[0; 4], [0..12, 12 + 8 * i..20 + 8 * i]);
        }
        let (n, past) = (4 * sequences, 12 + 8 * sequences);
        let compute = self.compute;
        let of = |rows: usize| {
            let values: Vec<f64> = (0..rows * d).map(|i| (i % 89) as f64 / 44.0 - 1.0).collect();
            Tensor::of(compute, &[rows, d], &values)
        };
        let [q, k, v, mut o, dout] = [(); 5].map(|()| of(n));
        let (past_k, past_v) = (of(past), of(past));
        let per_head = || Tensor::zeros(compute, &[n, heads]);
        let (mut lse, total, mean) = (per_head(), per_head(), per_head());
        let mut grads = Grads { dq: of(n), dk: of(n), dv: of(n), total, mean };
        let heads = Heads {
            queries: heads,
            groups: heads,
            width,
            scale: (width as f64).powf(-0.5),
            window: None,
        };
        let packing = compute.engine().map(|e| fits(Packing::of(e, &batch.seqs, heads)));
        let keys = Keys {
            k: &k,
            v: &v,
            past: (&past_k, &past_v),
            seqs: &batch.seqs,
            packing: packing.as_ref(),
            heads,
        };
        let shape = format!("{sequences} × 4 of 24, {} × {width}", heads.queries);
        let moved = 4 * d * (4 * n + 2 * past);
        let run = || attention::forward(&q, keys, &mut o, &mut lse);
        self.row("attention", shape.clone(), Unit::Bytes, moved, run);
        let run = || attention::backward(&dout, &q, keys, &lse, &mut grads);
        self.row("attention, backward", shape, Unit::Bytes, 2 * moved, run);
    }

    fn gram(&mut self, f: usize) {
        let n = self.sizes.side.min(4096);
        let values: Vec<f64> = (0..n * f).map(|i| (i % 83) as f64 / 41.0 - 1.0).collect();
        let k = Tensor::of(self.compute, &[n, f], &values);
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
                    let [seconds, spread] =
                        product(compute, DType::BF16, [n, out, inner], self.sizes.seconds)?;
                    self.rows.push(Row {
                        part: "ops",
                        name: (*name).to_owned(),
                        shape: format!("{n} × {out} × {inner}"),
                        seconds,
                        spread,
                        work: 2.0 * (n * out * inner) as f64,
                        unit: Unit::Flop,
                        limit: Some(self.limits.product),
                    });
                }
            }
        }
        Ok(())
    }
}
