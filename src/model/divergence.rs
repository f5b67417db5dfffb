//! How far one model's next token is from another's.
//!
//! ```text
//! KL(p ‖ q) = Σ_v p_v (ln p_v − ln q_v)        p, q the softmax of each model's logits, in f64
//! ```

use rayon::prelude::*;

use super::batch::Batch;
use super::cache::Past;
use super::language_model::{LanguageModel, logits};
use super::score::{ROWS, filled, log_sum_exp};
use super::site::NoHook;
use crate::base::Result;
use crate::ops::sample::likeliest;

/// At one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// KL(p ‖ q) in nats.
    pub kl: f64,
    /// The likeliest token of p and of q; `None` where logits are not finite.
    pub says: [Option<u32>; 2],
    /// ln p and ln q of the token that does follow, where it is known.
    pub log_p: Option<[f64; 2]>,
}

/// At chosen rows of a batch, each with the token that follows it, if it is known. The logits of p
/// are all there at once: (rows, V) on the host.
///
/// # Errors
///
/// A device that is out of memory.
pub fn divergence(
    p: &dyn LanguageModel,
    q: &dyn LanguageModel,
    batch: &Batch,
    chosen: &[(usize, Option<u32>)],
) -> Result<Vec<Divergence>> {
    let rows = filled(chosen.iter().map(|&(row, _)| row).collect());
    let p = logits(p, batch, Past::None, &rows)?;
    let mut found = Vec::with_capacity(rows.len());
    q.run_in_chunks(batch, &mut Past::None, (&rows, ROWS), &mut NoHook, &mut |z| {
        let z = q.compute().run(|| Ok(z.into_host()))?;
        let first = found.len();
        let at = |row| between(&p.row_f64(first + row), &z.row_f64(row), chosen[first + row].1);
        let rows = z.shape()[0].min(chosen.len() - first);
        found.par_extend((0..rows).into_par_iter().map(at));
        Ok(true)
    })?;
    Ok(found)
}

/// Of two rows of logits.
fn between(p: &[f64], q: &[f64], next: Option<u32>) -> Divergence {
    let [log_p, log_q] = [p, q].map(log_sum_exp);
    let term = |(p, q): (&f64, &f64)| {
        let ln_p = p - log_p;
        ln_p.exp() * (ln_p - (q - log_q))
    };
    let of = |id: u32| [p[id as usize] - log_p, q[id as usize] - log_q];
    let kl = p.iter().zip(q).map(term).sum();
    Divergence { kl, says: [p, q].map(likeliest), log_p: next.map(of) }
}
