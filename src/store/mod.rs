//! Floor 1: bytes on disk. Checkpoints are mapped, patches are files, changes can always be undone.
//!
//! | file | is |
//! | --- | --- |
//! | `header` | the header of a safetensors file: read, validated, refused |
//! | `mapped`, `shard` | one mapped file; one of safetensors |
//! | `gguf` | files of llama.cpp: header, blocks of quantised numbers |
//! | `checkpoint` | a model folder: configuration, files, names → bytes |
//! | `fingerprint` | names for contents |
//! | `write`, `folder` | writing a safetensors file, making a model folder |
//! | `patch`, `row_blocks` | the change of a few matrices, as a file; the rows of one in a tensor |
//! | `journal` | changing a checkpoint in place, and undoing it |
//! | `lineage` | which model an edited checkpoint comes from, and by which patches |
//! | `history`, `record`, `lock` | what it has seen, one change of that, who may write |
//! | `disk` | what the journal does to files, as one trait |
//!
//! This floor knows no devices and no models.

pub mod checkpoint;
pub mod disk;
pub mod fingerprint;
pub mod folder;
pub mod gguf;
pub mod header;
pub mod history;
pub mod journal;
pub mod lineage;
pub mod lock;
pub mod mapped;
pub mod patch;
pub mod place;
pub mod record;
pub mod row_blocks;
pub mod shard;
pub mod write;

pub use checkpoint::{Checkpoint, StoredTensor};
pub use fingerprint::{Fingerprint, model_fingerprint, same_sample, tensor_fingerprint};
pub use lineage::{AppliedPatch, Lineage, TensorNorms};
pub use mapped::{Bytes, MappedFile};
pub use patch::{Change, Delta, FactKeys, Metadata, Patch};
pub use row_blocks::RowBlocks;
pub use shard::Shard;
