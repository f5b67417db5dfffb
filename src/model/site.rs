//! Sites: the named places in a layer where whoever runs a pass may look or reach in.
//!
//! A hook says at which sites it is called, before a pass begins: there it is handed the tensor on
//! the way forward and its gradient on the way back, and elsewhere nothing is called. Sites take
//! the place of module paths as strings.

use super::batch::Batch;
use super::matrix::Matrix;
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};

/// Where in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// What a matrix reads, (N, in). Queries, keys and values read one tensor, and so do gate and
    /// up.
    Input(Matrix),
    /// What a matrix gives, with its bias, (N, out): of queries and keys before they are normalised
    /// and rotated, of gate and up before the activation, of a branch's last before its norm.
    Output(Matrix),
    /// The residual stream after the layer, (N, D): MEMIT's h.
    Stream,
}

impl At {
    /// Input of the down projection, (N, F): ROME's k.
    pub const KEY: At = At::Input(Matrix::Down);
    /// Output of the down projection, (N, D): ROME's m and v.
    pub const VALUE: At = At::Output(Matrix::Down);
    /// Output of attention's projection, (N, D): PMET's a.
    pub const ATTENTION: At = At::Output(Matrix::O);
}

/// A place in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// l.
    pub layer: usize,
    /// Where in it.
    pub at: At,
}

/// What looks at a pass, or reaches into it. On a device it gathers there, and the host reads after
/// the pass: what waits for the device in the middle of a pass keeps it idle.
pub trait Hook {
    /// Where it is called. Elsewhere operations may be fused; the bits are the same.
    fn sites(&self) -> &[Site];

    /// Whether it neither allocates nor transfers, so that a pass with it may be recorded.
    fn records(&self) -> bool {
        false
    }

    /// Is handed the tensor at a site, and may change it. Where a layer is run again for backward,
    /// it is called again, by the hook of the pass backward.
    fn forward(&mut self, _site: Site, _batch: &Batch, _shown: &mut Tensor) {}

    /// Is handed the loss's gradient for the tensor at a site: at an output in the type that
    /// products read. Every [`Stream`](At::Stream), [`Output`](At::Output) and
    /// [`Input`](At::Input) has one.
    fn backward(&mut self, _site: Site, _batch: &Batch, _gradient: &Tensor) {}
}

/// The hook of a pass that nobody looks at.
pub struct NoHook;

impl Hook for NoHook {
    fn sites(&self) -> &[Site] {
        &[]
    }
}

/// A function that is handed the tensor at some sites on the way forward.
pub struct Look<F> {
    /// Where.
    pub sites: Vec<Site>,
    /// The function.
    pub look: F,
}

impl<F: FnMut(Site, &mut Tensor)> Hook for Look<F> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        (self.look)(site, shown);
    }
}

/// Some rows of the tensor at some sites, on the way forward.
pub struct Tap {
    sites: Vec<Site>,
    rows: Index,
    gathered: Vec<Option<Tensor>>, // (rows, width) of each site
}

impl Tap {
    /// Of these rows at each site.
    pub fn new(compute: &Compute, sites: Vec<Site>, rows: impl Into<Vec<usize>>) -> Tap {
        let gathered = sites.iter().map(|_| None).collect();
        Tap { sites, rows: Index::new(compute, rows), gathered }
    }

    /// What the i-th site held in the last pass, (rows, width), where the model computes.
    ///
    /// # Panics
    ///
    /// Where no pass came by it.
    pub fn tensor(&self, i: usize) -> &Tensor {
        self.gathered[i].as_ref().expect("a pass that came by the site")
    }

    /// The same on the host, a vector a row.
    ///
    /// # Panics
    ///
    /// Where no pass came by it.
    pub fn vectors(&self, i: usize) -> Vec<Vec<f64>> {
        let gathered = self.tensor(i);
        let [_, width] = gathered.dims();
        gathered.to_f64().chunks(width).map(<[f64]>::to_vec).collect()
    }
}

impl Hook for Tap {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let [_, width] = shown.dims();
        for (i, _) in self.sites.iter().enumerate().filter(|(_, own)| **own == site) {
            let mut gathered = shown.like(&[self.rows.len(), width]);
            rows::gather(shown, &self.rows, &mut gathered);
            self.gathered[i] = Some(gathered);
        }
    }
}
