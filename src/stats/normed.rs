//! Second moments of normalised keys, where a norm stands between the MLP and the stream.
//!
//! ```text
//! y = W k + b,  r = √(‖y‖²/D + ε)         what joins the stream is g⊙y/r
//! C_r = E[k kᵀ/r²] / E[1/r²]              what a change of W costs text there; r ≡ const gives C
//! ```
//!
//! Rows (k/r, 1/r) are summed: the last element of their second moment is E[1/r²].

use super::input::LayerInput;
use crate::model::{At, Batch, Hook, Model, Site};
use crate::ops::gram::{Totals, packed_len};
use crate::tensor::Tensor;

/// Adds the normalised keys of some layers to their totals, as a pass comes by.
pub(super) struct NormedMoments<'a> {
    sites: Vec<Site>, // of each input: its keys, and the value behind them
    eps: Vec<f64>,    // of each input
    totals: &'a mut [Totals],
    keys: Option<Tensor>,
}

impl NormedMoments<'_> {
    /// Of the keys of these layers, behind all of whose MLPs a norm stands.
    pub fn new<'a>(
        model: &Model,
        inputs: &[LayerInput],
        totals: &'a mut [Totals],
    ) -> NormedMoments<'a> {
        let layers = inputs.iter().map(|of| of.layer);
        let sites = |layer| [At::KEY, At::VALUE].map(|at| Site { layer, at });
        let eps = |layer| model.norm_behind(layer).expect("a norm behind the MLP").eps;
        NormedMoments {
            sites: layers.clone().flat_map(sites).collect(),
            eps: layers.map(eps).collect(),
            totals,
            keys: None,
        }
    }
}

impl Hook for NormedMoments<'_> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let i = self.sites.iter().position(|&own| own == site).expect("one of its sites") / 2;
        if site.at == At::KEY {
            self.keys = Some(shown.clone());
            return;
        }
        let keys = self.keys.take().expect("keys come before their value");
        let [[n, f], [_, d]] = [keys.dims(), shown.dims()];
        let (keys, values) = (keys.to_f64(), shown.to_f64());
        let mut rows = Vec::with_capacity(n * (f + 1));
        for (k, y) in keys.chunks_exact(f).zip(values.chunks_exact(d)) {
            let inverse = 1.0 / root(y, self.eps[i]);
            rows.extend(k.iter().map(|k| k * inverse).chain([inverse]));
        }
        self.totals[i].add(&Tensor::of(shown.compute(), &[n, f + 1], &rows));
    }
}

/// r = √(‖y‖²/D + ε).
pub fn root(y: &[f64], eps: f64) -> f64 {
    (y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64 + eps).sqrt()
}

/// The packed totals of k/r, and Σ 1/r², from those of (k/r, 1/r).
pub(super) fn parted(total: &[f64], f: usize) -> (&[f64], f64) {
    (&total[..packed_len(f)], total[packed_len(f + 1) - 1])
}
