//! One step of the value search for a batch of facts, each in a slot of its own, fused: the loss
//! from the results of the fact's rows, the rule that ends the search, else Adam and the clamp.
//!
//! ```text
//! loss   f Σ w loss (cross-entropies) + Σ w loss (KLs) + decay Σ_p ‖δ_p‖/‖t_p‖²
//! g_p   += decay δ_p/(‖δ_p‖ ‖t_p‖²)                                  t = t₀, p one of P parts
//! δ      ← Adam(δ, g)  (ops/adam.rs),                                then ‖δ_p‖ ≤ clamp ‖t_p‖
//! ```
//!
//! t, δ, g and Adam's m, v (S, P·D); S slots. f is annealed as by Li et al. 2024,
//! arXiv:2308.08742. Source of the rest: Meng et al. 2022, arXiv:2202.05262, eq. 4.

pub use super::cpu::search_step::{ANNEALED_NLL, KL_TOLERANCE, SearchRule, SearchStatus, StopRule};
use super::loss::LossRows;
use super::rows::{self, Index};
use super::{cpu, cuda};
use crate::base::or_unwind;
use crate::gpu::Array;
use crate::tensor::{Compute, Tensor, on, shapes};

/// The slots of a batch.
pub struct SearchSlots {
    /// t₀ (S, P·D).
    pub t0: Tensor,
    /// δ (S, P·D).
    pub delta: Tensor,
    /// First moments (S, P·D).
    pub m: Tensor,
    /// Second moments (S, P·D).
    pub v: Tensor,
    /// f of the next step (S, 1).
    pub factor: Tensor,
    /// The losses of each step (S, steps·4): NLL times f, KL, decay, target tokens that are not
    /// the likeliest.
    pub trace: Tensor,
    /// What each is doing and the steps it took: as of the last [`SearchSlots::read`].
    pub status: Vec<(SearchStatus, usize)>,
    on_device: Option<Array>, // (S, 2) i32, where it is known first
}

impl SearchSlots {
    /// No slot yet; δ is `width`, P·D, and a search takes at most `max_steps`.
    pub fn new(compute: &Compute, width: usize, max_steps: usize) -> SearchSlots {
        let empty = |width| Tensor::zeros(compute, &[0, width]);
        SearchSlots {
            t0: empty(width),
            delta: empty(width),
            m: empty(width),
            v: empty(width),
            factor: empty(1),
            trace: empty(4 * max_steps),
            status: Vec::new(),
            on_device: None,
        }
    }

    /// Begins searches for t₀ (n, P·D), behind those that are there.
    pub fn begin(&mut self, rule: &SearchRule, t0: &Tensor) {
        let compute = self.t0.compute();
        let n = t0.shape()[0];
        self.t0.push_rows(&t0.on(&compute));
        self.factor.push_rows(&Tensor::of(&compute, &[n, 1], &vec![rule.nll_factor; n]));
        self.status.resize(self.status.len() + n, (SearchStatus::Active, 0));
        for x in [&mut self.delta, &mut self.m, &mut self.v, &mut self.trace] {
            x.set_rows(self.status.len());
        }
        self.upload_status();
    }

    /// Drops all slots but these.
    pub fn keep(&mut self, slots: &[usize]) {
        let rows = Index::new(&self.t0.compute(), slots);
        let SearchSlots { t0, delta, m, v, factor, trace, .. } = self;
        for x in [t0, delta, m, v, factor, trace] {
            let mut kept = Tensor::zeros(x.compute(), &[slots.len(), x.shape()[1]]);
            rows::gather(x, &rows, &mut kept);
            *x = kept;
        }
        self.status = slots.iter().map(|&slot| self.status[slot]).collect();
        self.upload_status();
    }

    /// What each is doing, and the steps it took.
    pub fn read(&mut self) -> &[(SearchStatus, usize)] {
        if let Some(device) = &self.on_device {
            self.status = cuda::search_step::download_status(device);
        }
        &self.status
    }

    fn upload_status(&mut self) {
        if let Some(engine) = self.t0.engine() {
            self.on_device =
                Some(or_unwind(cuda::search_step::upload_status(engine, &self.status)));
        }
    }
}

/// The loss of every active slot, and one step of its δ where the search goes on. g (S, P·D) is
/// the gradient of the rows' losses, in parts of D; `losses` has a group of rows a slot. Other
/// slots stay as they are.
pub fn step(rule: &SearchRule, d: usize, losses: &LossRows, g: &Tensor, slots: &mut SearchSlots) {
    let [s, width] = slots.delta.dims();
    assert!(width.is_multiple_of(d), "search step: δ holds no whole parts of {d}");
    let trace = 4 * rule.stop.max_steps;
    shapes!("search step": g => [s, width], slots.factor => [s, 1], slots.trace => [s, trace]);
    let g = g.on(&slots.delta.compute());
    on!(g,
        host T => {
            let slots = cpu::search_step::HostSearchSlots::<T> {
                t0: slots.t0.get(),
                delta: slots.delta.get_mut(),
                m: slots.m.get_mut(),
                v: slots.v.get_mut(),
                factor: slots.factor.get_mut(),
                trace: slots.trace.get_mut(),
                status: &mut slots.status,
            };
            cpu::search_step::step(rule, d, losses, g.get(), slots)
        },
        device e => {
            let status = slots.on_device.as_mut();
            let slots = cuda::search_step::DeviceSearchSlots {
                t0: slots.t0.array(),
                delta: slots.delta.array_mut(),
                m: slots.m.array_mut(),
                v: slots.v.array_mut(),
                factor: slots.factor.array_mut(),
                trace: slots.trace.array_mut(),
                status: status.expect("slots on a device have their status there"),
            };
            cuda::search_step::step(e, rule, d, losses.on_device(), g.array(), slots)
        },
    );
}
