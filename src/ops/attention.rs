//! Causal attention over packed sequences, each with keys and values of earlier tokens.
//!
//! ```text
//! s_ij = scale ⟨q_i, k_j⟩     p_ij = exp(s_ij − lse_i)     lse_i = ln Σ_j exp s_ij
//! o_i  = Σ_j p_ij v_j         j over the past of i's sequence, then its own tokens up to i
//!
//! t_ij = ⟨do_i, v_j⟩          e_ij = p_ij (t_ij − Σ_j p_ij t_ij)
//! dq_i = scale Σ_j e_ij k_j   dk_j = scale Σ_i e_ij q_i      dv_j = Σ_i p_ij do_i
//! ```
//!
//! q, o (N, H·E); k, v (N, G·E); lse (N, H). Head h reads the keys of group h·G/H. The past is
//! frozen: no gradient is formed for it. Probabilities are recomputed in backward from lse.
//! Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.

use std::ops::Range;

use super::cpu;
use crate::tensor::{Tensor, on_float, shapes};

/// One sequence of a packed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seq {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// The rows of the cache that hold its earlier tokens.
    pub past: Range<usize>,
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
}

/// Earlier keys and values of one layer, (rows, G·E) each.
pub type Past<'a> = (&'a Tensor, &'a Tensor);

/// o and lse from q, k, v.
#[allow(clippy::too_many_arguments)] // the operands of the formula
pub fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Past,
    seqs: &[Seq],
    heads: Heads,
    o: &mut Tensor,
    lse: &mut Tensor,
) {
    let [n, _] = q.dims();
    let (qw, kw) = (heads.queries * heads.width, heads.groups * heads.width);
    shapes!("attention": q => [n, qw], k => [n, kw], v => [n, kw], o => [n, qw],
        lse => [n, heads.queries]);
    on_float!(q, T => cpu::attention::forward::<T>(
        cpu::attention::Keys {
            k: k.get(),
            v: v.get(),
            past_k: past.0.get(),
            past_v: past.1.get(),
            seqs,
            heads,
        },
        q.get(),
        o.get_mut(),
        lse.get_mut(),
    ));
}

/// The gradients of the loss for q, k and v.
#[derive(Clone, Debug)]
pub struct Grads {
    /// (N, H·E).
    pub dq: Tensor,
    /// (N, G·E).
    pub dk: Tensor,
    /// (N, G·E).
    pub dv: Tensor,
}

/// dq, dk and dv from do; everything else as in forward.
#[allow(clippy::too_many_arguments)] // the operands of the formula
pub fn backward(
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Past,
    seqs: &[Seq],
    heads: Heads,
    lse: &Tensor,
    grads: &mut Grads,
) {
    let [n, _] = q.dims();
    let (qw, kw) = (heads.queries * heads.width, heads.groups * heads.width);
    shapes!("attention backward": d_o => [n, qw], grads.dq => [n, qw], grads.dk => [n, kw],
        grads.dv => [n, kw], lse => [n, heads.queries]);
    on_float!(q, T => cpu::attention::backward::<T>(
        cpu::attention::Keys {
            k: k.get(),
            v: v.get(),
            past_k: past.0.get(),
            past_v: past.1.get(),
            seqs,
            heads,
        },
        q.get(),
        lse.get(),
        d_o.get(),
        grads.dq.get_mut(),
        grads.dk.get_mut(),
        grads.dv.get_mut(),
    ));
}
