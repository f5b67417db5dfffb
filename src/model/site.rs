//! Named places in the decoder: the only hook there is.
//!
//! At each site the forward pass shows the tensor to whoever runs it, who may copy rows out (a
//! tap) or add to rows (a push). That replaces module-path strings.

/// Where in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Output of the attention's projection with its bias, (N, D): PMET's a.
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
