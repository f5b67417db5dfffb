//! Activations: `kernels/act.cu`.
//!
//! x is in sixteenths from −12 to 12, dkey and up are whole. In roundings u of what they are
//! beside, with an expf off by 4 u (2 units of the last place) and an erfcf off by 8 u (4 units):
//!
//! ```text
//! σ(z) = 1/(1 + e⁻ᶻ)             6, and |δz| for an argument off by δz
//! gelu_tanh: z = √(8/π)(x + 0.044715 x³)     δz ≤ 6 u |z|: two constants and four operations
//! P(x) = erfc(−x/√2)/2           δ of the argument 2.1 u |x|/√2; erfc'/erfc ≤ 2 (1 + |z|) there:
//!                                8 + 2.1 (x² + 2) + 1
//! φ(x) = e^(−x²/2)/√(2π)         4 + x²/2 + 3
//! a' = σ + x σ (1 − σ) z', P + x φ: the sum of both, three operations more
//! ```

use super::numbers::{U, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::act::{self as definition, Act};
use crate::ops::cuda::act;

const N: usize = 1003;

/// All of the file.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    [Act::Relu, Act::Gelu, Act::GeluTanh, Act::Silu].into_iter().try_for_each(|act| {
        plain(engine, elem, act)?;
        gated(engine, elem, act)
    })
}

/// x in sixteenths.
fn sixteenths() -> Vec<f64> {
    whole(1, N, 192).iter().map(|x| x / 16.0).collect()
}

/// How far a(x) and a'(x) may be off.
fn bounds(act: Act, x: f64) -> [f64; 2] {
    // The factor of x in a(x), how far that is off in u, and what is added to it in a'(x).
    let gate = |z: f64, dz: f64| {
        let s = 1.0 / (1.0 + (-z).exp());
        let off = 6.0 + 6.0 * z.abs();
        (s, off, x * s * (1.0 - s) * dz, 2.0 * off + 12.0)
    };
    let root = (8.0 / std::f64::consts::PI).sqrt();
    let (factor, off, more, more_off) = match act {
        Act::Relu => return [0.0; 2],
        Act::Silu => gate(x, 1.0),
        Act::GeluTanh => gate(root * (x + 0.044715 * x.powi(3)), root * (1.0 + 0.134145 * x * x)),
        Act::Gelu => {
            let below = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            (below, 13.2 + 2.1 * x * x, x * density, 7.0 + 0.5 * x * x)
        }
    };
    let value = U * (off + 2.0) * (x * factor).abs();
    let slope = U * ((off + 2.0) * factor + (more_off + 3.0) * more.abs());
    // Where e⁻ᶻ is infinite, σ is 0 and not some 2⁻¹²⁸.
    [value, slope].map(|bound| bound + f64::powi(2.0, -118))
}

fn plain(engine: &Engine, elem: Elem, of: Act) -> Verdict {
    let mut trial = Trial::new(engine, format!("{of:?}, n {N}"));
    let [x, dkey] = [sixteenths(), whole(2, N, 5)];
    let [mut want_key, mut want_dup] = [vec![0.0; N], dkey.clone()];
    definition::forward(of, &x, None, &mut want_key);
    definition::backward(of, &x, None, &mut want_dup);
    let up = trial.input("up", elem, &x);
    let mut key = trial.output("key", elem, N);
    let mut dup = trial.inout("dkey", elem, &dkey);
    trial.run("act_fwd, act_bwd", || {
        act::forward(engine, of, &up, None, &mut key);
        act::backward(engine, of, &up, None, &mut dup);
    })?;
    trial.within("act_fwd", &key, &[N], &want_key, |i| bounds(of, x[i])[0])?;
    // A product more.
    let bound = |i: usize| dkey[i].abs() * bounds(of, x[i])[1] + U * want_dup[i].abs();
    trial.within("act_bwd", &dup, &[N], &want_dup, bound)
}

fn gated(engine: &Engine, elem: Elem, of: Act) -> Verdict {
    let mut trial = Trial::new(engine, format!("{of:?}, n {N}"));
    let [x, up, dkey] = [sixteenths(), whole(3, N, 5), whole(2, N, 5)];
    let [mut want_key, mut want_dup, mut want_dgate] = [vec![0.0; N], dkey.clone(), vec![0.0; N]];
    definition::forward(of, &up, Some(&x), &mut want_key);
    definition::backward(of, &up, Some((&x, &mut want_dgate)), &mut want_dup);
    let gate = trial.input("gate", elem, &x);
    let ups = trial.input("up", elem, &up);
    let mut key = trial.output("key", elem, N);
    let mut dup = trial.inout("dkey", elem, &dkey);
    let mut dgate = trial.output("dgate", elem, N);
    trial.run("gated_fwd, gated_bwd", || {
        act::forward(engine, of, &ups, Some(&gate), &mut key);
        act::backward(engine, of, &ups, Some((&gate, &mut dgate)), &mut dup);
    })?;
    // One or two products more.
    let bound = |factor: f64, which: usize, want: f64, i: usize| {
        factor.abs() * bounds(of, x[i])[which] + 2.0 * U * want.abs()
    };
    trial.within("gated_fwd", &key, &[N], &want_key, |i| bound(up[i], 0, want_key[i], i))?;
    trial.within("gated_bwd", &dup, &[N], &want_dup, |i| bound(dkey[i], 0, want_dup[i], i))?;
    let dgate_bound = |i: usize| bound(dkey[i] * up[i], 1, want_dgate[i], i);
    trial.within("gated_bwd", &dgate, &[N], &want_dgate, dgate_bound)
}
