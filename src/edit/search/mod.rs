//! The search for v*, the vector that, as the value at one site, makes the model predict the new
//! object.
//!
//! ```text
//! v* = t₀ + δ,   ‖δ‖ ≤ clamp·‖t₀‖
//! δ  = argmin  mean_j −(1/T) Σ_t ln P[y_t | row j, push δ]      the new object
//!            + κ KL(P[· | row′, push δ] ‖ P[· | row′])          what the subject is
//!            + decay ‖δ‖/‖t₀‖²                                  how far δ goes
//! ```
//!
//! t₀ (D) is what the site holds at the bare prompt's subject. Adam from δ = 0; the search ends
//! when the loss is below 0.05 or the steps are used up (the last one does not move δ). Model,
//! loss and gradient run in the model's precision; δ and Adam in f64, on a device in f32, where a
//! step needs nothing from the host. Source: Meng et al. 2022, arXiv:2202.05262, eq. 4, and the
//! public code's stopping rule.
//!
//! Start reading at [`plain`]: the whole search of one fact, on a page. What the others do is the
//! same for many facts at once and fast: [`objective`] the loss and its gradient, [`packing`] where
//! rows lie, [`run`] facts that come and go, [`memory`] how many at a time, [`devices`] on which,
//! [`first_look`] whether a device computes what the host does.

pub mod devices;
mod entry;
pub mod first_look;
pub mod memory;
pub mod objective;
pub mod packing;
pub mod plain;
pub mod run;
pub mod settings;
pub mod value;

pub use devices::find_all;
pub use run::{Each, SearchFact, find};
pub use settings::{LOSS_TOLERANCE, Push, Search};
pub use value::{LossStep, TargetValue};
