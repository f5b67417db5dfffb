//! Attention: `kernels/attention.cu`, `attention_mma.cu`, `attention_short.cu`, `attention_row.cu`.
//!
//! q, k, v and do are whole and the scale is a power of two, so scores and ⟨do, v⟩ are exact, and
//! so is what the exponential is taken of. In every other head scores rise from −20 to 20 with the
//! keys, so that the largest comes last and what was summed before is scaled down.
//!
//! What is left, in roundings u and with n keys or queries that are seen: an expf off by 4,
//! differences from lse by what |s − lse| < 64 is rounded to, 32, sums off by their number of
//! terms, and a rescaling by 5 at each further tile. All of it is relative to sums of absolute
//! values, which are formed beside the definition:
//!
//! ```text
//! o   C Σ_j p |v|                                         lse   C, and 3 of |lse|
//! dq  C scale Σ_j p T |k|     dk  C scale Σ_i p T |q|     dv    C Σ_i p |do|
//! T_ij = |t_ij| + Σ_j p |t|     C = 2 n + 80              on tensor cores 8 n + 80 + 2⁷, of which
//! ```
//!
//! With a cap c, a power of two, a score is off by 6 c: 4 for tanhf, 1 for the rounding of its
//! argument, as x tanh' x < 1/2, and 1 for the product. So is lse: 12 c more in C. A slope, at most
//! 1, is off by twice those 6 and 2 roundings: 14 more.
//!
//! 34 u at each of four instructions every 32 keys is what they may cut off, and 2⁷ u = 2⁻¹⁷ the
//! part of p that two bf16 leave out. A probability without its low part is off by 2⁻⁹.

use std::ops::Range;

use super::numbers::{U, decode, encode, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};
use crate::ops::cpu::attention::{self as definition, Heads, HostKvRows, Seq};
use crate::ops::cuda::attention::{
    self as attention, AttentionOutputs, DeviceAttentionGrads, DeviceKvRows, Packing,
};

/// Queries, keys of a past that all share and of one's own.
type Row = (usize, usize, usize);

/// Sequences of one form, and heads.
struct Batch {
    rows: &'static [Row],
    heads: [usize; 3], // H, G, E
    scale: f64,
    window: Option<usize>,
    cap: Option<f64>,
    kernels: [&'static str; 2],
}

/// Few queries: up to the most keys, and fewer and more than a block takes at a time.
const SHORT: [Batch; 2] = [
    Batch {
        rows: &[(5, 3, 12), (1, 3, 0), (16, 3, 45)],
        heads: [4, 2, 72],
        scale: 0.0625,
        window: None,
        cap: None,
        kernels: ["attention_short_fwd", "attention_short_bwd"],
    },
    Batch {
        rows: &[(4, 0, 9), (7, 0, 0)],
        heads: [2, 2, 24],
        scale: 0.125,
        window: Some(6),
        cap: Some(16.0),
        kernels: ["attention_short_fwd", "attention_short_bwd"],
    },
];

/// One query: of one span and of three, more heads a group than a block takes at a time.
const ONE: [Batch; 2] = [
    Batch {
        rows: &[(1, 0, 69), (1, 3, 297)],
        heads: [5, 1, 72],
        scale: 0.0625,
        window: None,
        cap: None,
        kernels: ["attention_row_fwd, attention_row_merge", ""],
    },
    Batch {
        rows: &[(1, 7, 300)],
        heads: [4, 2, 16],
        scale: 0.125,
        window: Some(140),
        cap: Some(16.0),
        kernels: ["attention_row_fwd, attention_row_merge", ""],
    },
];

/// Any: a tile of queries and one more, slices of columns crossed.
const LONG: [Batch; 2] = [
    Batch {
        rows: &[(17, 9, 40), (65, 9, 0)],
        heads: [2, 1, 20],
        scale: 0.125,
        window: None,
        cap: None,
        kernels: ["attention_fwd", "attention_bwd_q, attention_bwd_kv"],
    },
    Batch {
        rows: &[(33, 0, 5)],
        heads: [1, 1, 136],
        scale: 0.0625,
        window: Some(20),
        cap: Some(16.0),
        kernels: ["attention_fwd", "attention_bwd_q, attention_bwd_kv"],
    },
];

const ON_TENSOR_CORES: [Batch; 2] = [
    Batch {
        rows: &[(17, 9, 40), (65, 9, 0)],
        heads: [4, 2, 32],
        scale: 0.125,
        window: None,
        cap: None,
        kernels: ["attention_mma_fwd", ""],
    },
    Batch {
        rows: &[(66, 0, 5)],
        heads: [2, 1, 144],
        scale: 0.0625,
        window: Some(30),
        cap: Some(16.0),
        kernels: ["attention_mma_fwd", ""],
    },
];

/// `attention_short.cu`.
pub fn short(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    SHORT.iter().try_for_each(|batch| {
        forward(engine, elem, batch)?;
        backward(engine, elem, batch)
    })
}

/// `attention_row.cu`.
pub fn one(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    ONE.iter().try_for_each(|batch| forward(engine, elem, batch))
}

/// `attention.cu`.
pub fn long(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    LONG.iter().try_for_each(|batch| {
        forward(engine, elem, batch)?;
        backward(engine, elem, batch)
    })
}

/// `attention_mma.cu`.
pub fn on_tensor_cores(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    ON_TENSOR_CORES.iter().try_for_each(|batch| forward(engine, elem, batch))
}

/// Numbers of a batch on the host.
struct Host {
    seqs: Vec<Seq>,
    heads: Heads,
    n: usize,
    q: Vec<f64>,
    kv: [Vec<f64>; 4], // k, v, those of the past
    d_o: Vec<f64>,
}

impl Host {
    fn new(batch: &Batch) -> Host {
        let [queries, groups, width] = batch.heads;
        let shared = batch.rows.iter().map(|row| row.1).max().unwrap_or(0);
        let (mut n, mut past, mut seqs) = (0, shared, Vec::new());
        for &(own, shared, before) in batch.rows {
            seqs.push(Seq { rows: n..n + own, past: [0..shared, past..past + before] });
            (n, past) = (n + own, past + before);
        }
        let Batch { scale, window, cap, .. } = *batch;
        let heads = Heads { queries, groups, width, scale, window, cap };
        let of_keys = |series, rows: usize| whole(series, rows * groups * width, 2);
        let mut host = Host {
            seqs,
            heads,
            n,
            q: whole(1, n * queries * width, 2),
            kv: [of_keys(2, n), of_keys(3, n), of_keys(4, past), of_keys(5, past)],
            d_o: whole(6, n * queries * width, 2),
        };
        host.rise();
        host
    }

    /// Where there are several heads, scores of every other rise with the keys: by the first column
    /// of k, which the heads between do not look at.
    fn rise(&mut self) {
        let Heads { queries, groups, width, scale, .. } = self.heads;
        if queries == 1 {
            return;
        }
        for (at, q) in self.q.chunks_mut(width).enumerate() {
            q[0] = if at % queries % 2 == 1 { 1.0 / scale } else { 0.0 };
        }
        let [k, _, past_k, _] = &mut self.kv;
        for Seq { rows, past: [shared, own] } in &self.seqs {
            let before = shared.clone().chain(own.clone());
            let last = shared.len() + own.len() + rows.len() - 1;
            let places = before.map(|row| (row, true)).chain(rows.clone().map(|row| (row, false)));
            for (at, (row, is_past)) in places.enumerate() {
                let k = if is_past { &mut *past_k } else { &mut *k };
                let all = &mut k[row * groups * width..][..groups * width];
                all.chunks_mut(width).for_each(|k| k[0] = (40 * at / last) as f64 - 20.0);
            }
        }
    }

    fn rows(&self) -> HostKvRows<'_, f64> {
        let [k, v, past_k, past_v] = self.kv.each_ref().map(|x| &x[..]);
        HostKvRows { k, v, past_k, past_v, seqs: &self.seqs, heads: self.heads }
    }

    /// Its arrays: q and those of keys and values.
    fn lay(&self, trial: &mut Trial, elem: Elem) -> (Array, [Array; 4]) {
        let q = trial.input("q", elem, &self.q);
        let names = ["k", "v", "past_k", "past_v"];
        let kv = [0, 1, 2, 3].map(|i| trial.input(names[i], elem, &self.kv[i]));
        (q, kv)
    }

    /// o and lse.
    fn forward(&self) -> [Vec<f64>; 2] {
        let mut o = vec![0.0; self.q.len()];
        let mut lse = vec![0.0; self.n * self.heads.queries];
        definition::forward(self.rows(), &self.q, &mut o, &mut lse);
        [o, lse]
    }
}

/// Sums of absolute values, as in the head of the file: those for o, dq, dk and dv.
struct Sizes {
    o: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

impl Sizes {
    fn of(host: &Host, lse: &[f64]) -> Sizes {
        let Heads { queries, groups, width, scale, window, .. } = host.heads;
        let [k, v, past_k, past_v] = &host.kv;
        let [wide, narrow] = [host.n * queries * width, host.n * groups * width];
        let [o, dq, dk, dv] = [wide, wide, narrow, narrow].map(|len| vec![0.0; len]);
        let mut sizes = Sizes { o, dq, dk, dv };
        let row_of = |at: usize| at * width..(at + 1) * width;
        for (seq, i) in host.seqs.iter().flat_map(|seq| seq.rows.clone().map(move |i| (seq, i))) {
            for h in 0..queries {
                let here = row_of(i * queries + h);
                let (q, d_o) = (&host.q[here.clone()], &host.d_o[here.clone()]);
                let group = h * groups / queries;
                let [shared, own, rows] = seq.seen(i, window);
                let before = shared.chain(own).map(|j| (past_k, past_v, j, false));
                let seen = before.chain(rows.map(|j| (k, v, j, true)));
                // p, |t|, and where k and v lie.
                let terms: Vec<_> = seen
                    .map(|(k, v, j, own)| {
                        let at = row_of(j * groups + group);
                        let s = host.heads.score(dot(q, &k[at.clone()]));
                        let p = (s - lse[i * queries + h]).exp();
                        (p, dot(d_o, &v[at.clone()]).abs(), &k[at.clone()], &v[at.clone()], at, own)
                    })
                    .collect();
                let mean: f64 = terms.iter().map(|(p, t, ..)| p * t).sum();
                for (p, t, k, v, at, own) in terms {
                    let e = scale * p * (t + mean);
                    add_abs(&mut sizes.o[here.clone()], p, v);
                    add_abs(&mut sizes.dq[here.clone()], e, k);
                    if own {
                        add_abs(&mut sizes.dk[at.clone()], e, q);
                        add_abs(&mut sizes.dv[at], p, d_o);
                    }
                }
            }
        }
        sizes
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// y += a |x|.
fn add_abs(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x.abs());
}

fn about(batch: &Batch) -> String {
    let Batch { rows, heads: [h, g, e], window, cap, .. } = batch;
    let rows: Vec<String> =
        rows.iter().map(|(n, shared, own)| format!("{n} × {}", n + shared + own)).collect();
    let window = window.map_or(String::new(), |window| format!(", window {window}"));
    let cap = cap.map_or(String::new(), |cap| format!(", cap {cap}"));
    format!("queries × keys {}, H {h}, G {g}, E {e}{window}{cap}", rows.join(" and "))
}

/// What a cap adds to C.
fn of_cap(host: &Host) -> f64 {
    host.heads.cap.map_or(0.0, |c| 12.0 * c + 14.0)
}

/// The most terms of a sum.
fn terms(host: &Host) -> f64 {
    let seen = |seq: &Seq| {
        let past: usize = seq.past.iter().map(Range::len).sum();
        (past + seq.rows.len()).max(seq.rows.len() * host.heads.queries / host.heads.groups)
    };
    host.seqs.iter().map(seen).max().unwrap_or(0) as f64
}

fn packing(engine: &Engine, host: &Host) -> Packing {
    crate::base::or_unwind(Packing::of(engine, &host.seqs, host.heads))
}

fn forward(engine: &Engine, elem: Elem, batch: &Batch) -> Verdict {
    let kernel = batch.kernels[0];
    let host = Host::new(batch);
    let [want_o, want_lse] = host.forward();
    let sizes = Sizes::of(&host, &want_lse);
    let packing = packing(engine, &host);
    let mut trial = Trial::new(engine, about(batch));
    let (q, [k, v, past_k, past_v]) = host.lay(&mut trial, elem);
    let mut o = trial.output("o", elem, want_o.len());
    let mut lse = trial.output("lse", Elem::F32, want_lse.len());
    let mut parts = trial.output("parts", Elem::F32, packing.parts(host.heads));
    let past = (&past_k, &past_v);
    let keys = DeviceKvRows { k: &k, v: &v, past, packing: &packing, heads: host.heads };
    trial.run(kernel, || {
        let to = AttentionOutputs { o: &mut o, lse: &mut lse, parts: &mut parts };
        attention::forward(engine, &q, keys, to);
    })?;
    let cut = if kernel == "attention_mma_fwd" { 6.0 * terms(&host) + 128.0 } else { 0.0 };
    let c = U * (2.0 * terms(&host) + 80.0 + cut + of_cap(&host));
    let Heads { queries, width, .. } = host.heads;
    let lse_bound = |i: usize| c + 3.0 * U * want_lse[i].abs();
    trial.within(kernel, &lse, &[host.n, queries], &want_lse, lse_bound)?;
    trial.within(kernel, &o, &[host.n, queries, width], &want_o, |i| c * sizes.o[i])
}

fn backward(engine: &Engine, elem: Elem, batch: &Batch) -> Verdict {
    let kernel = batch.kernels[1];
    let host = Host::new(batch);
    let [_, lse] = host.forward();
    let sizes = Sizes::of(&host, &lse);
    // As forward leaves it.
    let lse = decode(Elem::F32, &encode(Elem::F32, &lse));
    let [wide, narrow] = [host.q.len(), host.kv[0].len()];
    let [mut want_q, mut want_k, mut want_v] = [wide, narrow, narrow].map(|len| vec![0.0; len]);
    definition::backward(
        host.rows(),
        &host.q,
        &lse,
        &host.d_o,
        &mut want_q,
        &mut want_k,
        &mut want_v,
    );
    let packing = packing(engine, &host);
    let mut trial = Trial::new(engine, about(batch));
    let (q, [k, v, past_k, past_v]) = host.lay(&mut trial, elem);
    let d_o = trial.input("do", elem, &host.d_o);
    let log_sums = trial.input("lse", Elem::F32, &lse);
    let mut dq = trial.output("dq", elem, wide);
    let [mut dk, mut dv] = ["dk", "dv"].map(|name| trial.output(name, elem, narrow));
    let [mut total, mut mean] =
        ["total", "mean"].map(|name| trial.output(name, Elem::F32, lse.len()));
    let past = (&past_k, &past_v);
    let keys = DeviceKvRows { k: &k, v: &v, past, packing: &packing, heads: host.heads };
    trial.run(kernel, || {
        let grads = DeviceAttentionGrads {
            dq: &mut dq,
            dk: &mut dk,
            dv: &mut dv,
            total: &mut total,
            mean: &mut mean,
        };
        attention::backward(engine, &d_o, &q, keys, &log_sums, grads);
    })?;
    let c = U * (2.0 * terms(&host) + 80.0 + of_cap(&host));
    let Heads { queries, groups, width, .. } = host.heads;
    trial.within(kernel, &dq, &[host.n, queries, width], &want_q, |i| c * sizes.dq[i])?;
    trial.within(kernel, &dk, &[host.n, groups, width], &want_k, |i| c * sizes.dk[i])?;
    trial.within(kernel, &dv, &[host.n, groups, width], &want_v, |i| c * sizes.dv[i])
}
