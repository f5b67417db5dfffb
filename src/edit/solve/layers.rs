//! Many facts over a window of layers: each layer gives a part of what is missing.
//!
//! ```text
//! for layer i of the n layers, lowest first, with the model as changed so far:
//!     K (F, N) ← keys                      H (D, N) ← what the site holds at the bare prompts
//!     R = share(n − i)·(Z − H)/ρ           1/(n − i), so that the last layer closes the gap;
//!                                          the stream gets ρ of what W gives, mostly 1
//!     Δ = the method's closed form of (K, R)
//!     W ← W + Δ
//! ```
//!
//! Source: Meng, Sharma, Andonian, Belinkov, Bau 2023, arXiv:2210.07229, algorithm 1.

use faer::Mat;

use super::delta::{pack, pack_keys};
use super::device::with_solver;
use crate::base::{Progress, Result, Stage};
use crate::edit::keys::Reader;
use crate::edit::state::State;
use crate::linalg::least_squares::{Solution, Solver, smallest_s};
use crate::model::{At, MatrixId, Model, Site};
use crate::store::{Delta, FactKeys, Fingerprint};

/// Δ, and the ridge that C needed.
pub type Solved = Result<(Solution, Option<f64>)>;

/// How a method solves for the change of one layer.
pub trait ClosedForm {
    /// The part of what is missing that a layer gives, with `left` layers to go, itself included.
    fn share(&self, left: usize) -> f64 {
        1.0 / left as f64
    }

    /// Δ for keys K (F, N) and residuals R (D, N).
    ///
    /// # Errors
    ///
    /// A system that cannot be solved.
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved;

    /// Whether C times the right factor of a change of this layer spans the keys: where its system
    /// has C alone for a prior, without past keys.
    fn factors_span_keys(&self, layer: usize) -> bool;

    /// Takes notice of keys (F, N) that later changes should leave alone.
    fn learn(&mut self, layer: usize, k: &Mat<f64>);

    /// Puts what was learnt into a state.
    fn give_back(&mut self, state: &mut State);

    /// Adds its own parameters to a name for what is computed with it.
    fn digest(&self, into: &mut Fingerprint);

    /// Adds what it reads of a layer beyond keys and state: C, or what was made of it.
    ///
    /// # Errors
    ///
    /// Statistics that cannot be read.
    fn digest_layer(&self, layer: usize, into: &mut Fingerprint) -> Result<()>;
}

/// What was done to one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixChange {
    /// Which.
    pub id: MatrixId,
    /// Δ.
    pub delta: Delta,
    /// ‖Δ‖.
    pub norm: f64,
    /// ‖W‖ before it.
    pub weight: f64,
    /// What was added to the diagonal of C.
    pub ridge: Option<f64>,
    /// s: the layer misses at most 1/(1 + s) of what it is to give of a value
    /// ([`smallest_s`](crate::linalg::least_squares::smallest_s)). None where it is not known: of
    /// more facts than the model is wide, and of methods that solve no such system.
    pub s: Option<f64>,
    /// What the matrix reads at the facts, of a closed form whose factors do not say it.
    pub keys: Option<FactKeys>,
    /// Whether the factors say it ([`keys_follow`](crate::store::Change::keys_follow)).
    pub keys_follow: bool,
}

/// The change of a layer, and what its system says.
#[derive(Clone, Debug, PartialEq)]
pub struct SolvedLayer {
    /// Δ.
    pub delta: Delta,
    /// What was added to the diagonal of C.
    pub ridge: Option<f64>,
    /// As in [`MatrixChange`].
    pub s: Option<f64>,
    /// As in [`MatrixChange`].
    pub keys: Option<FactKeys>,
}

/// Where finished layers are looked up and stored, by number in the window.
pub trait LayerCache {
    /// A layer that was finished earlier.
    ///
    /// # Errors
    ///
    /// Statistics that cannot be read.
    fn lookup(&mut self, i: usize) -> Result<Option<SolvedLayer>>;

    /// Stores a layer.
    ///
    /// # Errors
    ///
    /// As [`lookup`](LayerCache::lookup); a folder that cannot be written.
    fn store(&mut self, i: usize, layer: &SolvedLayer) -> Result<()>;
}

/// Which layers change, and where their values are.
#[derive(Clone, Copy)]
pub struct Spread<'a> {
    /// The layers, ascending.
    pub layers: &'a [usize],
    /// Where Z and H are read.
    pub site: Site,
    /// Z (D, N).
    pub z: &'a Mat<f64>,
    /// Whether every change gets its keys, since more are added to it.
    pub keep_keys: bool,
}

impl Spread<'_> {
    /// ρ.
    fn rho(&self, model: &Model) -> f64 {
        if self.site.at == At::Stream { model.arch.scales.residual } else { 1.0 }
    }

    /// Changes the layers, lowest first, so that the site holds Z at the bare prompts. Returns the
    /// changed model.
    ///
    /// # Errors
    ///
    /// Keys that are not finite, a system that cannot be solved, cancellation, what the cache says.
    pub fn run(
        self,
        mut model: Model,
        reader: &Reader,
        form: &dyn ClosedForm,
        cache: &mut dyn LayerCache,
        progress: &dyn Progress,
    ) -> Result<(Model, Vec<MatrixChange>)> {
        let n = self.layers.len();
        let mut done = Vec::new();
        for (i, &layer) in self.layers.iter().enumerate() {
            progress.at(Stage::Layer, i as u64, n as u64);
            let follow = |delta: &Delta, ridge: Option<f64>| {
                let thin = matches!(delta, Delta::LowRank { .. });
                thin && ridge.is_none() && !self.keep_keys && form.factors_span_keys(layer)
            };
            // An earlier version stored no keys.
            let whole = |l: &SolvedLayer| l.keys.is_some() || follow(&l.delta, l.ridge);
            let SolvedLayer { delta, ridge, s, keys } = match cache.lookup(i)?.filter(whole) {
                Some(found) => found,
                None => {
                    let (k, h) = reader.look(&model, layer, self.site, progress)?;
                    let r = (self.z - h) * faer::Scale(form.share(n - i) / self.rho(&model));
                    let solve = |solver: Solver| form.change(layer, &k, &r, solver);
                    let (change, ridge) = with_solver(&model.compute, solve)?;
                    let s = match &change {
                        Solution::Right(x) => smallest_s(&k, x),
                        Solution::Whole(_) => None,
                    };
                    let delta = pack(&change, &r);
                    let keys = (!follow(&delta, ridge)).then(|| pack_keys(&k));
                    let solved = SolvedLayer { delta, ridge, s, keys };
                    cache.store(i, &solved)?;
                    solved
                }
            };
            let id = MatrixId::down(layer);
            let (changed, norms) = model.with(&[(id, &delta)]);
            let [norm, weight] = norms[0];
            model = changed;
            let keys_follow = keys.is_none();
            done.push(MatrixChange { id, delta, norm, weight, ridge, s, keys, keys_follow });
        }
        progress.at(Stage::Layer, n as u64, n as u64);
        Ok((model, done))
    }
}
