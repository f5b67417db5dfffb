//! Activations inside the MLP, plain and gated.
//!
//! ```text
//! plain  key = a(up)              dup = dkey a'(up)
//! gated  key = a(gate) ∘ up       dup = dkey a(gate)     dgate = dkey up a'(gate)
//!
//! gelu(x) = x Φ(x)     silu(x) = x σ(x) = x/(1 + e⁻ˣ)
//! gelu_tanh(x) = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
//! ```
//!
//! All (N, F). Source: Hendrycks, Gimpel 2016, arXiv:1606.08415; Shazeer 2020, arXiv:2002.05202.

pub use super::cpu::act::Act;
use super::{cpu, cuda};
use crate::tensor::{Tensor, on};

/// key = a(up), or a(gate) ∘ up where there is a gate.
pub fn forward(act: Act, up: &Tensor, gate: Option<&Tensor>, key: &mut Tensor) {
    assert_eq!(up.shape(), key.shape(), "act: key has another shape than up");
    on!(up,
        host T => cpu::act::forward::<T>(act, up.get(), gate.map(|g| g.get()), key.get_mut()),
        device e => {
            cuda::act::forward(e, act, up.array(), gate.map(Tensor::array), key.array_mut());
        },
    );
}

/// Turns dkey into dup in place; fills dgate where there is a gate.
pub fn backward(
    act: Act,
    up: &Tensor,
    gate: Option<(&Tensor, &mut Tensor)>,
    dkey_to_dup: &mut Tensor,
) {
    assert_eq!(up.shape(), dkey_to_dup.shape(), "act backward: dkey has another shape than up");
    on!(up,
        host T => {
            let gate = gate.map(|(g, dg)| (g.get::<T>(), dg.get_mut::<T>()));
            cpu::act::backward::<T>(act, up.get(), gate, dkey_to_dup.get_mut());
        },
        device e => {
            let gate = gate.map(|(g, dg)| (g.array(), dg.array_mut()));
            cuda::act::backward(e, act, up.array(), gate, dkey_to_dup.array_mut());
        },
    );
}
