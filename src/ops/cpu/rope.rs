//! Definition of [`crate::ops::rope`].

use rayon::prelude::*;

use crate::base::Float;

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// i and i + R/2 (Llama, GPT-NeoX).
    Halves,
    /// 2i and 2i + 1 (GPT-J).
    Adjacent,
}

/// Rotates every head of every row in place.
pub fn rotate<T: Float>(
    x: &mut [T],
    heads: usize,
    cos: &[T],
    sin: &[T],
    half: usize,
    pairing: Pairing,
    back: bool,
) {
    if half == 0 || cos.is_empty() {
        return;
    }
    let width = x.len() / (cos.len() / half);
    let rows = x.par_chunks_mut(width).zip(cos.par_chunks(half)).zip(sin.par_chunks(half));
    rows.for_each(|((x, cos), sin)| {
        for head in x.chunks_exact_mut(width / heads) {
            for i in 0..half {
                let (i_a, i_b) = match pairing {
                    Pairing::Halves => (i, i + half),
                    Pairing::Adjacent => (2 * i, 2 * i + 1),
                };
                let sin = if back { -sin[i] } else { sin[i] };
                let a = head[i_a];
                let b = head[i_b];
                head[i_a] = a * cos[i] - b * sin;
                head[i_b] = b * cos[i] + a * sin;
            }
        }
    });
}
