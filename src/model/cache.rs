//! The key/value cache: keys and values of tokens that later tokens attend to.

use std::ops::Range;
use std::sync::Arc;

use super::arch::Arch;
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};

/// Keys (rotated already) and values of every layer, one row a token. On a device without memory
/// for them, its methods unwind.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>, // (rows, G·E) each
    choices: Vec<Choice>,
    fronts: Vec<FrontRows>,
    sides: Vec<SideCache>,
}

/// Rows at the front of a cache that an edit beside the weights put there, which its callers do not
/// count.
#[derive(Clone, Debug)]
pub struct FrontRows {
    /// Whose they are, by its address.
    pub by: Arc<()>,
    /// How many.
    pub rows: usize,
    /// What is there, by number, and at which rows.
    pub contexts: Vec<(usize, Range<usize>)>,
    /// Rows of sequences that began, as callers count, and those of the front that each reads.
    pub sequences: Vec<(Range<usize>, Range<usize>)>,
}

/// The cache of another model that answers for some sequences, in the place of the one whose rows
/// callers count.
#[derive(Clone, Debug)]
pub struct SideCache {
    /// Whose it is, by its address.
    pub by: Arc<()>,
    /// Its keys and values.
    pub cache: KvCache,
    /// Rows of the sequences that it answers for, pass by pass.
    pub parts: Vec<SideRows>,
}

/// Rows of a sequence that another model answers for, from one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideRows {
    /// As callers count them.
    pub rows: Range<usize>,
    /// Where the first of them is in the other model's cache.
    pub at: usize,
    /// So many rows right before it there are a context of the sequence, which begins here.
    pub context: usize,
}

/// What an edit beside the weights decided at the end of a prompt: it holds for the sequence.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Whose choice it is, by its address: each such model has one of its own.
    pub by: Arc<()>,
    /// The cache's row of the prompt's last token.
    pub row: usize,
    /// What was chosen, if anything was.
    pub entry: Option<usize>,
}

/// The keys and values that a batch attends to beyond its own.
pub enum Past<'a> {
    /// None: every sequence is whole.
    None,
    /// Rows of a cache, which does not change.
    Read(&'a KvCache),
    /// Rows of a cache, to which the batch's own are appended.
    Grow(&'a mut KvCache),
}

impl Past<'_> {
    /// The same once more.
    pub fn again(&mut self) -> Past<'_> {
        match self {
            Past::None => Past::None,
            Past::Read(cache) => Past::Read(cache),
            Past::Grow(cache) => Past::Grow(cache),
        }
    }

    /// The cache, where there is one.
    pub fn cache(&self) -> Option<&KvCache> {
        match self {
            Past::None => None,
            Past::Read(cache) => Some(cache),
            Past::Grow(cache) => Some(cache),
        }
    }
}

impl KvCache {
    /// Without rows.
    pub fn new(arch: &Arch, compute: &Compute) -> KvCache {
        let empty = || Tensor::narrow(compute, &[0, arch.kv_width()]);
        let layers = (0..arch.layers).map(|_| (empty(), empty())).collect();
        KvCache { layers, choices: Vec::new(), fronts: Vec::new(), sides: Vec::new() }
    }

    /// Tokens in it, of the first layer, without those at its front that are hidden.
    pub fn rows(&self) -> usize {
        let hidden: usize = self.fronts.iter().map(|front| front.rows).sum();
        self.layers.first().map_or(0, |(k, _)| k.shape()[0]) - hidden
    }

    /// Whether it has keys and values alone, nothing of an edit beside the weights.
    pub fn is_plain(&self) -> bool {
        self.choices.is_empty() && self.fronts.is_empty() && self.sides.is_empty()
    }

    /// Hides rows at the front from those who count them.
    pub fn hide(&mut self, front: FrontRows) {
        self.fronts.push(front);
    }

    /// What somebody hid at the front.
    pub fn front(&self, by: &Arc<()>) -> Option<&FrontRows> {
        self.fronts.iter().find(|front| Arc::ptr_eq(&front.by, by))
    }

    /// The same, and no more hidden.
    pub fn unhide(&mut self, by: &Arc<()>) -> Option<FrontRows> {
        let at = self.fronts.iter().position(|front| Arc::ptr_eq(&front.by, by))?;
        Some(self.fronts.remove(at))
    }

    /// The cache of somebody's other model.
    pub fn side(&self, by: &Arc<()>) -> Option<&SideCache> {
        self.sides.iter().find(|side| Arc::ptr_eq(&side.by, by))
    }

    /// The same, to be put back with the rows of another pass.
    pub fn take_side(&mut self, by: &Arc<()>) -> Option<SideCache> {
        let at = self.sides.iter().position(|side| Arc::ptr_eq(&side.by, by))?;
        Some(self.sides.remove(at))
    }

    /// Puts one there.
    pub fn put_side(&mut self, side: SideCache) {
        self.sides.push(side);
    }

    /// Keeps what was decided at a row.
    pub fn decide(&mut self, choice: Choice) {
        self.choices.push(choice);
    }

    /// What was decided in a sequence that has these rows.
    pub fn decided(&self, by: &Arc<()>, past: &[Range<usize>; 2]) -> Option<&Choice> {
        let inside = |row: usize| past.iter().any(|rows| rows.contains(&row));
        self.choices.iter().rev().find(|c| Arc::ptr_eq(&c.by, by) && inside(c.row))
    }

    /// Keys and values of layer l.
    pub fn layer(&self, l: usize) -> (&Tensor, &Tensor) {
        (&self.layers[l].0, &self.layers[l].1)
    }

    /// Keeps only these rows of some layers, one range after the other.
    ///
    /// # Panics
    ///
    /// Where something was decided at one: rows get other numbers.
    pub fn keep(&mut self, layers: Range<usize>, rows: &[Range<usize>]) {
        assert!(self.choices.is_empty(), "keep: a choice belongs to its row");
        assert!(self.fronts.is_empty(), "keep: hidden rows belong to the front");
        assert!(self.sides.is_empty(), "keep: another model's rows go with these");
        let rows: Vec<usize> = rows.iter().cloned().flatten().collect();
        let mut index = None; // the same for every layer
        for (k, v) in &mut self.layers[layers] {
            for t in [k, v] {
                let rows = index.get_or_insert_with(|| Index::new(&t.compute(), &rows[..]));
                let mut kept = t.like(&[rows.len(), t.shape()[1]]);
                rows::gather(t, rows, &mut kept);
                *t = kept;
            }
        }
    }

    /// Appends some rows of another cache to some layers, rounded to the type of this one.
    ///
    /// # Panics
    ///
    /// Where something was decided at one of the other.
    pub fn append(&mut self, layers: Range<usize>, from: &KvCache, rows: Range<usize>) {
        assert!(from.choices.is_empty(), "append: a choice belongs to its row");
        assert!(from.fronts.is_empty(), "append: hidden rows belong to the front");
        assert!(from.sides.is_empty(), "append: another model's rows go with these");
        let append = |to: &mut Tensor, from: &Tensor| {
            let old = to.shape()[0];
            to.set_rows(old + rows.len());
            rows::put(from, rows.clone(), to, old);
        };
        for l in layers {
            append(&mut self.layers[l].0, &from.layers[l].0);
            append(&mut self.layers[l].1, &from.layers[l].1);
        }
    }

    /// Appends the rows of a batch to layer l.
    pub fn push(&mut self, l: usize, k: &Tensor, v: &Tensor) {
        self.layers[l].0.push_rows(k);
        self.layers[l].1.push_rows(v);
    }
}
