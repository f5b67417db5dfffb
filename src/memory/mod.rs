//! Floor 5: edits beside the weights. A memory makes a model of a model, so memories nest, and what
//! one decides for a sequence lives in that sequence's past.

pub mod codebook;
pub mod codebook_file;
pub mod codebook_model;
pub mod context;
pub mod context_file;
mod context_model;
pub mod format;
pub mod likeness;
pub mod neurons;
mod neurons_file;
mod neurons_model;
pub mod serac;
mod serac_file;
mod serac_model;
pub mod states;

use std::path::Path;
use std::sync::Arc;

use crate::base::Result;
use crate::model::LanguageModel;
use crate::model::lineage::WeightsName;
use crate::store::Shard;

pub use codebook::{Codebook, CodebookEntry, Replacement};
pub use context::{ContextEntry, ContextMemory};
pub use format::is_memory;
pub use neurons::{AddedNeurons, NeuronKind};
pub use serac::SeracMemory;

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

/// What an edit beside the weights made, of whatever kind.
#[derive(Clone, Debug, PartialEq)]
pub enum EditMemory {
    /// Values at the prompts it knows.
    Codebook(Arc<Codebook>),
    /// Tokens before every prompt.
    Context(Arc<ContextMemory>),
    /// Neurons beside the MLP of a layer.
    Neurons(Arc<AddedNeurons>),
    /// Facts that another model answers for.
    Serac(Arc<SeracMemory>),
}

impl EditMemory {
    /// The same, made for weights of that name.
    pub fn named(self, made_for: WeightsName) -> EditMemory {
        match self {
            EditMemory::Codebook(book) => {
                EditMemory::Codebook(Arc::new(Codebook { made_for, ..Arc::unwrap_or_clone(book) }))
            }
            EditMemory::Context(memory) => {
                let memory = ContextMemory { made_for, ..Arc::unwrap_or_clone(memory) };
                EditMemory::Context(Arc::new(memory))
            }
            EditMemory::Neurons(neurons) => {
                let neurons = AddedNeurons { made_for, ..Arc::unwrap_or_clone(neurons) };
                EditMemory::Neurons(Arc::new(neurons))
            }
            EditMemory::Serac(memory) => {
                let memory = SeracMemory { made_for, ..Arc::unwrap_or_clone(memory) };
                EditMemory::Serac(Arc::new(memory))
            }
        }
    }

    /// As what makes a model of a model.
    pub fn memory(&self) -> Arc<dyn Memory> {
        match self {
            EditMemory::Codebook(book) => book.clone(),
            EditMemory::Context(memory) => memory.clone(),
            EditMemory::Neurons(neurons) => neurons.clone(),
            EditMemory::Serac(memory) => memory.clone(),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        match self {
            EditMemory::Codebook(book) => book.write(path),
            EditMemory::Context(memory) => memory.write(path),
            EditMemory::Neurons(neurons) => neurons.write(path),
            EditMemory::Serac(memory) => memory.write(path),
        }
    }

    /// How many entries it has.
    pub fn entries(&self) -> usize {
        match self {
            EditMemory::Codebook(book) => book.entries.len(),
            EditMemory::Context(memory) => memory.entries.len(),
            EditMemory::Neurons(neurons) => neurons.len(),
            EditMemory::Serac(memory) => memory.facts.entries.len(),
        }
    }

    /// The matrix that it is beside, or what it stands before.
    pub fn place(&self) -> String {
        match self {
            EditMemory::Codebook(book) => book.id.to_string(),
            EditMemory::Context(_) | EditMemory::Serac(_) => "prompts".to_owned(),
            EditMemory::Neurons(neurons) => format!("layers.{}.mlp", neurons.layer),
        }
    }
}

/// Reads a memory, of whatever kind, that was made for a model whose weights have that name.
///
/// # Errors
///
/// As the kind's own `read`; no memory is read as a codebook, which says what is wrong.
pub fn open(path: &Path, base: &dyn LanguageModel, name: &WeightsName) -> Result<Arc<dyn Memory>> {
    let kind = Shard::open(path)?.header().metadata.get("kind").cloned().unwrap_or_default();
    Ok(match &kind[..] {
        kind if NeuronKind::named(kind).is_some() => Arc::new(neurons(path, base, name)?),
        context_file::KIND => Arc::new(ContextMemory::read(path, base, name)?),
        serac_file::KIND => Arc::new(SeracMemory::read(path, base, name)?),
        _ => Arc::new(Codebook::read(path, base, name)?),
    })
}

/// Reads a memory of added neurons.
///
/// # Errors
///
/// As [`AddedNeurons::read`]; a memory of another kind.
pub fn neurons(path: &Path, base: &dyn LanguageModel, name: &WeightsName) -> Result<AddedNeurons> {
    let kind = Shard::open(path)?.header().metadata.get("kind").cloned().unwrap_or_default();
    // Of another kind, what is wrong is said of this one.
    let kind = NeuronKind::named(&kind).unwrap_or(NeuronKind::Patches);
    AddedNeurons::read(path, base, kind, name)
}
