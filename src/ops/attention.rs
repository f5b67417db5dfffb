//! Causal attention over packed sequences, each with keys and values of earlier tokens.
//!
//! ```text
//! s_ij = scale ⟨q_i, k_j⟩     p_ij = exp(s_ij − lse_i)     lse_i = ln Σ_j exp s_ij
//! o_i  = Σ_j p_ij v_j         j over the past of i's sequence, then its own tokens up to i;
//!                             of these the last `window`, itself included, where there is one
//!
//! t_ij = ⟨do_i, v_j⟩          e_ij = p_ij (t_ij − Σ_j p_ij t_ij)
//! dq_i = scale Σ_j e_ij k_j   dk_j = scale Σ_i e_ij q_i      dv_j = Σ_i p_ij do_i
//!
//! with a cap c:   s_ij = c tanh(scale ⟨q_i, k_j⟩ / c)        e_ij times 1 − (s_ij / c)²
//! ```
//!
//! q, o (N, H·E); k, v (N, G·E); lse (N, H). Head h reads the keys of group h·G/H. The past is
//! frozen: no gradient is formed for it. Probabilities are recomputed in backward from lse.
//! Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.

pub use super::cpu::attention::{Heads, Seq};
pub use super::cuda::attention::Packing;
use super::{cpu, cuda};
use crate::base::{Float, or_unwind};
use crate::gpu::launch::Elem;
use crate::tensor::{Tensor, on, shapes};

/// The keys and values that a batch's queries look at.
#[derive(Clone, Copy)]
pub struct KvRows<'a> {
    /// k (N, G·E), the batch's own.
    pub k: &'a Tensor,
    /// v (N, G·E), the batch's own.
    pub v: &'a Tensor,
    /// k and v of earlier tokens, (rows, G·E) each.
    pub past: (&'a Tensor, &'a Tensor),
    /// How the batch is packed.
    pub seqs: &'a [Seq],
    /// The same on the device, where the tensors are on one.
    pub packing: Option<&'a Packing>,
    /// H, G, E and the scale.
    pub heads: Heads,
}

impl<'a> KvRows<'a> {
    /// The definition's form.
    fn get<T: Float>(&self) -> cpu::attention::HostKvRows<'a, T> {
        cpu::attention::HostKvRows {
            k: self.k.get(),
            v: self.v.get(),
            past_k: self.past.0.get(),
            past_v: self.past.1.get(),
            seqs: self.seqs,
            heads: self.heads,
        }
    }

    /// The launch's form.
    fn on_device(&self) -> cuda::attention::DeviceKvRows<'a> {
        cuda::attention::DeviceKvRows {
            k: self.k.array(),
            v: self.v.array(),
            past: (self.past.0.array(), self.past.1.array()),
            packing: self.packing.expect("a batch on a device is packed there"),
            heads: self.heads,
        }
    }

    /// Asserts the shapes of q, k and v; returns them.
    fn check(&self, q: &Tensor) -> [[usize; 2]; 2] {
        let [n, _] = q.dims();
        let Heads { queries, groups, width, .. } = self.heads;
        let qw = queries * width;
        let kw = groups * width;
        shapes!("attention": q => [n, qw], self.k => [n, kw], self.v => [n, kw]);
        [[n, qw], [n, kw]]
    }
}

/// o (N, H·E) and lse (N, H) from q, k, v.
pub fn forward(q: &Tensor, keys: KvRows, o: &mut Tensor, lse: &mut Tensor) {
    let [[n, qw], _] = keys.check(q);
    shapes!("attention": o => [n, qw], lse => [n, keys.heads.queries]);
    on!(q,
        host T => cpu::attention::forward::<T>(keys.get(), q.get(), o.get_mut(), lse.get_mut()),
        device e => {
            let keys = keys.on_device();
            let mut parts = or_unwind(e.array(Elem::F32, keys.packing.parts(keys.heads)));
            let o = o.array_mut();
            let lse = lse.array_mut();
            let parts = &mut parts;
            let to = cuda::attention::AttentionOutputs { o, lse, parts };
            cuda::attention::forward(e, q.array(), keys, to);
        },
    );
}

/// The gradients of the loss for q, k and v.
#[derive(Clone, Debug)]
pub struct AttentionGrads {
    /// (N, H·E).
    pub dq: Tensor,
    /// (N, G·E).
    pub dk: Tensor,
    /// (N, G·E).
    pub dv: Tensor,
    /// Σ_j p_ij (N, H), 1 but for rounding, for a device's own use.
    pub total: Tensor,
    /// Σ_j p_ij t_ij (N, H), for a device's own use.
    pub mean: Tensor,
}

/// dq, dk and dv from do (N, H·E); the rest as in forward.
pub fn backward(d_o: &Tensor, q: &Tensor, keys: KvRows, lse: &Tensor, grads: &mut AttentionGrads) {
    let [[n, qw], [_, kw]] = keys.check(q);
    shapes!("attention backward": d_o => [n, qw], grads.dq => [n, qw], grads.dk => [n, kw],
        grads.dv => [n, kw], lse => [n, keys.heads.queries]);
    on!(q,
        host T => cpu::attention::backward::<T>(
            keys.get(),
            q.get(),
            lse.get(),
            d_o.get(),
            grads.dq.get_mut(),
            grads.dk.get_mut(),
            grads.dv.get_mut(),
        ),
        device e => {
            let grads = cuda::attention::DeviceAttentionGrads {
                dq: grads.dq.array_mut(),
                dk: grads.dk.array_mut(),
                dv: grads.dv.array_mut(),
                total: grads.total.array_mut(),
                mean: grads.mean.array_mut(),
            };
            let d_o = d_o.array();
            let q = q.array();
            let lse = lse.array();
            cuda::attention::backward(e, d_o, q, keys.on_device(), lse, grads);
        },
    );
}
