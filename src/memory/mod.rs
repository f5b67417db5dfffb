//! Floor 5: edits beside the weights. A memory makes a model of a model, so memories nest, and what
//! one decides for a sequence lives in that sequence's past.

pub mod codebook;
pub mod codebook_file;
pub mod codebook_model;

use std::path::Path;
use std::sync::Arc;

use crate::base::Result;
use crate::model::LanguageModel;
use crate::model::lineage::WeightsName;

pub use codebook::{Codebook, CodebookEntry, Replacement};
pub use codebook_file::is_memory;

/// An edit beside the weights.
pub trait Memory: Send + Sync {
    /// What its files call it.
    fn kind(&self) -> &'static str;

    /// A model that has it.
    ///
    /// # Errors
    ///
    /// A model that it does not fit; a device out of memory.
    fn on(self: Arc<Self>, base: Arc<dyn LanguageModel>) -> Result<Arc<dyn LanguageModel>>;
}

/// Reads a memory that was made for a model whose weights have that name.
///
/// # Errors
///
/// As [`Codebook::read`]; there is no other kind yet.
pub fn open(path: &Path, base: &dyn LanguageModel, name: &WeightsName) -> Result<Arc<dyn Memory>> {
    Ok(Arc::new(Codebook::read(path, base, name)?))
}
