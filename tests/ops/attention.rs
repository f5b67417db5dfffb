//! Causal attention: grouped heads, packed sequences, pasts of several lengths.

use std::ops::Range;

use incise::base::Float;
use incise::gpu::kernels::{attention_mma as mma, attention_short as short};
use incise::gpu::launch::Elem;
use incise::gpu::{Array, Engine};
use incise::ops::attention::{self, AttentionGrads, Heads, KvRows, Seq};
use incise::ops::cuda::attention::{self as cuda, Packing};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, U64, along, inner, inner_abs, lost};
use crate::support::toy::{Draw, Fill, cast, exp, ln};
use crate::support::twin;

mod large;

/// A row of the table: [H, G, E], (rows of the past, own tokens) of each sequence, spread of q,
/// window.
struct Row {
    case: &'static str,
    heads: [usize; 3],
    seqs: &'static [(Range<usize>, usize)],
    spread: f64,
    window: Option<usize>,
    cap: Option<f64>,
}

const fn row(case: &'static str, heads: [usize; 3], seqs: &'static [(Range<usize>, usize)]) -> Row {
    Row { case, heads, seqs, spread: 1.0, window: None, cap: None }
}

impl Row {
    const fn spread(mut self, spread: f64) -> Row {
        self.spread = spread;
        self
    }

    const fn window(mut self, window: usize) -> Row {
        self.window = Some(window);
        self
    }

    const fn cap(mut self, cap: f64) -> Row {
        self.cap = Some(cap);
        self
    }
}

const CASES: &[Row] = &[
    row("one token, one column", [1, 1, 1], &[(0..0, 1)]),
    row("one sequence", [2, 2, 7], &[(0..0, 13)]),
    row("GPT-2 small", [12, 12, 64], &[(0..0, 31)]),
    row("two heads a group", [4, 2, 5], &[(0..0, 11)]),
    row("one group", [5, 1, 17], &[(0..0, 9)]),
    row("several sequences", [2, 2, 19], &[(0..0, 5), (0..0, 1), (0..0, 8)]),
    row("one token after a past", [4, 2, 16], &[(2..9, 1)]),
    row(
        "pasts of different lengths, out of order, shared, empty",
        [2, 1, 21],
        &[(5..11, 3), (0..2, 4), (3..3, 2), (5..11, 1), (0..13, 6)],
    ),
    row("sharp scores", [2, 1, 8], &[(1..4, 9)]).spread(30.0),
    row("sharp scores of an odd width", [2, 1, 7], &[(1..4, 9)]).spread(30.0),
    row("scores that overflow e^s", [2, 1, 8], &[(1..4, 9)]).spread(1e3),
    row("scores of an odd width that overflow e^s", [2, 1, 7], &[(1..4, 9)]).spread(1e3),
    row("longer than a block", [1, 1, 3], &[(0..40, 700)]),
    row("four thousand keys", [1, 1, 8], &[(0..4000, 2)]),
    row("two thousand queries of a key", [32, 1, 4], &[(0..0, 64)]).spread(0.3),
    row("a window", [2, 1, 9], &[(0..0, 11)]).window(4),
    row("itself only", [2, 2, 5], &[(0..3, 7)]).window(1),
    row(
        "windows that end in the past, at its end and beyond",
        [2, 1, 21],
        &[(1..13, 3), (0..4, 1), (2..4, 9), (0..0, 2), (0..3, 2), (5..10, 5)],
    )
    .window(5),
    row("a cap", [4, 2, 5], &[(0..3, 11), (2..9, 1)]).cap(1.5).spread(3.0),
    row("a cap that all scores meet", [1, 1, 7], &[(0..4, 9)]).cap(0.5).spread(30.0).window(6),
];

/// More for the forms that kernels have and the definition does not.
const FORMS: &[Row] = &[
    row("one token", [1, 1, 8], &[(0..0, 1)]),
    row(
        "the same, in whole packs",
        [2, 1, 8],
        &[(5..11, 3), (0..2, 4), (3..3, 2), (5..11, 1), (0..13, 6)],
    ),
    row("sharp scores of rows", [2, 1, 8], &[(1..150, 1), (0..70, 1), (4..99, 1)])
        .spread(30.0)
        .window(3),
    row("scores of rows that overflow e^s", [2, 1, 8], &[(1..150, 1), (0..70, 1), (4..99, 1)])
        .spread(100.0)
        .window(3),
    row("a thousand keys of a row", [1, 1, 8], &[(0..1000, 1)]),
    row("itself only, in whole packs", [2, 2, 8], &[(0..3, 7)]).window(1),
    row(
        "the same windows, in whole packs",
        [2, 2, 8],
        &[(1..13, 3), (0..4, 1), (2..4, 9), (0..0, 2), (0..3, 2), (5..10, 5)],
    )
    .window(5),
    row("a cap, in whole packs", [4, 2, 8], &[(0..3, 11), (2..9, 3)]).cap(1.5).spread(3.0),
    row("a cap of rows", [4, 2, 16], &[(0..140, 1), (9..99, 1)]).cap(2.0).spread(3.0),
    row("a cap of a tile and a token", [2, 1, 16], &[(0..0, 65), (0..3, 17)]).cap(2.0).spread(3.0),
    // Few queries that see few keys, up to the most of both, and of the heads of a group.
    row("a search", [3, 3, 64], &[(0..30, 4), (0..30, 3), (0..9, 5)]),
    row("a search, two heads a group", [4, 2, 80], &[(0..9, 5), (3..20, 1)]),
    row("a search, one group", [5, 1, 96], &[(2..9, 6)]),
    row("sixteen queries of 64 keys", [4, 1, 8], &[(0..48, 16)]),
    row("seventeen queries", [1, 1, 8], &[(0..3, 17)]),
    row("sixteen queries, five heads a group", [5, 1, 8], &[(0..3, 16)]),
    row("a search 128 wide", [2, 1, 128], &[(0..17, 2), (0..17, 4)]),
    row("a search 256 wide", [1, 1, 256], &[(0..17, 4)]),
    // One query.
    row("rows that see 64 and 65 keys", [1, 1, 8], &[(0..63, 1), (0..64, 1)]).spread(0.3),
    row("a row that sees a span and a key", [5, 1, 8], &[(5..133, 1)]).spread(0.3),
    row("rows with a window", [1, 1, 16], &[(0..300, 1), (7..90, 1), (0..70, 1)]).window(50),
    row("rows 64 wide", [3, 1, 64], &[(0..140, 1), (9..99, 1)]).spread(0.3),
    row("rows 80 wide", [2, 1, 80], &[(0..70, 1), (2..70, 1)]).spread(0.3),
    row("rows 96 wide", [2, 1, 96], &[(0..70, 1), (2..70, 1)]).spread(0.3),
    row("a row 256 wide", [1, 1, 256], &[(0..66, 1)]).spread(0.1),
    // Tiles.
    row("a tile and a token", [1, 1, 5], &[(0..0, 65)]),
    row("three queries of two tiles", [2, 1, 6], &[(0..100, 3)]).window(70),
    row("a window over two tiles", [1, 1, 9], &[(0..70, 66)]).window(67),
    row("more columns than a slice", [2, 1, 129], &[(0..9, 3)]),
    row("one column, many tokens", [1, 1, 1], &[(0..9, 67)]),
    row("seventeen tokens, 16 wide", [1, 1, 16], &[(0..3, 17)]),
    row("a tile and a token, 16 wide", [1, 1, 16], &[(0..0, 65)]),
    row("windows over tiles, two heads a group", [4, 2, 16], &[(0..40, 18), (0..90, 3)]).window(45),
    row("80 wide, many tokens", [1, 1, 80], &[(0..3, 18)]),
    row("128 wide, many tokens", [2, 1, 128], &[(0..3, 18)]),
    row("256 wide, many tokens", [1, 1, 256], &[(0..9, 17)]),
    // Sequences that go different ways.
    row("all forms", [2, 1, 8], &[(0..3, 2), (0..70, 1), (0..3, 17), (3..9, 1), (0..64, 2)]),
];

struct Case {
    heads: Heads,
    seqs: Vec<Seq>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    past_k: Vec<f64>,
    past_v: Vec<f64>,
    d_o: Vec<f64>,
}

impl Case {
    fn draw(draw: &mut Draw, row: &Row) -> Case {
        let [queries, groups, width] = row.heads;
        let mut n = 0;
        let pack = |(past, own): &(Range<usize>, usize)| {
            n += own;
            // Cut anywhere, the past is the same.
            let cut = past.start + past.len() / 3;
            Seq { rows: n - own..n, past: [past.start..cut, cut..past.end] }
        };
        let seqs: Vec<Seq> = row.seqs.iter().map(pack).collect();
        let past = row.seqs.iter().map(|(past, _)| past.end).max().unwrap_or(0);
        Case {
            // Not 1/√E, so that a scale made up on the way shows.
            heads: Heads { queries, groups, width, scale: 0.375, window: row.window, cap: row.cap },
            seqs,
            q: draw.fill(Fill::Wide(row.spread), n * queries * width),
            k: draw.normal(n * groups * width),
            v: draw.normal(n * groups * width),
            past_k: draw.normal(past * groups * width),
            past_v: draw.normal(past * groups * width),
            d_o: draw.normal(n * queries * width),
        }
    }

    /// o, lse, dq, dk, dv.
    fn run(&self, precision: Precision, [q, k, v]: [&[f64]; 3]) -> [Tensor; 5] {
        let Heads { queries, groups, width, .. } = self.heads;
        let (qw, kw) = (queries * width, groups * width);
        let tensor = |width, x: &[f64]| Tensor::of(precision, &[x.len() / width, width], x);
        let stale =
            |like: &Tensor| Tensor::of(precision, like.shape(), &vec![f64::NAN; like.len()]);
        let (q, k, v) = (tensor(qw, q), tensor(kw, k), tensor(kw, v));
        let past = (&tensor(kw, &self.past_k), &tensor(kw, &self.past_v));
        let mut o = stale(&q);
        let mut lse = tensor(queries, &vec![f64::NAN; q.len() / width]);
        let keys =
            KvRows { k: &k, v: &v, past, seqs: &self.seqs, packing: None, heads: self.heads };
        attention::forward(&q, keys, &mut o, &mut lse);
        let [total, mean] = [stale(&lse), stale(&lse)];
        let mut grads = AttentionGrads { dq: stale(&q), dk: stale(&k), dv: stale(&v), total, mean };
        let d_o = tensor(qw, &self.d_o);
        attention::backward(&d_o, &q, keys, &lse, &mut grads);
        [o, lse, grads.dq, grads.dk, grads.dv]
    }
}

/// A sum of terms as they come, 256 after another: products of libraries are blocked so, and a sum
/// of thousands of terms in a row would be no measure.
#[derive(Clone, Copy, Default)]
struct Sum<T> {
    whole: T, // blocks
    block: T,
    terms: usize,
}

impl<T: Float> Sum<T> {
    fn add(&mut self, x: T) {
        self.block += x;
        self.terms += 1;
        if self.terms.is_multiple_of(256) {
            self.whole += std::mem::take(&mut self.block);
        }
    }

    fn total(&self) -> T {
        self.whole + self.block
    }
}

fn sum<T: Float>(terms: impl Iterator<Item = T>) -> T {
    let mut sum = Sum::default();
    terms.for_each(|x| sum.add(x));
    sum.total()
}

/// Softmax of scores, and the log of their sum.
fn softmax<T: Float>(scores: &[T]) -> (Vec<T>, T) {
    let top = scores.iter().fold(scores[0], |a, &s| a.max(s));
    let e: Vec<T> = scores.iter().map(|&s| exp(s - top)).collect();
    let total = sum(e.iter().copied());
    (e.iter().map(|&e| e / total).collect(), top + ln(total))
}

fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    sum(a.iter().zip(b).map(|(&a, &b)| a * b))
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["o", "lse", "dq", "dk", "dv"];

    /// Query by query over a list of all keys, the past's first; the past's gradients are dropped.
    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let Heads { queries, groups, width, scale, window, cap } = self.heads;
        let (scale, kw) = (T::of(scale), groups * width);
        let [q, d_o] = [&self.q, &self.d_o].map(|x| cast::<T>(x));
        let [k, v, past_k, past_v] =
            [&self.k, &self.v, &self.past_k, &self.past_v].map(|x| cast::<T>(x));
        let none = |like: &[T]| vec![Sum::<T>::default(); like.len()];
        let (mut o, mut dq, mut dk, mut dv) = (none(&q), none(&q), none(&k), none(&v));
        let mut lse = Vec::new();
        for seq in &self.seqs {
            for (i, h) in seq.rows.clone().flat_map(|i| (0..queries).map(move |h| (i, h))) {
                let (at, g) = ((i * queries + h) * width, h / (queries / groups) * width);
                let (qi, doi) = (&q[at..][..width], &d_o[at..][..width]);
                let own = (seq.rows.start..=i).map(|j| (&k[j * kw + g..], &v[j * kw + g..]));
                let past = seq.past.iter().cloned().flatten();
                let before = past.clone().count();
                let past = past.map(|j| (&past_k[j * kw + g..], &past_v[j * kw + g..]));
                let all: Vec<(&[T], &[T])> = past.chain(own).collect();
                let hidden = all.len() - window.unwrap_or(all.len()).min(all.len());
                let seen = &all[hidden..];
                let capped = |s: T| cap.map_or(s, |c| T::of(c) * (s / T::of(c)).tanh());
                let scores: Vec<T> = seen.iter().map(|(k, _)| capped(scale * dot(qi, k))).collect();
                let (p, log_sum) = softmax(&scores);
                lse.push(log_sum);
                let t: Vec<T> = seen.iter().map(|(_, v)| dot(doi, v)).collect();
                let mean = dot(&p, &t);
                for (x, (kx, vx)) in seen.iter().enumerate() {
                    // d tanh(a) / da, not by what tanh came to.
                    let slope = |c: f64| {
                        let cosh = (scale * dot(qi, kx) / T::of(c)).f64().cosh();
                        T::of(1.0 / (cosh * cosh))
                    };
                    let e = p[x] * (t[x] - mean) * scale * cap.map_or(T::of(1.0), slope);
                    let own = (x + hidden).checked_sub(before); // none in the past
                    let j = own.map(|own| seq.rows.start + own);
                    for c in 0..width {
                        o[at + c].add(p[x] * vx[c]);
                        dq[at + c].add(e * kx[c]);
                        if let Some(j) = j {
                            dk[j * kw + g + c].add(e * qi[c]);
                            dv[j * kw + g + c].add(p[x] * doi[c]);
                        }
                    }
                }
            }
        }
        let [o, dq, dk, dv] = [o, dq, dk, dv].map(|sums| sums.iter().map(Sum::total).collect());
        vec![o, lse, dq, dk, dv]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        self.run(precision, [&self.q, &self.k, &self.v]).iter().map(Tensor::to_f64).collect()
    }
}

impl Case {
    /// With q, k, v and do in elements of a type.
    fn rounded(mut self, elem: Elem) -> Case {
        let all = [&mut self.q, &mut self.k, &mut self.v, &mut self.past_k, &mut self.past_v];
        all.into_iter().chain([&mut self.d_o]).for_each(|x| *x = twin::rounded(elem, x));
        self
    }

    /// How far o and lse of a sequence may be off besides, where tensor cores form them: its scores
    /// by what their sums lose of Σ |q||k| ≤ |q||k|, weights by twice that of themselves, o by what
    /// the parts of the weights and its own sums lose, see `attention_mma.cu`, of the largest v.
    fn lost_by_cores(&self, seq: &Seq) -> [f64; 5] {
        let Heads { width, scale, .. } = self.heads;
        let largest = |x: &mut dyn Iterator<Item = f64>| x.fold(0.0, f64::max);
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let norms = |x: &[f64]| largest(&mut x.chunks(width).map(norm));
        let v = largest(&mut self.v.iter().chain(&self.past_v).map(|v| v.abs()));
        let (q, k) = (norms(&self.q), norms(&self.k).max(norms(&self.past_k)));
        let scores = scale * lost(width) * q * k;
        let keys = keys(seq).next_multiple_of(mma::KEYS);
        let o = (2.0 * scores).exp_m1() + f64::powi(2.0, -16) + 1.02 * lost(2 * keys);
        [o * v, scores, 0.0, 0.0, 0.0]
    }

    /// The same of all sequences that tensor cores meet.
    fn besides(&self, elem: Elem) -> Vec<f64> {
        let met = self.seqs.iter().filter(|seq| on_tensor_cores(seq, self.heads, elem));
        let lost = met.map(|seq| self.lost_by_cores(seq));
        lost.fold([0.0; 5], |a, b| std::array::from_fn(|i| b[i].max(a[i]))).to_vec()
    }

    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let inputs = [&self.q, &self.k, &self.v, &self.past_k, &self.past_v, &self.d_o];
        let inputs = inputs.map(|x| twin::up(engine, elem, x));
        launch(engine, self.heads, &self.seqs, &inputs).iter().map(twin::down).collect()
    }
}

/// Keys that the last query of a sequence sees without a window.
fn keys(seq: &Seq) -> usize {
    seq.rows.len() + seq.past.iter().map(Range::len).sum::<usize>()
}

/// Whether tensor cores form a sequence's o and lse: one query, and a few that see few keys, go
/// other ways.
fn on_tensor_cores(seq: &Seq, heads: Heads, elem: Elem) -> bool {
    let queries = seq.rows.len();
    let own = queries * queries.next_multiple_of(short::ROWS) * heads.queries / heads.groups;
    let few = queries <= 16 && keys(seq) <= short::KEYS && own <= short::OWN;
    elem == Elem::BF16 && heads.width.is_multiple_of(mma::MMA_K) && queries > 1 && !few
}

/// o, lse, dq, dk, dv from q, k, v, past k, past v, do.
fn launch(engine: &Engine, heads: Heads, seqs: &[Seq], inputs: &[Array; 6]) -> [Array; 5] {
    let [q, k, v, past_k, past_v, d_o] = inputs;
    let like = |x: &Array| engine.array(x.elem(), x.len()).unwrap();
    let (mut o, mut dq, mut dk, mut dv) = (like(q), like(q), like(k), like(v));
    let per_head = || engine.array(Elem::F32, q.len() / heads.width).unwrap();
    let (mut lse, mut total, mut mean) = (per_head(), per_head(), per_head());
    let packing = &Packing::of(engine, seqs, heads).unwrap();
    let mut parts = engine.array(Elem::F32, packing.parts(heads)).unwrap();
    let keys = cuda::DeviceKvRows { k, v, past: (past_k, past_v), packing, heads };
    let outputs = cuda::AttentionOutputs { o: &mut o, lse: &mut lse, parts: &mut parts };
    cuda::forward(engine, q, keys, outputs);
    let (total, mean) = (&mut total, &mut mean);
    let grads = cuda::DeviceAttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv, total, mean };
    cuda::backward(engine, d_o, q, keys, &lse, grads);
    [o, lse, dq, dk, dv]
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::attention::kernels") else { return };
    // A block is dear under ThreadSanitizer: there a case has two heads or sequences at most. And
    // types go different ways on the tensor cores only.
    let calm: Vec<_> =
        engines.iter().filter(|(name, _)| !name.contains("thread")).cloned().collect();
    let watched = |r: &Row, elem| {
        let other = elem == Elem::F32 || r.heads[2].is_multiple_of(16);
        other && r.seqs.len() * r.heads[0] <= 2
    };
    let pairs = |r: &Row| r.seqs.iter().map(|(past, own)| own * (past.len() + own)).sum::<usize>();
    let large = |r: &Row| pairs(r) * r.heads[0] > 6_000;
    for row in CASES.iter().chain(FORMS).filter(|r| !large(r)) {
        for elem in [Elem::F32, Elem::BF16] {
            let engines = if watched(row, elem) { &engines } else { &calm };
            let name = format!("attention {elem:?}, {}", row.case);
            let inputs = |draw: &mut Draw| Case::draw(draw, row).rounded(elem);
            let run = |case: &Case, engine: &Engine| case.kernels(engine, elem);
            let outputs = [elem, Elem::F32, elem, elem, elem];
            let besides = |case: &Case| case.besides(elem);
            budget::kernel_besides(&name, engines, &outputs, inputs, run, besides);
        }
    }
}

#[test]
fn cases() {
    for row in CASES {
        budget::hold(&format!("attention, {}", row.case), |draw| Case::draw(draw, row));
    }
}

#[test]
fn backward_is_the_slope() {
    let short = |r: &&Row| r.seqs.iter().all(|(past, own)| past.len() + own < 100);
    let tame = |r: &&Row| r.heads[2] > 1 && r.spread == 1.0;
    for row in CASES.iter().filter(short).filter(tame) {
        let mut draw = Draw::new(row.case, false);
        let case = Case::draw(&mut draw, row);
        let directions = [&case.q, &case.k, &case.v].map(|x| draw.normal(x.len()));
        let loss = |t: f64| {
            let [q, k, v] = [(&case.q, 0), (&case.k, 1), (&case.v, 2)]
                .map(|(x, i)| along(x, t, &directions[i]));
            let [o, ..] = case.run(Precision::F64, [&q, &k, &v]);
            (inner(&case.d_o, &o.to_f64()), inner_abs(&case.d_o, &o.to_f64()))
        };
        let [_, _, grads @ ..] = case.run(Precision::F64, [&case.q, &case.k, &case.v]);
        let slope: f64 = grads.iter().zip(&directions).map(|(g, v)| inner(&g.to_f64(), v)).sum();
        // Scores are sums over E, o a sum over the keys, the loss one over all o.
        let terms = case.heads.width + 2 * 64 + case.q.len();
        let noise = terms as f64 * U64 * loss(0.0).1;
        budget::central(&format!("attention, {}", row.case), slope, noise, |t| loss(t).0);
    }
}
