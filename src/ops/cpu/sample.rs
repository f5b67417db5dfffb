//! Definition of [`crate::ops::sample`].

use std::cmp::Ordering;

use crate::base::Float;

/// How one of the tokens is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 samples from the model's own distribution.
    pub temperature: f64,
    /// Only the k likeliest tokens take part; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability take part; 1 for all.
    pub top_p: f64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
}

/// Which of two tokens comes first.
fn likelier<T: Float>(z: &[T], a: u32, b: u32) -> Ordering {
    let [za, zb] = [a, b].map(|id| z[id as usize].f64());
    zb.total_cmp(&za).then(a.cmp(&b))
}

/// The first in order.
pub fn likeliest<T: Float>(z: &[T]) -> u32 {
    let first = (0..z.len() as u32).min_by(|a, b| likelier(z, *a, *b));
    first.expect("a vocabulary has a token")
}

/// The first k in order.
fn first<T: Float>(z: &[T], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..z.len() as u32).collect();
    let by = |a: &u32, b: &u32| likelier(z, *a, *b);
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    order
}

/// The k likeliest tokens of each row.
pub fn top<T: Float>(z: &[T], v: usize, k: usize, values: &mut [T], ids: &mut [u32]) {
    let rows = z.chunks(v).zip(values.chunks_mut(k)).zip(ids.chunks_mut(k));
    rows.for_each(|((z, values), ids)| {
        ids.copy_from_slice(&first(z, k));
        values.iter_mut().zip(ids).for_each(|(value, id)| *value = z[*id as usize]);
    });
}

/// A token of each row by chance.
pub fn choose<T: Float>(z: &[T], v: usize, by: Sampling, uniform: &[T], ids: &mut [u32]) {
    for ((z, &uniform), id) in z.chunks(v).zip(uniform).zip(ids) {
        let mut order = first(z, if by.top_k > 0 { by.top_k.min(v) } else { v });
        let most = z[order[0] as usize];
        let weight = |&id: &u32| ((z[id as usize] - most) / T::of(by.temperature)).exp();
        let weights: Vec<T> = order.iter().map(weight).collect();
        let enough = T::of(by.top_p) * weights.iter().copied().sum();
        let mut reached = T::default();
        let kept = weights.iter().take_while(|&&w| {
            let taken = reached < enough;
            reached += w;
            taken
        });
        order.truncate(kept.count().max(1));
        let all: T = weights[..order.len()].iter().copied().sum();
        let mut left = uniform * all;
        let passed = weights.iter().position(|&w| {
            left -= w;
            left < T::default()
        });
        *id = order[passed.unwrap_or(order.len()).min(order.len() - 1)];
    }
}
