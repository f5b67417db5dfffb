//! What generates and scores: a model, or a model with an edit beside it.
//!
//! Generating ([`generate`](super::generate)), scoring ([`score`](super::score)) and reading sites
//! are functions over it, written once.

use super::arch::Arch;
use super::batch::Batch;
use super::cache::Past;
use super::matrix_id::MatrixId;
use super::model::Model;
use super::site::{Hook, NoHook};
use crate::base::Result;
use crate::tensor::{Compute, Tensor};

/// What generates and scores.
pub trait LanguageModel: Send + Sync {
    /// Sizes and options.
    fn arch(&self) -> &Arch;

    /// Where it computes, and in which type.
    fn compute(&self) -> &Compute;

    /// What a matrix reads and gives, (in, out); `None` where there is no such matrix.
    fn matrix_sizes(&self, id: MatrixId) -> Option<[usize; 2]>;

    /// The model whose weights it has: itself, or what edits live beside.
    fn weights(&self) -> &Model;

    /// Whether a prompt has to begin and end in one pass: what is decided of it holds from its
    /// first token on.
    fn whole_prompts(&self) -> bool {
        false
    }

    /// Runs a batch and hands `each` the logits z (rows, V), where the model computes, of the rows
    /// `read.0`: at most `read.1` rows at a time, in order, until it returns false. With no row to
    /// read and no past to grow, the pass ends behind the last site that the hook asks for;
    /// a memory's own sites count too.
    ///
    /// # Errors
    ///
    /// What `each` says; a device that is out of memory.
    fn run_in_chunks(
        &self,
        batch: &Batch,
        past: &mut Past,
        read: (&[usize], usize),
        hook: &mut dyn Hook,
        each: &mut dyn FnMut(Tensor) -> Result<bool>,
    ) -> Result<()>;

    /// The logits (read, V) of all of them at once.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    fn run(
        &self,
        batch: &Batch,
        past: &mut Past,
        read: &[usize],
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let mut logits = None;
        let all = (read, read.len().max(1));
        self.run_in_chunks(batch, past, all, hook, &mut |z| {
            logits = Some(z);
            Ok(true)
        })?;
        let none = || Ok(Tensor::zeros(self.compute(), &[0, self.arch().vocabulary]));
        logits.map_or_else(|| self.compute().run(none), Ok)
    }
}

/// Logits (chosen, V), on the host, of chosen rows after a whole pass over a batch.
///
/// # Errors
///
/// A device that is out of memory.
pub fn logits(
    model: &dyn LanguageModel,
    batch: &Batch,
    mut past: Past,
    chosen: &[usize],
) -> Result<Tensor> {
    let pass = || Ok(model.run(batch, &mut past, chosen, &mut NoHook)?.into_host());
    model.compute().run(pass)
}

/// Logits of every token of a whole text, on the host, at most `rows` rows at a time, in order.
/// `each` may end the computation by returning false.
///
/// # Errors
///
/// A device that is out of memory.
pub fn logits_in_chunks(
    model: &dyn LanguageModel,
    ids: &[u32],
    rows: usize,
    each: &mut dyn FnMut(&Tensor) -> bool,
) -> Result<()> {
    let all: Vec<usize> = (0..ids.len()).collect();
    let (batch, mut past) = (Batch::whole([ids]), Past::None);
    model.run_in_chunks(&batch, &mut past, (&all, rows), &mut NoHook, &mut |z| {
        let z = model.compute().run(|| Ok(z.into_host()))?;
        Ok(each(&z))
    })
}
