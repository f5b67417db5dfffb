//! Attention of the sizes of real models. Sequences, and groups, begin again after [`PERIOD`]: what
//! kernels make of the first is held to f64, and the others' bits, which depend on nothing else, to
//! theirs.
//!
//! ```text
//! |got − want| ≤ c + u (|want| + c)      c = 2·max|base − want| + besides
//! ```
//!
//! as in `support/budget.rs`, with the rounding of the element itself for that of the largest. Of a
//! sequence that is too long, its last tokens are held: to them, all before is past.

use std::ops::Range;

use incise::base::Rng;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::attention::{Heads, Seq};
use rayon::prelude::*;

use super::{Case, launch, on_tensor_cores};
use crate::support::budget::{Op, bases, off, unit};
use crate::support::projection::Numbers;
use crate::support::twin;

/// Sequences, and groups, after which inputs begin again: no power of two, so that places which lie
/// such a power apart differ.
const PERIOD: usize = 3;

/// Sequences of `tokens` each, after rows of the past that all share and others of their own.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    heads: [usize; 3], // H, G, E
    sequences: usize,
    tokens: usize,
    past: [usize; 2],
    window: Option<usize>,
    held: usize, // the last tokens, which are held to f64
}

const fn sizes(heads: [usize; 3], sequences: usize, tokens: usize) -> Sizes {
    Sizes { heads, sequences, tokens, past: [0, 0], window: None, held: tokens }
}

impl Sizes {
    const fn after(self, shared: usize, own: usize) -> Sizes {
        Sizes { past: [shared, own], ..self }
    }

    const fn window(self, window: usize) -> Sizes {
        Sizes { window: Some(window), ..self }
    }

    const fn held(self, held: usize) -> Sizes {
        Sizes { held, ..self }
    }
}

const GPT_J: [usize; 3] = [16, 16, 256];
const GROUPED: [usize; 3] = [32, 8, 128];

/// (case, of a card, of the host).
const CASES: [(&str, Sizes, Sizes); 6] = [
    ("texts", sizes(GPT_J, 16, 512), sizes([4, 4, 16], 4, 67)),
    ("prompts", sizes(GPT_J, 64, 128), sizes([1, 1, 16], 7, 18)),
    ("a search", sizes(GPT_J, 2048, 4).after(12, 8), sizes([4, 4, 16], 10, 4).after(12, 8)),
    (
        "a window that ends in the past and later",
        sizes(GROUPED, 16, 512).after(30, 100).window(200),
        sizes([8, 4, 16], 4, 33).after(3, 10).window(20),
    ),
    ("decoding", sizes(GROUPED, 128, 1).after(1000, 200), sizes([8, 4, 16], 5, 1).after(60, 90)),
    ("one text", sizes(GPT_J, 1, 8192).held(40), sizes([5, 5, 16], 1, 70).held(9)),
];

/// Rows of so many numbers of each group.
struct Rows {
    numbers: Numbers,
    groups: usize,
    each: usize,
}

impl Rows {
    /// Row by row like others.
    fn draw(name: &str, elem: Elem, [groups, each]: [usize; 2], like: &[usize]) -> Rows {
        let own = like.iter().max().map_or(0, |last| last + 1);
        let drawn = Numbers::of_rows(elem, [own * PERIOD, each], |at| {
            let mut rng = Rng::new(at as u64, name);
            (0..each).map(|_| rng.normal()).collect()
        });
        let numbers = Numbers::of_rows(elem, [like.len(), groups * each], |i| {
            let group = |g: usize| (like[i] * PERIOD + g % PERIOD) * each..;
            (0..groups).flat_map(|g| group(g).take(each)).map(|at| drawn.at(at)).collect()
        });
        Rows { numbers, groups, each }
    }

    /// Where those of a group are.
    fn at(&self, row: usize, group: usize) -> Range<usize> {
        let from = (row * self.groups + group) * self.each;
        from..from + self.each
    }

    /// A group's of some rows.
    fn part(&self, rows: impl Iterator<Item = usize>, group: usize) -> Vec<f64> {
        rows.flat_map(|i| self.at(i, group)).map(|at| self.numbers.at(at)).collect()
    }
}

/// A batch whose rows are like others of it.
struct Large {
    elem: Elem,
    sizes: Sizes,
    heads: Heads,
    seqs: Vec<Seq>,
    like: Vec<usize>,
    inputs: [Rows; 6], // q, k, v, past k, past v, do
}

impl Large {
    fn draw(elem: Elem, sizes: Sizes) -> Large {
        let Sizes { heads: [queries, groups, width], sequences, tokens, past, window, .. } = sizes;
        // Scores of size 1.5: of a few hundred keys no one has all the weight.
        let scale = f64::from((1.5 / (width as f64).sqrt()) as f32);
        let [shared, own] = past;
        let seq = |s: usize| Seq {
            rows: s * tokens..(s + 1) * tokens,
            past: [0..shared, shared + s * own..shared + (s + 1) * own],
        };
        let like: Vec<usize> = (0..sequences * tokens).map(|i| i % (PERIOD * tokens)).collect();
        let earlier = (0..sequences * own).map(|i| shared + i % (PERIOD * own));
        let earlier: Vec<usize> = (0..shared).chain(earlier).collect();
        let draw = |name, each, like| Rows::draw(name, elem, [groups, each], like);
        let inputs = [
            draw("large q", queries / groups * width, &like),
            draw("large k", width, &like),
            draw("large v", width, &like),
            draw("large past k", width, &earlier),
            draw("large past v", width, &earlier),
            draw("large do", queries / groups * width, &like),
        ];
        let heads = Heads { queries, groups, width, scale, window, cap: None };
        Large { elem, sizes, heads, seqs: (0..sequences).map(seq).collect(), like, inputs }
    }

    /// Types of what kernels make of it.
    fn outputs(&self) -> [Elem; 5] {
        [self.elem, Elem::F32, self.elem, self.elem, self.elem]
    }

    /// o, lse, dq, dk, dv.
    fn run(&self, engine: &Engine) -> [Rows; 5] {
        let inputs = self.inputs.each_ref().map(|x| x.numbers.up(engine));
        let (groups, n) = (self.heads.groups, self.like.len());
        launch(engine, self.heads, &self.seqs, &inputs).map(|x| Rows {
            numbers: Numbers::of(&x),
            groups,
            each: x.len() / (n * groups),
        })
    }

    /// The rows of a sequence that are held to f64.
    fn held(&self, s: usize) -> Range<usize> {
        let end = self.seqs[s].rows.end;
        end - self.sizes.held..end
    }

    /// The same by themselves with a group's heads: to them, all before is past.
    fn part(&self, s: usize, g: usize) -> Case {
        let [q, k, v, past_k, past_v, d_o] = &self.inputs;
        let Seq { rows, past } = &self.seqs[s];
        let before = rows.start..self.held(s).start;
        let own = |x: &Rows| x.part(self.held(s), g);
        let earlier = |cached: &Rows, x: &Rows| {
            let cached = cached.part(past.iter().cloned().flatten(), g);
            [cached, x.part(before.clone(), g)].concat()
        };
        let (past_k, past_v) = (earlier(past_k, k), earlier(past_v, v));
        let Heads { queries, groups, width, .. } = self.heads;
        let past = past_k.len() / width;
        Case {
            heads: Heads { queries: queries / groups, groups: 1, ..self.heads },
            seqs: vec![Seq { rows: 0..self.sizes.held, past: [0..past, past..past] }],
            q: own(q),
            k: own(k),
            v: own(v),
            past_k,
            past_v,
            d_o: own(d_o),
        }
    }

    /// What is wrong with o, lse, dq, dk, dv.
    fn faults(&self, got: &[Rows; 5]) -> Vec<String> {
        let [some, groups] = [self.seqs.len(), self.heads.groups].map(|n| n.min(PERIOD));
        let parts: Vec<_> = (0..some).flat_map(|s| (0..groups).map(move |g| (s, g))).collect();
        let held = parts.par_iter().map(|&(s, g)| {
            let case = self.part(s, g);
            let (want, bases) = rayon::join(|| case.plain::<f64>(), || bases(&case));
            let got = got.each_ref().map(|x| x.part(self.held(s), g));
            // What is by itself a few queries was many.
            let many = on_tensor_cores(&self.seqs[s], self.heads, self.elem);
            let besides = if many { case.lost_by_cores(&case.seqs[0]) } else { [0.0; 5] };
            (want, bases, got, besides)
        });
        let held: Vec<_> = held.collect();
        let mut faults = Vec::new();
        for (i, (name, elem)) in Case::OUTPUTS.iter().zip(self.outputs()).enumerate() {
            let (mut base_off, mut besides) = (0.0_f64, 0.0_f64);
            for (want, bases, _, more) in &held {
                let off = bases.iter().map(|base| off(&base[i], &want[i]));
                base_off = off.fold(base_off, f64::max);
                besides = besides.max(more[i]);
            }
            let (c, u) = (2.0 * base_off + besides, unit(elem));
            let sizes = held.iter().flat_map(|(want, ..)| want[i].iter().map(|w| w.abs()));
            let typical = sizes.clone().sum::<f64>() / sizes.count() as f64;
            assert!(c <= typical, "{name} is {typical:e} in size, and {c:e} off is let through");
            for ((want, _, got, _), (s, g)) in held.iter().zip(&parts) {
                let right = |(g, w): (&f64, &f64)| (g - w).abs() <= c + u * (w.abs() + c);
                let wrong = got[i].iter().zip(&want[i]).position(|pair| !right(pair));
                faults.extend(wrong.map(|at| {
                    let row = self.held(*s).start + at * self.sizes.held / want[i].len();
                    let (got, want) = (got[i][at], want[i][at]);
                    format!("{name} of row {row}, group {g} has {got:e} for {want:e}, within {c:e}")
                }));
            }
            faults.extend(self.unlike(&got[i]).map(|(row, g)| {
                format!("{name} of row {row}, group {g} is not like row {}", self.like[row])
            }));
        }
        faults
    }

    /// The first row and group whose bits are not those of the row and group that it is like.
    fn unlike(&self, got: &Rows) -> Option<(usize, usize)> {
        let bits = |row, g| got.numbers.bytes(got.at(row, g));
        let places = (0..self.like.len()).into_par_iter();
        let first = |row: usize| {
            let wrong = |&g: &usize| bits(row, g) != bits(self.like[row], g % PERIOD);
            (0..got.groups).find(wrong).map(|g| (row, g))
        };
        places.find_map_first(first)
    }
}

#[test]
fn kernels() {
    let Some(engine) = twin::engine("ops::attention::large::kernels") else { return };
    for ((case, real, small), elem) in
        CASES.into_iter().flat_map(|case| [Elem::F32, Elem::BF16].map(|elem| (case, elem)))
    {
        let sizes = twin::sizes(real, small);
        let large = Large::draw(elem, sizes);
        let faults = large.faults(&large.run(&engine));
        assert!(faults.is_empty(), "{case}, {elem:?}, {sizes:?}: {}", faults.join("; "));
    }
}

/// A row that is its neighbour's is found, be it held to f64 or to the bits of another.
#[test]
fn a_wrong_row_is_found() {
    let Some(engine) = twin::engine("ops::attention::large::a_wrong_row_is_found") else { return };
    for elem in [Elem::F32, Elem::BF16] {
        let large = Large::draw(elem, CASES[0].2);
        let mut got = large.run(&engine);
        assert!(large.faults(&got).is_empty());
        let last = large.like.len() - 1;
        for (i, (name, of)) in Case::OUTPUTS.iter().zip(large.outputs()).enumerate() {
            for (row, g) in [(0, 0), (large.held(1).end - 1, 2), (last, 0), (last, 3)] {
                let numbers = Numbers::of_rows(of, [last + 1, 4 * got[i].each], |at| {
                    let from = |h| if (at, h) == (row, g) { (row + 1) % last } else { at };
                    (0..4).flat_map(|h| got[i].part(from(h)..from(h) + 1, h)).collect()
                });
                let right = std::mem::replace(&mut got[i].numbers, numbers);
                let faults = large.faults(&got);
                got[i].numbers = right;
                let found = format!("{name} of row {row}, group {g} ");
                assert!(faults.first().is_some_and(|f| f.starts_with(&found)), "{found}{faults:?}");
            }
        }
    }
}
