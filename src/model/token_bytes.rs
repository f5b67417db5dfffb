//! Bytes that a token takes in a pass, counted before it runs. What a body takes is said beside it
//! ([`super::attention`], [`super::mlp`]), what its layer adds in [`super::layer`].

use std::ops::Add;

use crate::tensor::Compute;

/// Bytes of an element, which the host has of one size and a device may have of two.
#[derive(Clone, Copy)]
pub struct ElementBytes {
    /// Of the stream, of sums and of norms.
    pub wide: usize,
    /// Of what products read: [`Tensor::narrow`](crate::tensor::Tensor::narrow).
    pub narrow: usize,
}

impl ElementBytes {
    /// Of a computation.
    pub fn of(compute: &Compute) -> ElementBytes {
        ElementBytes { wide: compute.precision().size(), narrow: compute.narrow_size() }
    }

    /// Of a copy in the type that products read, where that is another one.
    pub fn rounded(self) -> usize {
        if self.narrow < self.wide { self.narrow } else { 0 }
    }
}

/// Bytes a token takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBytes {
    /// Activations that backward reads, of each layer.
    pub saved: usize,
    /// Those of the layer that has the most of them.
    pub largest: usize,
    /// Buffers of a pass forward, which all layers share.
    pub forward: usize,
    /// Buffers of a pass backward, which all layers share.
    pub backward: usize,
    /// Its keys and values in a cache, of each layer.
    pub past: usize,
}

/// Beside each other: every number adds up.
impl Add for TokenBytes {
    type Output = TokenBytes;

    fn add(self, other: TokenBytes) -> TokenBytes {
        TokenBytes {
            saved: self.saved + other.saved,
            largest: self.largest + other.largest,
            forward: self.forward + other.forward,
            backward: self.backward + other.backward,
            past: self.past + other.past,
        }
    }
}

impl TokenBytes {
    /// Of layers that run one after the other in the same buffers.
    pub fn shared(layers: impl Iterator<Item = TokenBytes>) -> TokenBytes {
        layers.fold(TokenBytes::default(), |all, layer| TokenBytes {
            saved: all.saved + layer.saved,
            largest: all.largest.max(layer.saved),
            forward: all.forward.max(layer.forward),
            backward: all.backward.max(layer.backward),
            past: all.past + layer.past,
        })
    }
}
