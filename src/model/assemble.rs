//! A layer of a family, put together from its matrices and norms, wherever those come from.

use super::arch::{Arch, QkNorm};
use super::attention::Attention;
use super::branch::{Body, Branch};
use super::family::{BranchNorms, Names, Qkv, UpNames};
use super::layer::Layer;
use super::matrix::Linear;
use super::mlp::Mlp;
use crate::base::Result;
use crate::ops::norm::{Norm, NormKind};

/// Matrices that are rows of one, in blocks of `outs` rows of each.
pub(super) struct StackedRows<const N: usize> {
    pub name: &'static str,
    pub outs: [usize; N],
    pub blocks: usize,
    pub biased: bool,
}

/// Where the tensors of a layer come from, by their names in it.
pub(super) trait LayerTensors {
    /// A matrix (out, in), and its bias if it has one.
    fn linear(&mut self, name: &str, size: [usize; 2], biased: bool) -> Result<Linear>;

    /// Matrices that are rows of one.
    fn stacked<const N: usize>(&mut self, rows: StackedRows<N>) -> Result<[Linear; N]>;

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
    let body = Body::Attention(attention(a, names, l, from)?);
    let attention = branch(a, names.norm1, body, from)?;
    let body = Body::Mlp(mlp(a, names, from)?);
    let mlp = branch(a, names.norm2, body, from)?;
    let branches = if a.parallel { vec![mlp, attention] } else { vec![attention, mlp] };
    Ok(Layer { branches, parallel: a.parallel })
}

fn branch(
    a: &Arch,
    norms: BranchNorms,
    body: Body,
    from: &mut impl LayerTensors,
) -> Result<Branch> {
    let mut norm = |name: Option<&str>| name.map(|name| from.norm(name, a.norm, a.width));
    let (pre, post) = (norm(norms.before).transpose()?, norm(norms.behind).transpose()?);
    Ok(Branch { pre, body, post, scale: a.scales.residual })
}

fn mlp(a: &Arch, names: &Names, from: &mut impl LayerTensors) -> Result<Mlp> {
    let (size, biased) = ([a.inner, a.width], a.biases.mlp);
    let (gate, up) = match names.up {
        UpNames::Up(up) => (None, from.linear(up, size, biased)?),
        UpNames::Gated([gate, up]) => {
            (Some(from.linear(gate, size, biased)?), from.linear(up, size, biased)?)
        }
        UpNames::Stacked(both) => {
            let outs = [a.inner; 2];
            let rows = StackedRows { name: both, outs, blocks: 1, biased };
            let [gate, up] = from.stacked(rows)?;
            (Some(gate), up)
        }
    };
    let down = from.linear(names.down, [a.width, a.inner], biased)?;
    Ok(Mlp { gate, up, down, act: a.act })
}

fn attention(a: &Arch, names: &Names, l: usize, from: &mut impl LayerTensors) -> Result<Attention> {
    let (width, outs) = (a.width, [a.q_width(), a.kv_width(), a.kv_width()]);
    let biased = a.biases.qkv;
    let [q, k, v] = match names.qkv {
        Qkv::Stacked(name) => from.stacked(StackedRows { name, outs, blocks: 1, biased })?,
        Qkv::ByGroup(name) => {
            let (blocks, of_group) = (a.n_kv_heads, outs.map(|out| out / a.n_kv_heads));
            from.stacked(StackedRows { name, outs: of_group, blocks, biased })?
        }
        Qkv::Three([q, k, v]) => [
            from.linear(q, [outs[0], width], biased)?,
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
        rotary: a.turned_by[l],
    })
}
