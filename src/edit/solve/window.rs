//! Values of all layers of a window, searched at once, and what each layer is asked for them.
//!
//! ```text
//! search   y_ℓ + δ_ℓ in the place of y_ℓ, the down projection's output, at every layer ℓ of the
//!          window in one pass; where a norm N reads it, as long as y_ℓ was
//! Z_ℓ      the stream behind layer ℓ then, at the bare prompt
//!
//! lowest layer first, on the model as changed so far, with y_ℓ and the stream S_ℓ as they are now:
//!     t = (Z_ℓ − S_ℓ)/ρ + N(y_ℓ)       what the layer is to give: what those below owe is in it
//!     R = r nearest(t) − y_ℓ           the y as long as before whose norm is next to t,
//!                                      r = √(‖y‖²/D + ε);   without a norm R = t − y_ℓ
//! ```
//!
//! N(y) = g⊙y/r, and only y's direction counts: what it can give is an ellipsoid, and asking W for
//! R by the norm's derivative fails where gains are small. Solved exactly, with one context and
//! independent keys, the edited stream is the one searched: below ℓ nothing differs, so R = δ_ℓ.
//! In a model without such norms this is MEMIT whose search divides what is missing among the
//! layers, in the place of 1/(n − i).

use faer::{ColRef, Mat};

use crate::base::{Error, Progress, Result};
use crate::edit::keys::Reader;
use crate::edit::search::value::keeping_length;
use crate::edit::search::{Push, TargetValue};
use crate::linalg::ellipsoid::nearest;
use crate::model::{At, Batch, Hook, Model, Site};
use crate::ops::norm::Norm;
use crate::ops::rows::{self, Index};
use crate::stats::normed::root;
use crate::tensor::Tensor;

/// A norm that the down projection's output passes, on the host.
struct NormBehind {
    gain: Vec<f64>,
    eps: f64,
}

impl NormBehind {
    fn of(norm: &Norm) -> NormBehind {
        assert!(norm.bias.is_none(), "norms behind an MLP have no bias");
        NormBehind { gain: norm.gain.to_f64(), eps: norm.eps }
    }

    /// r = √(‖y‖²/D + ε).
    fn root(&self, y: &[f64]) -> f64 {
        root(y, self.eps)
    }
}

/// How the output of a layer's down projection joins the stream.
pub struct Joining {
    norm: Option<NormBehind>,
    rho: f64,
}

impl Joining {
    /// Of a layer.
    pub fn of(model: &Model, layer: usize) -> Joining {
        let norm = model.norm_behind(layer).map(NormBehind::of);
        Joining { norm, rho: model.arch.scales.residual }
    }

    /// R (D): what is asked of W, so that a stream that is s gets to z, as far as it can; y is what
    /// W gives now.
    pub fn residual(&self, z: &[f64], s: &[f64], y: &[f64]) -> Vec<f64> {
        let missing = z.iter().zip(s).map(|(z, s)| (z - s) / self.rho);
        let Some(norm) = &self.norm else { return missing.collect() };
        let r = norm.root(y);
        let given = y.iter().zip(&norm.gain).map(|(y, g)| g * y / r);
        let t: Vec<f64> = missing.zip(given).map(|(missing, given)| missing + given).collect();
        let length = y.iter().map(|y| y * y).sum::<f64>().sqrt();
        let u = nearest(&norm.gain, &t, length / r);
        u.iter().zip(y).map(|(u, y)| r * u - y).collect()
    }

    /// r of a value y (D); 1 where no norm reads it.
    pub fn root(&self, y: &[f64]) -> f64 {
        self.norm.as_ref().map_or(1.0, |norm| norm.root(y))
    }

    /// ρ √D max|g|: how long what joins the stream is at most; nothing where no norm bounds it.
    pub fn most(&self) -> Option<f64> {
        let gain = &self.norm.as_ref()?.gain;
        let largest = gain.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
        Some(self.rho * (gain.len() as f64).sqrt() * largest)
    }
}

/// Z_ℓ (D, facts) of every layer of a window, of values that a search found.
///
/// # Errors
///
/// Cancellation.
pub fn streams(
    model: &Model,
    reader: &Reader,
    push: &Push,
    values: &[TargetValue],
    progress: &dyn Progress,
) -> Result<Vec<Mat<f64>>> {
    let layers: Vec<usize> = (push.site.layer..=push.top()).collect();
    let at = |at| layers.iter().map(move |&layer| Site { layer, at }).collect::<Vec<_>>();
    let mut hold = Hold {
        sites: [at(At::VALUE), at(At::Stream)].concat(),
        lowest: push.site.layer,
        normed: layers.iter().map(|&l| model.norm_behind(l).is_some()).collect(),
        values,
        places: Vec::new(),
        streams: layers.iter().map(|_| Mat::zeros(model.arch.width, values.len())).collect(),
    };
    let shared = reader.prefixes(model, push.top() + 1);
    for prompts in reader.bare_prompts(&shared) {
        if progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
        }
        hold.places = prompts.places.clone();
        prompts.run(model, push.top(), &mut hold);
    }
    Ok(hold.streams)
}

/// Puts the values into a pass over bare prompts, and reads the streams behind them.
struct Hold<'a> {
    sites: Vec<Site>,
    lowest: usize,
    normed: Vec<bool>, // of each layer
    values: &'a [TargetValue],
    places: Vec<(usize, usize)>, // batch row and fact of what is run
    streams: Vec<Mat<f64>>,
}

impl Hook for Hold<'_> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let part = site.layer - self.lowest;
        let [_, d] = shown.dims();
        if site.at == At::Stream {
            for &(row, fact) in &self.places {
                let column = self.streams[part].col_mut(fact);
                column.iter_mut().zip(shown.row_f64(row)).for_each(|(z, x)| *z = x);
            }
            return;
        }
        let moved = |&(row, fact): &(usize, usize)| {
            let y = shown.row_f64(row);
            let delta = &self.values[fact].delta[part * d..][..d];
            let v: Vec<f64> = y.iter().zip(delta).map(|(y, d)| y + d).collect();
            let keep = if self.normed[part] { keeping_length(&v, &y) } else { 1.0 };
            v.iter().zip(&y).map(|(v, y)| keep * v - y).collect::<Vec<f64>>()
        };
        let moved: Vec<f64> = self.places.iter().flat_map(moved).collect();
        let rows: Vec<usize> = self.places.iter().map(|place| place.0).collect();
        let moved = Tensor::of(shown.compute(), &[rows.len(), d], &moved);
        rows::scatter_add(shown, &Index::new(&shown.compute(), rows), &moved);
    }
}

/// A column as a list.
pub fn column(c: ColRef<f64>) -> Vec<f64> {
    c.iter().copied().collect()
}
