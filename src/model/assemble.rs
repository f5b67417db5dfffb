//! A layer of a family, put together from its matrices and norms, wherever those come from.

use super::arch::{Arch, NormPlace, QkNorm};
use super::attention::Attention;
use super::branch::{Body, Branch};
use super::family::{Names, Qkv};
use super::layer::Layer;
use super::matrix::Linear;
use super::mlp::Mlp;
use crate::base::Result;
use crate::ops::norm::{Norm, NormKind};

/// Where the tensors of a layer come from, by their names in it.
pub(super) trait LayerTensors {
    /// A matrix (out, in), and its bias if it has one.
    fn linear(&mut self, name: &str, size: [usize; 2], biased: bool) -> Result<Linear>;

    /// Queries, keys and values stored as rows of one matrix, in blocks of `outs` rows of each.
    fn stacked(&mut self, name: &str, outs: [usize; 3], blocks: usize) -> Result<[Linear; 3]>;

    /// A norm over rows of `width`.
    fn norm(&mut self, name: &str, kind: NormKind, width: usize) -> Result<Norm>;
}

/// Layer l.
pub(super) fn layer(
    a: &Arch,
    names: &Names,
    l: usize,
    from: &mut impl LayerTensors,
) -> Result<Layer> {
    let branch = |body, norm| match a.norms {
        NormPlace::Before => Branch { pre: Some(norm), body, post: None },
        NormPlace::After => Branch { pre: None, body, post: Some(norm) },
    };
    let body = Body::Attention(attention(a, names, l, from)?);
    let attention = branch(body, from.norm(names.norm1, a.norm, a.width)?);
    let body = Body::Mlp(Mlp {
        gate: match names.gate {
            Some(gate) => Some(from.linear(gate, [a.inner, a.width], a.biases.mlp)?),
            None => None,
        },
        up: from.linear(names.up, [a.inner, a.width], a.biases.mlp)?,
        down: from.linear(names.down, [a.width, a.inner], a.biases.mlp)?,
        act: a.act,
    });
    let mlp = branch(body, from.norm(names.norm2, a.norm, a.width)?);
    let branches = if a.parallel { vec![mlp, attention] } else { vec![attention, mlp] };
    Ok(Layer { branches, parallel: a.parallel })
}

fn attention(a: &Arch, names: &Names, l: usize, from: &mut impl LayerTensors) -> Result<Attention> {
    let (width, outs) = (a.width, [a.q_width(), a.kv_width(), a.kv_width()]);
    let [q, k, v] = match names.qkv {
        Qkv::Stacked(name) => from.stacked(name, outs, 1)?,
        Qkv::ByHead(name) => from.stacked(name, [a.head_dim; 3], a.n_heads)?,
        Qkv::Three([q, k, v]) => [
            from.linear(q, [outs[0], width], a.biases.qkv)?,
            from.linear(k, [outs[1], width], a.biases.qkv)?,
            from.linear(v, [outs[2], width], a.biases.qkv)?,
        ],
    };
    let norms = match a.qk_norm {
        QkNorm::None => None,
        QkNorm::Heads => Some([a.head_dim; 2]),
        QkNorm::Whole => Some([a.q_width(), a.kv_width()]),
    };
    let [name_q, name_k] = names.qk_norm;
    let mut norm = |name, width| from.norm(name, NormKind::Rms, width);
    Ok(Attention {
        q,
        k,
        v,
        qk_norm: match norms {
            Some([q, k]) => Some([norm(name_q, q)?, norm(name_k, k)?]),
            None => None,
        },
        o: from.linear(names.o, [width, a.q_width()], a.biases.o)?,
        heads: a.heads(l),
        rotary: (!a.rotary().is_empty()).then_some(0),
    })
}
