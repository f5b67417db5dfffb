//! Which tensor of a GGUF file is which of a checkpoint, of which sizes, and how its rows lie.
//!
//! A role has one name in all of llama.cpp's files, and in the framework the name that the family's
//! row has for it. What llama.cpp's converter did to the values is undone row by row:
//!
//! ```text
//! pairs       of a head's q or k, row 2i + s there is row sE/2 + i here,    s ∈ {0, 1}, i < E/2
//! regrouped   all of q, all of k, all of v there; here, group by group, its q, its k, its v
//! gain − 1    of families whose gain is 1 + w: the file has the gain
//! transposed  of families that store (in, out)
//! ```

use std::collections::BTreeSet;

use super::keys::Keys;
use super::rows::{self, GgufFamily, RowOrder};
use crate::base::{Error, Result};
use crate::model::arch::{Arch, Gain, QkNorm};
use crate::model::family::{Family, PositionEncoding, Qkv, UpNames};
use crate::store::gguf::GgufTensor;
use crate::tensor::Layout;

/// A tensor of the checkpoint and where it comes from.
pub(super) struct Planned {
    /// Its place in [`GgufHeader::tensors`](crate::store::gguf::GgufHeader).
    pub source: usize,
    /// Its name in the checkpoint.
    pub name: String,
    /// Its sizes in the file.
    pub shape: Vec<usize>,
    /// Which of the file's rows each row is.
    pub rows: Rows,
    /// Whether 1 is subtracted.
    pub less_one: bool,
    /// Whether the checkpoint has it the other way round.
    pub transposed: bool,
}

/// Which row of the file a row of the checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The same.
    Same,
    /// Of heads of this width, by pairs.
    Pairs(usize),
    /// Of so many groups, with rows of q, k and v in each.
    Regrouped {
        /// How many.
        groups: usize,
        /// Rows of q, of k and of v in one.
        parts: [usize; 3],
    },
}

impl Rows {
    /// The row of the file that row r of the checkpoint is.
    pub fn source(self, r: usize) -> usize {
        match self {
            Rows::Same => r,
            Rows::Pairs(width) => {
                let (head, inside) = (r / width, r % width);
                let (s, i) = (inside / (width / 2), inside % (width / 2));
                head * width + 2 * i + s
            }
            Rows::Regrouped { groups, parts } => {
                let period: usize = parts.iter().sum();
                let (group, mut inside) = (r / period, r % period);
                let mut before = 0;
                for part in parts {
                    if inside < part {
                        return before + group * part + inside;
                    }
                    before += groups * part;
                    inside -= part;
                }
                unreachable!("a row inside its group")
            }
        }
    }
}

/// A matrix of a layer in a file of llama.cpp and in a checkpoint.
pub struct LayerMatrix {
    /// Its name in the file, without `.weight`.
    pub there: String,
    /// The framework's path of the module whose weight it is.
    pub here: String,
    /// (out, in).
    pub size: [usize; 2],
    /// Whether there is a bias.
    pub biased: bool,
    /// Which of the file's rows each row is.
    pub rows: Rows,
}

/// The matrices of layer l.
pub(super) fn layer_matrices(
    row: &GgufFamily,
    family: &Family,
    a: &Arch,
    l: usize,
) -> Vec<LayerMatrix> {
    let names = &family.names;
    let (q, kv) = (a.q_width(), a.kv_width());
    let (pairs, grouped) = match row.order {
        RowOrder::Same => (Rows::Same, Rows::Same),
        RowOrder::Pairs => (Rows::Pairs(a.head_dim), Rows::Same),
        RowOrder::Regrouped => {
            let parts = [q, kv, kv].map(|out| out / a.n_kv_heads);
            (Rows::Same, Rows::Regrouped { groups: a.n_kv_heads, parts })
        }
    };
    let biases = &a.biases;
    let mut all = match names.qkv {
        Qkv::Three([of_q, of_k, of_v]) => vec![
            ("attn_q", of_q, [q, a.width], biases.qkv, pairs),
            ("attn_k", of_k, [kv, a.width], biases.qkv, pairs),
            ("attn_v", of_v, [kv, a.width], biases.qkv, Rows::Same),
        ],
        Qkv::Stacked(own) | Qkv::ByGroup(own) => {
            vec![("attn_qkv", own, [q + 2 * kv, a.width], biases.qkv, grouped)]
        }
    };
    all.push(("attn_output", names.o, [a.width, q], biases.o, Rows::Same));
    let mut up = |there, here, out| all.push((there, here, [out, a.width], biases.mlp, Rows::Same));
    match names.up {
        UpNames::Up(own) => up("ffn_up", own, a.inner),
        UpNames::Gated([gate, own]) => {
            up("ffn_gate", gate, a.inner);
            up("ffn_up", own, a.inner);
        }
        UpNames::Stacked(both) => up("ffn_up", both, 2 * a.inner),
    }
    all.push(("ffn_down", names.down, [a.width, a.inner], biases.mlp, Rows::Same));
    let named = |(there, here, size, biased, rows)| LayerMatrix {
        there: format!("blk.{l}.{there}"),
        here: format!("{}{}{l}.{here}", names.prefix, names.layer),
        size,
        biased,
        rows,
    };
    all.into_iter().map(named).collect()
}

/// What llama.cpp calls the architecture of a family, and its matrices; `None` where no row of ours
/// says it.
pub fn matrices_in_llamacpp(
    family: &Family,
    arch: &Arch,
) -> Option<(&'static str, Vec<LayerMatrix>)> {
    let row = rows::of_family(family.name)?;
    let all = (0..arch.layers).flat_map(|l| layer_matrices(row, family, arch, l));
    Some((row.architecture, all.collect()))
}

/// Tensors from which the configuration was read, or that hold what is computed anew.
const NOT_WEIGHTS: [&str; 4] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    "attn_rot_embd.weight",
];

/// The tensors of the checkpoint, each with its place in the file.
///
/// # Errors
///
/// A tensor that is missing, of other sizes than the configuration has, or that such a model has
/// no place for.
pub(super) fn plan(
    keys: Keys,
    row: &GgufFamily,
    family: &Family,
    arch: &Arch,
) -> Result<Vec<Planned>> {
    let mut planner =
        Planner { keys, row, family, arch, planned: Vec::new(), used: BTreeSet::new() };
    planner.outside_layers()?;
    for l in 0..arch.layers {
        planner.layer(l)?;
    }
    planner.refuse_rest()?;
    Ok(planner.planned)
}

struct Planner<'a> {
    keys: Keys<'a>,
    row: &'a GgufFamily,
    family: &'a Family,
    arch: &'a Arch,
    planned: Vec<Planned>,
    used: BTreeSet<String>,
}

/// What a tensor is like, beside its names.
#[derive(Clone, Copy)]
struct Like {
    rows: Rows,
    less_one: bool,
    transposed: bool,
}

const AS_IT_IS: Like = Like { rows: Rows::Same, less_one: false, transposed: false };

impl Planner<'_> {
    fn outside_layers(&mut self) -> Result<()> {
        let (names, a) = (&self.family.names, self.arch);
        let inside = |name: &str| format!("{}{name}", names.prefix);
        let embed = inside(names.embed);
        self.tensor(
            "token_embd.weight",
            format!("{embed}.weight"),
            &[a.vocabulary, a.width],
            AS_IT_IS,
        )?;
        if let PositionEncoding::Learned { offset } = self.family.positions {
            let name = inside(names.positions) + ".weight";
            let shape = [offset + a.max_positions, a.width];
            self.tensor("position_embd.weight", name, &shape, AS_IT_IS)?;
        }
        self.norm("output_norm", &inside(names.norm), a.width, a.biases.norm)?;
        let head = names.head[0];
        if !a.tie_embeddings {
            let shape = [a.vocabulary, a.width];
            self.tensor("output.weight", format!("{head}.weight"), &shape, AS_IT_IS)?;
        }
        if a.biases.head {
            self.tensor("output.bias", format!("{head}.bias"), &[a.vocabulary], AS_IT_IS)?;
        }
        Ok(())
    }

    fn layer(&mut self, l: usize) -> Result<()> {
        let (names, a) = (&self.family.names, self.arch);
        let there = |name: &str| format!("blk.{l}.{name}");
        let here = |name: &str| format!("{}{}{l}.{name}", names.prefix, names.layer);
        let norms = [
            ("attn_norm", names.norm1.before),
            ("post_attention_norm", names.norm1.behind),
            (self.row.norm2, names.norm2.before.filter(|name| names.norm1.before != Some(name))),
            ("post_ffw_norm", names.norm2.behind),
        ];
        for (name, own) in norms {
            if let Some(own) = own {
                self.norm(&there(name), &here(own), a.width, a.biases.norm)?;
            }
        }
        let (q, kv) = (a.q_width(), a.kv_width());
        let widths = match a.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some([a.head_dim; 2]),
            QkNorm::Whole => Some([q, kv]),
        };
        for (i, name) in ["attn_q_norm", "attn_k_norm"].into_iter().enumerate() {
            if let Some(widths) = widths {
                self.norm(&there(name), &here(names.qk_norm[i]), widths[i], false)?;
            }
        }
        layer_matrices(self.row, self.family, a, l).iter().try_for_each(|one| self.matrix(one))
    }

    /// A matrix of a layer, and its bias if it has one.
    fn matrix(&mut self, of: &LayerMatrix) -> Result<()> {
        let &LayerMatrix { ref there, ref here, size, biased, rows } = of;
        let transposed = self.family.names.layout == Layout::InOut;
        let like = Like { rows, transposed, ..AS_IT_IS };
        self.tensor(&format!("{there}.weight"), format!("{here}.weight"), &size, like)?;
        if biased {
            let like = Like { rows, ..AS_IT_IS };
            self.tensor(&format!("{there}.bias"), format!("{here}.bias"), &size[..1], like)?;
        }
        Ok(())
    }

    /// A norm, and its bias if it has one.
    fn norm(&mut self, there: &str, here: &str, width: usize, biased: bool) -> Result<()> {
        let gain = self.arch.gain;
        if gain != Gain::One {
            let like = Like { less_one: gain == Gain::OnePlus, ..AS_IT_IS };
            self.tensor(&format!("{there}.weight"), format!("{here}.weight"), &[width], like)?;
        }
        if biased && gain != Gain::One {
            self.tensor(&format!("{there}.bias"), format!("{here}.bias"), &[width], AS_IT_IS)?;
        }
        Ok(())
    }

    fn tensor(&mut self, there: &str, here: String, shape: &[usize], like: Like) -> Result<()> {
        let header = self.keys.file.header();
        let tensors = &header.tensors;
        let source =
            header.position(there).ok_or_else(|| self.wrong(there, "no such tensor".to_owned()))?;
        if tensors[source].shape != shape {
            let what = format!("has the shape {:?}, not {shape:?}", tensors[source].shape);
            return Err(self.wrong(there, what));
        }
        self.keys.file.check_read(&tensors[source])?;
        self.used.insert(there.to_owned());
        let Like { rows, less_one, transposed } = like;
        let shape = shape.to_vec();
        self.planned.push(Planned { source, name: here, shape, rows, less_one, transposed });
        Ok(())
    }

    fn refuse_rest(&self) -> Result<()> {
        let known = |tensor: &&GgufTensor| {
            self.used.contains(&tensor.name)
                || NOT_WEIGHTS.iter().any(|name| tensor.name.ends_with(name))
        };
        match self.keys.file.header().tensors.iter().find(|tensor| !known(tensor)) {
            None => Ok(()),
            Some(tensor) => {
                let what = format!("a model of {} has no such tensor", self.family.name);
                Err(self.wrong(&tensor.name, what))
            }
        }
    }

    fn wrong(&self, tensor: &str, what: String) -> Error {
        let remedy = "the file's keys and tensors are of two models, or of a variant that is not \
                      implemented: convert the model again, or use another";
        Error::input(self.keys.file.path(), tensor, what, remedy)
    }
}
