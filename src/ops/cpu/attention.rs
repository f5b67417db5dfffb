//! Definition of [`crate::ops::attention`]. A task is a token: forward and dq go by queries, dk
//! and dv by keys, so every sum is made by one task in one order.

use rayon::prelude::*;

use super::lanes::{add_scaled, dot, vectorised};
use crate::base::Float;
use crate::ops::attention::{Heads, Seq};

/// Keys and values a query may look at, and how they are packed.
#[derive(Clone, Copy)]
pub struct Keys<'a, T> {
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

impl<'a, T: Float> Keys<'a, T> {
    /// Key and value of head h for every j that query row i of `seq` sees, oldest first.
    #[inline(always)]
    fn seen(&self, seq: &Seq, i: usize, h: usize, mut see: impl FnMut(&'a [T], &'a [T])) {
        let Heads { queries, groups, width, window, .. } = self.heads;
        let (row, at) = (groups * width, h * groups / queries * width);
        let [shared, past, own] = seq.seen(i, window);
        let (before, here) = ((self.past_k, self.past_v), (self.k, self.v));
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
pub fn forward<T: Float>(keys: Keys<T>, q: &[T], o: &mut [T], lse: &mut [T]) {
    let Heads { queries, width, .. } = keys.heads;
    let rows = keys.rows();
    assert_eq!(rows.len() * queries, lse.len(), "attention: sequences do not fill the batch");
    let each = o.par_chunks_mut(queries * width).zip(lse.par_chunks_mut(queries)).enumerate();
    each.for_each_init(Vec::new, |p: &mut Vec<T>, (i, (o, lse))| {
        let q = &q[i * queries * width..][..queries * width];
        vectorised(|| {
            for h in 0..queries {
                let (q, o) = (&q[h * width..][..width], &mut o[h * width..][..width]);
                p.clear();
                keys.seen(rows[i], i, h, |k, _| p.push(keys.scale() * dot(q, k)));
                let top = p.iter().fold(p[0], |a, &b| a.max(b));
                p.iter_mut().for_each(|s| *s = (*s - top).exp());
                let total: T = p.iter().copied().sum();
                lse[h] = top + total.ln();
                o.fill(T::default());
                let mut p = p.iter();
                keys.seen(rows[i], i, h, |_, v| {
                    add_scaled(o, *p.next().expect("as many as above") / total, v);
                });
            }
        })
    });
}

/// dq, dk and dv from do.
pub fn backward<T: Float>(
    keys: Keys<T>,
    q: &[T],
    lse: &[T],
    d_o: &[T],
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    let Heads { queries, groups, width, window, .. } = keys.heads;
    let rows = keys.rows();
    let head = |i: usize, h: usize| (i * queries + h) * width..(i * queries + h + 1) * width;
    // Σ_j p_ij, which is 1 but for the rounding of a large lse, and Σ_j p_ij t_ij, which every key
    // needs again.
    let (mut total, mut mean) = (vec![T::default(); lse.len()], vec![T::default(); lse.len()]);
    let each = total.par_chunks_mut(queries).zip(mean.par_chunks_mut(queries));
    let each = dq.par_chunks_mut(queries * width).zip(each).enumerate();
    each.for_each_init(Vec::new, |pt: &mut Vec<(T, T)>, (i, (dq, (total, mean)))| {
        vectorised(|| {
            for h in 0..queries {
                let (q, d_o) = (&q[head(i, h)], &d_o[head(i, h)]);
                let p = |k: &[T]| (keys.scale() * dot(q, k) - lse[i * queries + h]).exp();
                pt.clear();
                keys.seen(rows[i], i, h, |k, v| pt.push((p(k), dot(d_o, v))));
                total[h] = pt.iter().map(|&(p, _)| p).sum();
                mean[h] = pt.iter().map(|&(p, t)| p * t).sum::<T>() / total[h];
                let dq = &mut dq[h * width..][..width];
                dq.fill(T::default());
                let mut pt = pt.iter();
                keys.seen(rows[i], i, h, |k, _| {
                    let (p, t) = pt.next().expect("as many as above");
                    let e = *p / total[h] * (*t - mean[h]);
                    add_scaled(dq, keys.scale() * e, k);
                });
            }
        })
    });
    let each = dk.par_chunks_mut(groups * width).zip(dv.par_chunks_mut(groups * width));
    each.enumerate().for_each(|(j, (dk, dv))| {
        vectorised(|| {
            dk.fill(T::default());
            dv.fill(T::default());
            let queries_of = |i| (0..queries).map(move |h| (i, h));
            for (i, h) in rows[j].seen_by(j, window).flat_map(queries_of) {
                let at = h * groups / queries * width;
                let (k, v) = (
                    &keys.k[j * groups * width + at..][..width],
                    &keys.v[j * groups * width + at..][..width],
                );
                let (q, d_o) = (&q[head(i, h)], &d_o[head(i, h)]);
                let at_query = i * queries + h;
                let p = (keys.scale() * dot(q, k) - lse[at_query]).exp() / total[at_query];
                let e = p * (dot(d_o, v) - mean[at_query]);
                add_scaled(&mut dk[at..][..width], keys.scale() * e, q);
                add_scaled(&mut dv[at..][..width], p, d_o);
            }
        })
    });
}
