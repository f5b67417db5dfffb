//! Sites: the named places in the decoder where a hook is called.
//!
//! At each site the forward pass hands the tensor to the hook of its caller, which may copy rows
//! out (a tap) or add to rows (a push). Sites take the place of module paths as strings.

use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// Rows of the tensor at a site, one vector each. Unwinds where the device is out of memory.
pub fn tap(at_site: &Tensor, rows: &[usize]) -> Vec<Vec<f64>> {
    let [_, width] = at_site.dims();
    let mut read = at_site.like(&[rows.len(), width]);
    rows::gather(at_site, &Index::new(&at_site.compute(), rows), &mut read);
    read.to_f64().chunks(width).map(<[f64]>::to_vec).collect()
}

/// Where in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Output of attention's projection with its bias, (N, D): PMET's a.
    Attention,
    /// Input of the down projection, (N, F): ROME's k.
    Key,
    /// Output of the down projection with its bias, (N, D): ROME's m and v.
    Value,
    /// The residual stream after the layer, (N, D): MEMIT's h.
    Stream,
}

/// A place in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// l.
    pub layer: usize,
    /// Where in it.
    pub at: At,
}

/// Is called with the tensor at every site of the pass, and may change it.
pub type Hook<'a> = &'a mut dyn FnMut(Site, &mut Tensor);

/// The [`Hook`] of a pass that nobody observes: `&mut no_hook`.
pub fn no_hook(_: Site, _: &mut Tensor) {}
