//! The next token from rows of logits z (R, V): the likeliest, the k likeliest, one by chance.
//!
//! ```text
//! order   larger z first, −0 below 0, among equals the lower id
//! w = exp((z − max z)/temperature)      S(i) = Σ of w in order down to token i
//! kept    the first top_k in order; of these, those down to the first with S ≥ top_p S of all
//! id      the first with S > uniform · S of all kept ones
//! ```
//!
//! Source of top_p: Holtzman et al. 2020, arXiv:1904.09751.

pub use super::cpu::sample::Sampling;
use super::{cpu, cuda};
use crate::base::{Float, or_unwind};
use crate::tensor::Tensor;

/// A token by logits (1, V) and a number in [0, 1); none where they are NaN, or infinite but −∞,
/// which is never chosen.
pub fn next(z: &Tensor, by: Sampling, uniform: f64) -> Option<u32> {
    let [_, v] = z.dims();
    let greedy = by.temperature == 0.0;
    match z.engine() {
        Some(e) if greedy => or_unwind(cuda::sample::likeliest(e, z.array())),
        Some(e) => or_unwind(cuda::sample::chosen(e, z.array(), by, uniform)),
        None => {
            let z = z.row_f64(0);
            if greedy {
                return likeliest(&z);
            }
            let mut id = [0];
            choose(&z, v, by, &[uniform], &mut id);
            possible(&z, id[0])
        }
    }
}

/// The likeliest token by logits on the host; none as in [`next`].
pub fn likeliest(z: &[f64]) -> Option<u32> {
    possible(z, cpu::sample::likeliest(z))
}

/// A token that was chosen by logits; none where they are no numbers.
fn possible(z: &[f64], id: u32) -> Option<u32> {
    let numbers = z.iter().all(|&z| z < f64::INFINITY) && z[id as usize].is_finite();
    numbers.then_some(id)
}

/// The k likeliest tokens of each row in order, into `ids` (R, k), and their logits.
pub fn top<T: Float>(z: &[T], v: usize, k: usize, values: &mut [T], ids: &mut [u32]) {
    assert!(1 <= k && k <= v, "top: {k} of {v} tokens");
    assert_eq!(z.len() * k, ids.len() * v, "top: ids are not (R, k)");
    assert_eq!(values.len(), ids.len(), "top: values are not (R, k)");
    cpu::sample::top(z, v, k, values, ids);
}

/// A token of each row by a number in [0, 1) of its own, into `ids` (R).
pub fn choose<T: Float>(z: &[T], v: usize, by: Sampling, uniform: &[T], ids: &mut [u32]) {
    assert!(by.temperature > 0.0, "choose: at temperature 0 it is the likeliest");
    assert_eq!(z.len(), ids.len() * v, "choose: z is not (R, V)");
    assert_eq!(uniform.len(), ids.len(), "choose: a number a row");
    cpu::sample::choose(z, v, by, uniform, ids);
}
