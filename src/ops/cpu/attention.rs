//! Definition of [`crate::ops::attention`]. A task is a token: forward and dq go by queries, dk
//! and dv by keys, so every sum is made by one task in one order.
//!
//! Sums over keys, and over the queries of a key, are made in blocks: of n terms one after another,
//! an f32 sum loses up to n roundings, in blocks some 64 + n/64. Blocks are counted from the sum's
//! first term, so a row's bits do not depend on how its past is cut.

use std::ops::Range;

use rayon::prelude::*;

use super::lanes::{add_scaled, dot, vectorised};
use crate::base::Float;

/// One sequence of a packed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seq {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// The rows of the cache that hold its earlier tokens: first those it may share with other
    /// sequences, then its own.
    pub past: [Range<usize>; 2],
}

/// The heads and the scale of the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// H, query heads.
    pub queries: usize,
    /// G, key/value heads.
    pub groups: usize,
    /// E, width of a head.
    pub width: usize,
    /// Factor of the scores, 1/√E as a rule.
    pub scale: f64,
    /// How many tokens a query sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// c, which no score exceeds, where the family has one.
    pub cap: Option<f64>,
}

impl Heads {
    /// s, the score of ⟨q, k⟩.
    #[inline(always)]
    pub fn score<T: Float>(&self, product: T) -> T {
        let s = T::of(self.scale) * product;
        match self.cap.map(T::of) {
            None => s,
            Some(c) => c * (s / c).tanh(),
        }
    }

    /// ∂s / ∂(scale ⟨q, k⟩), from s.
    #[inline(always)]
    pub fn slope<T: Float>(&self, s: T) -> T {
        match self.cap.map(T::of) {
            None => T::of(1.0),
            Some(c) => T::of(1.0) - (s / c) * (s / c),
        }
    }
}

impl Seq {
    /// The rows of the past, shared and own, and of the batch that the query of row i sees.
    pub fn seen(&self, i: usize, window: Option<usize>) -> [Range<usize>; 3] {
        let [shared, own] = self.past.clone();
        let all = [shared, own, self.rows.start..i + 1];
        let tokens: usize = all.iter().map(Range::len).sum();
        let mut hidden = tokens.saturating_sub(window.unwrap_or(usize::MAX));
        all.map(|rows| {
            let here = hidden.min(rows.len());
            hidden -= here;
            rows.start + here..rows.end
        })
    }

    /// The rows of the queries that see the key of row j.
    pub fn seen_by(&self, j: usize, window: Option<usize>) -> Range<usize> {
        j..self.rows.end.min(j.saturating_add(window.unwrap_or(usize::MAX)))
    }
}

/// Terms that are added to each other before they join the sum.
const BLOCK: usize = 64;

/// Σ of numbers, in blocks.
#[inline(always)]
fn sum<X, T: Float>(terms: &[X], term: impl Fn(&X) -> T) -> T {
    terms.chunks(BLOCK).map(|block| block.iter().map(&term).sum::<T>()).sum()
}

/// y = Σ a x, in blocks.
struct Rows<'y, T> {
    y: &'y mut [T],
    block: &'y mut [T],
    terms: usize,
}

impl<'y, T: Float> Rows<'y, T> {
    #[inline(always)]
    fn of(y: &'y mut [T], block: &'y mut [T]) -> Self {
        y.fill(T::default());
        block.fill(T::default());
        Rows { y, block, terms: 0 }
    }

    #[inline(always)]
    fn add(&mut self, a: T, x: &[T]) {
        add_scaled(self.block, a, x);
        self.terms += 1;
        if self.terms == BLOCK {
            self.end();
        }
    }

    /// Adds the last block, which may have fewer terms.
    #[inline(always)]
    fn end(&mut self) {
        add_scaled(self.y, T::of(1.0), self.block);
        self.block.fill(T::default());
        self.terms = 0;
    }
}

/// HostKvRows and values a query may look at, and how they are packed.
#[derive(Clone, Copy)]
pub struct HostKvRows<'a, T> {
    /// (N, G·E), the batch's own.
    pub k: &'a [T],
    /// (N, G·E), the batch's own.
    pub v: &'a [T],
    /// (rows, G·E), of earlier tokens.
    pub past_k: &'a [T],
    /// (rows, G·E), of earlier tokens.
    pub past_v: &'a [T],
    /// The packed sequences.
    pub seqs: &'a [Seq],
    /// H, G, E and the scale.
    pub heads: Heads,
}

impl<'a, T: Float> HostKvRows<'a, T> {
    /// Key and value of head h for every j that query row i of `seq` sees, oldest first.
    #[inline(always)]
    fn seen(&self, seq: &Seq, i: usize, h: usize, mut see: impl FnMut(&'a [T], &'a [T])) {
        let Heads { queries, groups, width, window, .. } = self.heads;
        let row = groups * width;
        let at = h * groups / queries * width;
        let [shared, past, own] = seq.seen(i, window);
        let before = (self.past_k, self.past_v);
        let here = (self.k, self.v);
        for ((k, v), rows) in [(before, shared), (before, past), (here, own)] {
            for j in rows {
                see(&k[j * row + at..][..width], &v[j * row + at..][..width]);
            }
        }
    }

    /// The sequence of each row, and its row.
    fn rows(&self) -> Vec<&'a Seq> {
        self.seqs.iter().flat_map(|s| s.rows.clone().map(move |_| s)).collect()
    }

    fn scale(&self) -> T {
        T::of(self.heads.scale)
    }
}

/// o and lse from q, k, v.
pub fn forward<T: Float>(keys: HostKvRows<T>, q: &[T], o: &mut [T], lse: &mut [T]) {
    let Heads { queries, width, .. } = keys.heads;
    let rows = keys.rows();
    assert_eq!(rows.len() * queries, lse.len(), "attention: sequences do not fill the batch");
    let each = o.par_chunks_mut(queries * width).zip(lse.par_chunks_mut(queries)).enumerate();
    let room = || (Vec::new(), vec![T::default(); width]);
    each.for_each_init(room, |(p, block): &mut (Vec<T>, Vec<T>), (i, (o, lse))| {
        let q = &q[i * queries * width..][..queries * width];
        vectorised(|| {
            for h in 0..queries {
                let q = &q[h * width..][..width];
                let o = &mut o[h * width..][..width];
                p.clear();
                keys.seen(rows[i], i, h, |k, _| p.push(keys.heads.score(dot(q, k))));
                let top = p.iter().fold(p[0], |a, &b| a.max(b));
                p.iter_mut().for_each(|s| *s = (*s - top).exp());
                let total = sum(p, |&p| p);
                lse[h] = top + total.ln();
                let mut o = Rows::of(o, block);
                let mut p = p.iter();
                keys.seen(rows[i], i, h, |_, v| {
                    o.add(*p.next().expect("as many as above") / total, v);
                });
                o.end();
            }
        })
    });
}

/// dq, dk and dv from do.
pub fn backward<T: Float>(
    keys: HostKvRows<T>,
    q: &[T],
    lse: &[T],
    d_o: &[T],
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    let Heads { queries, groups, width, window, .. } = keys.heads;
    let (rows, scale) = (keys.rows(), keys.scale());
    let head = |i: usize, h: usize| (i * queries + h) * width..(i * queries + h + 1) * width;
    // Σ_j p_ij, which is 1 but for the rounding of a large lse, and Σ_j p_ij t_ij, which every key
    // needs again.
    let mut total = vec![T::default(); lse.len()];
    let mut mean = vec![T::default(); lse.len()];
    let each = total.par_chunks_mut(queries).zip(mean.par_chunks_mut(queries));
    let each = dq.par_chunks_mut(queries * width).zip(each).enumerate();
    let room = || (Vec::new(), vec![T::default(); width]);
    each.for_each_init(room, |(pt, block), (i, (dq, (total, mean)))| {
        vectorised(|| {
            for h in 0..queries {
                let [q, d_o] = [q, d_o].map(|x| &x[head(i, h)]);
                pt.clear();
                keys.seen(rows[i], i, h, |k, v| {
                    let s = keys.heads.score(dot(q, k));
                    pt.push(((s - lse[i * queries + h]).exp(), dot(d_o, v), keys.heads.slope(s)));
                });
                total[h] = sum(pt, |&(p, ..)| p);
                mean[h] = sum(pt, |&(p, t, _)| p * t) / total[h];
                let mut dq = Rows::of(&mut dq[h * width..][..width], block);
                let mut pt = pt.iter();
                keys.seen(rows[i], i, h, |k, _| {
                    let &(p, t, slope) = pt.next().expect("as many as above");
                    dq.add(scale * (p / total[h] * (t - mean[h])) * slope, k);
                });
                dq.end();
            }
        })
    });
    let each = dk.par_chunks_mut(groups * width).zip(dv.par_chunks_mut(groups * width));
    let room = || [(); 2].map(|()| vec![T::default(); width]);
    each.enumerate().for_each_init(room, |[block_k, block_v], (j, (dk, dv))| {
        vectorised(|| {
            for g in 0..groups {
                let at = g * width;
                let own = j * groups * width + at;
                let k = &keys.k[own..][..width];
                let v = &keys.v[own..][..width];
                let mut dk = Rows::of(&mut dk[at..][..width], block_k);
                let mut dv = Rows::of(&mut dv[at..][..width], block_v);
                let share = queries / groups;
                let queries_of = |i| (g * share..(g + 1) * share).map(move |h| (i, h));
                for (i, h) in rows[j].seen_by(j, window).flat_map(queries_of) {
                    let [q, d_o] = [q, d_o].map(|x| &x[head(i, h)]);
                    let at_query = i * queries + h;
                    let s = keys.heads.score(dot(q, k));
                    let p = (s - lse[at_query]).exp() / total[at_query];
                    let e = p * (dot(d_o, v) - mean[at_query]);
                    dk.add(scale * e * keys.heads.slope(s), q);
                    dv.add(p, d_o);
                }
                dk.end();
                dv.end();
            }
        })
    });
}
