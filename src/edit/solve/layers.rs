//! Many facts over a window of layers: each layer gives a part of what is missing.
//!
//! ```text
//! for layer i of the n layers, lowest first, with the model as changed so far:
//!     K (F, N) ← keys                      H (D, N) ← what the site holds at the bare prompts
//!     R = share(n − i)·(Z − H)/ρ           1/(n − i), so that the last layer closes the gap;
//!                                          the stream gets ρ of what W gives, mostly 1
//!     or, where all layers' values were searched, R of its own            window.rs
//!     Δ = the method's closed form of (K, R)
//!     W ← W + Δ
//! ```
//!
//! Source: Meng, Sharma, Andonian, Belinkov, Bau 2023, arXiv:2210.07229, algorithm 1.

use faer::Mat;

use super::delta::{pack, pack_keys, sum};
use super::device::with_solver;
use super::window::{Joining, column};
use crate::base::units::percent;
use crate::base::{Error, Progress, Result, Stage};
use crate::edit::keys::Reader;
use crate::edit::state::State;
use crate::linalg::least_squares::{Solution, Solver, smallest_s};
use crate::linalg::vector::norm;
use crate::model::change::dense;
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

    /// Whether C is of keys over the root of the norm behind them, as K and R then are too.
    ///
    /// # Errors
    ///
    /// Statistics that cannot be read.
    fn normed(&self, _layer: usize) -> Result<bool> {
        Ok(false)
    }

    /// Whether C times the right factor of a change of this layer spans the keys: where its system
    /// has C alone for a prior, without past keys.
    fn factors_span_keys(&self, layer: usize) -> bool;

    /// Takes notice of keys (F, N) that later changes should leave alone.
    ///
    /// # Errors
    ///
    /// Statistics that cannot be read or used.
    fn learn(&mut self, layer: usize, k: &Mat<f64>) -> Result<()>;

    /// Takes keys (F, n) that were learnt out again, and returns (M + Q)⁻¹K (F, n) without them.
    ///
    /// # Errors
    ///
    /// A method that learns no facts one by one; a system that cannot be solved.
    fn forget(&mut self, _layer: usize, _k: &Mat<f64>) -> Result<Mat<f64>> {
        Err(Error::refused("the method cannot take facts out of a state", "edit with memit"))
    }

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

impl MatrixChange {
    /// Several changes of a matrix as one, by a method without a closed form.
    pub fn sum(model: &Model, id: MatrixId, deltas: &[Delta]) -> MatrixChange {
        let w = &model.matrix(id).w;
        let delta = sum(deltas, w.dims());
        MatrixChange {
            id,
            norm: norm(&dense(&delta, w.dims())),
            weight: norm(&w.to_dense::<f64>()),
            delta,
            ridge: None,
            s: None,
            keys: None,
            keys_follow: false,
        }
    }
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
    /// What they are to give.
    pub target: Target<'a>,
    /// Whether every change gets its keys, since more are added to it.
    pub keep_keys: bool,
}

/// What the layers are to give.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// All together Z (D, N) at a site.
    Site(Site, &'a Mat<f64>),
    /// Z_ℓ (D, N) each, in the stream behind it.
    Streams(&'a [Mat<f64>]),
}

/// Columns of K and R over the root of the norm behind W, at the values y (D, N) it reads.
pub fn over_roots<const M: usize>(
    model: &Model,
    layer: usize,
    y: &Mat<f64>,
    all: [&mut Mat<f64>; M],
) {
    let joining = Joining::of(model, layer);
    let roots: Vec<f64> = y.col_iter().map(|y| joining.root(&column(y))).collect();
    for m in all {
        for (column, root) in m.col_iter_mut().zip(&roots) {
            column.iter_mut().for_each(|x| *x /= root);
        }
    }
}

impl Spread<'_> {
    /// K (F, N) and R (D, N) of the i-th layer.
    fn residuals(
        &self,
        i: usize,
        model: &Model,
        reader: &Reader,
        form: &dyn ClosedForm,
        progress: &dyn Progress,
    ) -> Result<(Mat<f64>, Mat<f64>)> {
        let layer = self.layers[i];
        match self.target {
            Target::Site(site, z) => {
                let (mut k, [h]) = reader.look(model, layer, [site], progress)?;
                let rho = if site.at == At::Stream { model.arch.scales.residual } else { 1.0 };
                let share = form.share(self.layers.len() - i);
                let mut r = (z - &h) * faer::Scale(share / rho);
                if form.normed(layer)? {
                    over_roots(model, layer, &h, [&mut k, &mut r]);
                }
                Ok((k, r))
            }
            Target::Streams(z) => {
                let sites = [At::VALUE, At::Stream].map(|at| Site { layer, at });
                let (mut k, [y, s]) = reader.look(model, layer, sites, progress)?;
                let joining = Joining::of(model, layer);
                let mut r = Mat::zeros(y.nrows(), y.ncols());
                for j in 0..y.ncols() {
                    let [z, s, y] = [&z[i], &s, &y].map(|m| column(m.col(j)));
                    let asked = joining.residual(&z, &s, &y);
                    r.col_mut(j).iter_mut().zip(asked).for_each(|(r, x)| *r = x);
                }
                if form.normed(layer)? {
                    over_roots(model, layer, &y, [&mut k, &mut r]);
                }
                Ok((k, r))
            }
        }
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
        let behind = Site { layer: self.layers[n - 1], at: At::Stream };
        let start = match self.target {
            Target::Site(..) => None,
            Target::Streams(_) => Some(reader.look(&model, behind.layer, [behind], progress)?.1),
        };
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
                    let (k, r) = self.residuals(i, &model, reader, form, progress)?;
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
        if let (Some([start]), Target::Streams(z)) = (start, self.target) {
            let (_, [end]) = reader.look(&model, behind.layer, [behind], progress)?;
            warn_of_missing(behind.layer, &z[n - 1], [&start, &end], progress);
        }
        progress.at(Stage::Layer, n as u64, n as u64);
        Ok((model, done))
    }
}

/// Missing parts of what a search moved a stream by that are worth a word.
const MUCH: f64 = 0.05;

/// Warns of what the last layer of a window leaves of a stream z (D, N) that was searched, of where
/// it began and where it is.
fn warn_of_missing(
    layer: usize,
    z: &Mat<f64>,
    [start, end]: [&Mat<f64>; 2],
    progress: &dyn Progress,
) {
    let gap = |m: &Mat<f64>, j: usize| (m.col(j) - z.col(j)).norm_l2();
    let part = |j: usize| gap(end, j) / gap(start, j).max(f64::MIN_POSITIVE);
    let most = (0..z.ncols()).map(part).fold(0.0, f64::max);
    if most > MUCH {
        progress.warn(&format!(
            "behind layer {layer}, the last of the window, up to {} of what the search moved the \
             stream by is missing",
            percent(most)
        ));
    }
}
