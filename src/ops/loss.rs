//! The value search's losses at chosen rows of logits z (R, V), and their gradient into z.
//!
//! ```text
//! p = softmax(z)
//! say    −ln p_y                               dz = p − e_y
//! stay   KL = Σ_v p_v (ln p_v − ln p⁰_v)       dz_v = p_v (ln p_v − ln p⁰_v − KL)
//! ```
//!
//! The direction is KL(now ‖ at first); ln p⁰ comes from the same code at δ = 0, so that the KL
//! is then exactly 0. Source: methods of Meng et al. 2022, arXiv:2202.05262, eq. 4.

use std::ops::Range;

use super::{cpu, cuda};
use crate::base::or_unwind;
use crate::tensor::{Compute, Tensor, on, shapes};

/// What a row of logits is asked for, and the factor of its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// Say token `target`.
    Say {
        /// The token.
        target: u32,
        /// Factor of the gradient.
        weight: f64,
    },
    /// Stay what row `first` of the first log-probabilities says.
    Stay {
        /// Row of ln p⁰.
        first: usize,
        /// Factor of the gradient.
        weight: f64,
    },
}

/// Row i of `logp` (rows.len(), V) = ln softmax of row `rows[i]` of z.
pub fn log_softmax(z: &Tensor, rows: &[usize], logp: &mut Tensor) {
    let [_, v] = z.dims();
    shapes!("log_softmax": logp => [rows.len(), v]);
    on!(z,
        host T => cpu::loss::log_softmax::<T>(z.get(), v, rows, logp.get_mut()),
        device e => {
            let rows = cuda::rows::indices(e, rows.iter().copied());
            cuda::loss::log_softmax(e, z.array(), &rows, v, logp.array_mut());
        },
    );
}

/// What a row says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Said {
    /// Its loss, without the weight.
    pub loss: f64,
    /// Whether no token is likelier than the target.
    pub top: bool,
}

/// What the R rows of a batch's logits are asked for, and what they said last. Each slot of the
/// batch has some of them, one after the other.
#[derive(Debug, Default)]
pub struct Aims {
    aims: Vec<Aim>,
    slots: Vec<Range<usize>>,
    weighed: Vec<Aim>, // on the host, as is what they said
    said: Vec<Said>,
    device: Option<cuda::loss::Aims>,
}

impl Aims {
    /// The rows of each slot, and the aim of each row.
    pub fn new(compute: &Compute, slots: Vec<Range<usize>>, aims: Vec<Aim>) -> Aims {
        let device = compute.engine().map(|e| or_unwind(cuda::loss::Aims::new(e, &slots, &aims)));
        Aims { weighed: aims.clone(), said: vec![Said::default(); aims.len()], aims, slots, device }
    }

    /// Multiplies the gradients of rows that say by their slot's factor (S, 1).
    pub fn weigh(&mut self, factor: &Tensor) {
        if let Some((device, engine)) = self.device.as_mut().zip(factor.engine()) {
            return cuda::adam::weigh(engine, device, factor.array());
        }
        for (rows, f) in self.slots.iter().zip(factor.to_f64()) {
            for (weighed, aim) in
                self.weighed[rows.clone()].iter_mut().zip(&self.aims[rows.clone()])
            {
                *weighed = match *aim {
                    Aim::Say { target, weight } => Aim::Say { target, weight: weight * f },
                    stay @ Aim::Stay { .. } => stay,
                };
            }
        }
    }

    /// A slot's rows: the aim of each, and what it said.
    pub fn of(&self, slot: usize) -> impl Iterator<Item = (Aim, Said)> {
        let rows = self.slots[slot].clone();
        self.aims[rows.clone()].iter().copied().zip(self.said[rows].iter().copied())
    }

    /// Makes the rows say what was found elsewhere.
    pub fn tell(&mut self, said: Vec<Said>) {
        assert_eq!(said.len(), self.aims.len(), "loss: a row that says nothing");
        if let Some(device) = &mut self.device {
            or_unwind(device.tell(&said));
        }
        self.said = said;
    }

    /// Brings what rows said to the host.
    pub fn read(&mut self) {
        if let Some(device) = &self.device {
            self.said = device.said();
        }
    }

    /// The same on the device.
    pub fn on_device(&self) -> &cuda::loss::Aims {
        self.device.as_ref().expect("aims of logits on a device are told there")
    }
}

/// Turns z, the logits of some of the rows, into weight·dz in place; the rows say their losses.
pub fn gradient(z: &mut Tensor, aims: &mut Aims, rows: Range<usize>, first: &Tensor) {
    let [r, v] = z.dims();
    assert!(r == rows.len() && rows.end <= aims.aims.len(), "loss: a row without an aim");
    on!(z.compute(),
        host T => {
            let weighed = &aims.weighed[rows.clone()];
            let said = cpu::loss::gradient::<T>(z.get_mut(), v, weighed, first.get());
            aims.said[rows].copy_from_slice(&said);
        },
        device e => {
            let aims = aims.device.as_mut().expect("aims of logits on a device are told there");
            cuda::loss::gradient(e, z.array_mut(), v, aims, rows, first.array());
        },
    )
}
