//! Many facts over a window of layers: each layer gives a part of what is missing.
//!
//! ```text
//! for layer i of the n layers, lowest first, with the model as changed so far:
//!     K (F, N) ← keys                      H (D, N) ← what the site holds at the bare prompts
//!     R = share(n − i)·(Z − H)             1/(n − i), so that the last layer closes the gap
//!     Δ = the method's closed form of (K, R)
//!     W ← W + Δ
//! ```
//!
//! Source: Meng, Sharma, Andonian, Belinkov, Bau 2023, arXiv:2210.07229, algorithm 1.

use faer::Mat;

use super::change::{pack, with_change};
use super::keys::Reader;
use super::means::with_solver;
use super::memit::Grams;
use crate::base::{Progress, Result};
use crate::linalg::least_squares::{Solution, Solver};
use crate::model::{Model, Site};
use crate::store::Delta;

/// Δ, and the ridge that C needed.
pub type Solved = Result<(Solution, Option<f64>)>;

/// How a method solves for the change of one layer.
pub trait ClosedForm {
    /// The part of what is missing that a layer gives, with `left` layers to go, itself included.
    fn share(&self, left: usize) -> f64 {
        1.0 / left as f64
    }

    /// Δ for keys K (F, N) and residuals R (D, N), by the means at hand.
    ///
    /// # Errors
    ///
    /// A system that cannot be solved.
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved;

    /// Takes notice of keys (F, N) that later changes should leave alone.
    fn learn(&mut self, layer: usize, k: &Mat<f64>);

    /// Gives away what was learnt.
    fn past(&mut self) -> Grams;
}

/// What was done to one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// l.
    pub layer: usize,
    /// Δ.
    pub delta: Delta,
    /// ‖Δ‖.
    pub norm: f64,
    /// ‖W‖ before it.
    pub weight: f64,
    /// What was added to the diagonal of C.
    pub ridge: Option<f64>,
}

/// Where finished layers are kept, by number in the window.
pub trait Keep {
    /// The change of a layer that was finished earlier, and its ridge.
    fn finished(&mut self, i: usize) -> Result<Option<(Delta, Option<f64>)>>;
    /// Keeps a layer.
    fn keep(&mut self, i: usize, kind: &Delta, ridge: Option<f64>) -> Result<()>;
}

/// Changes the layers, lowest first, so that `site` holds Z (D, N) at the bare prompts. Returns
/// the changed model.
///
/// # Errors
///
/// Keys that are not finite, a system that cannot be solved, a wish to stop, what `keep` says.
pub fn spread(
    mut model: Model,
    reader: &Reader,
    (layers, site): (&[usize], Site),
    z: &Mat<f64>,
    method: &dyn ClosedForm,
    keep: &mut dyn Keep,
    progress: &dyn Progress,
) -> Result<(Model, Vec<Layer>)> {
    let mut done = Vec::new();
    for (i, &layer) in layers.iter().enumerate() {
        progress.at("layer", i as u64, layers.len() as u64);
        let (kind, ridge) = match keep.finished(i)? {
            Some(kept) => kept,
            None => {
                let (k, h) = reader.look(&model, layer, site, progress)?;
                let r = (z - h) * faer::Scale(method.share(layers.len() - i));
                let solve = |solver: Solver| method.change(layer, &k, &r, solver);
                let (change, ridge) = with_solver(&model.compute, solve)?;
                let kind = pack(&change, &r);
                keep.keep(i, &kind, ridge)?;
                (kind, ridge)
            }
        };
        let (changed, [norm, weight]) = with_change(&model, layer, &kind);
        model = changed;
        done.push(Layer { layer, delta: kind, norm, weight, ridge });
    }
    progress.at("layer", layers.len() as u64, layers.len() as u64);
    Ok((model, done))
}
