//! Key second moments: C += Kᵀ K, products in the type of K, totals in f64.
//!
//! K (N, F). The totals are the lower triangle, packed by rows: element (i, j ≤ i) stands at
//! i (i + 1)/2 + j. At most 512 tokens are summed before they join the totals (on a device 16,384,
//! in sums of sums), so the rounding of an f32 sum never grows with the corpus. Cost: N·F² FLOP
//! (the triangle).

use std::borrow::Cow;

pub use super::cpu::gram::{TOKENS, packed_len};
use super::{cpu, cuda};
use crate::tensor::{Compute, Tensor, on};

/// total += Kᵀ K.
pub fn accumulate(k: &Tensor, total: &mut [f64]) {
    let [_, f] = k.dims();
    assert_eq!(total.len(), packed_len(f), "gram: the totals are not a triangle of F");
    on!(k,
        host T => cpu::gram::accumulate::<T>(k.get(), f, total),
        device _e => panic!("gram: keys on a device go into totals there"),
    );
}

/// The totals of one matrix, where the keys come from.
pub enum Totals {
    /// Packed.
    Host(Vec<f64>),
    /// Where f32 sums of many tokens wait to join them.
    Device(cuda::gram::DeviceTotals),
}

impl Totals {
    /// Goes on from packed totals of an F × F matrix.
    pub fn new(compute: &Compute, f: usize, packed: Vec<f64>) -> Totals {
        assert_eq!(packed.len(), packed_len(f), "gram: the totals are not a triangle of F");
        match compute {
            Compute::Host(_) => Totals::Host(packed),
            Compute::Device(engine, _) => {
                Totals::Device(cuda::gram::DeviceTotals::new(engine, f, &packed))
            }
        }
    }

    /// Adds Kᵀ K.
    pub fn add(&mut self, k: &Tensor) {
        match self {
            Totals::Host(packed) => accumulate(k, packed),
            Totals::Device(totals) => totals.add(k.array()),
        }
    }

    /// Whether no sum waits: to read the totals now does not change how later ones are rounded.
    pub fn settled(&self) -> bool {
        match self {
            Totals::Host(_) => true,
            Totals::Device(totals) => totals.settled(),
        }
    }

    /// Lets what waits join the totals. On a device it does so by itself only after many tokens.
    pub fn settle(&mut self) {
        if let Totals::Device(totals) = self {
            totals.settle();
        }
    }

    /// The totals, packed, with all that was added.
    pub fn packed(&mut self) -> Cow<'_, [f64]> {
        match self {
            Totals::Host(packed) => Cow::Borrowed(packed),
            Totals::Device(totals) => Cow::Owned(totals.packed()),
        }
    }
}
