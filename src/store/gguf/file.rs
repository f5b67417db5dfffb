//! One mapped GGUF file.

use std::path::Path;
use std::sync::Arc;

use super::block_types::BlockType;
use super::header::{GgufHeader, GgufTensor};
use crate::base::{Error, Result};
use crate::store::mapped::{Bytes, MappedFile};

/// One mapped GGUF file.
pub struct GgufFile {
    file: Arc<MappedFile>,
    header: GgufHeader,
}

impl GgufFile {
    /// Maps the file and reads its header; no weight is touched.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, or whose header [`GgufHeader::parse`] refuses.
    pub fn open(path: &Path) -> Result<GgufFile> {
        let file = MappedFile::open(path)?;
        let header = GgufHeader::parse(path, file.all())?;
        Ok(GgufFile { file, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The mapping, with which its bytes live.
    pub fn mapped(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// What precedes its weights.
    pub fn header(&self) -> &GgufHeader {
        &self.header
    }

    /// An error if another program has written the file since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.file.unchanged()
    }

    /// The blocks of one of its tensors.
    pub fn bytes(&self, tensor: &GgufTensor) -> Bytes {
        self.file.bytes(&tensor.range)
    }

    /// The values of some whole rows of one of its tensors, from row `first` on.
    ///
    /// # Errors
    ///
    /// A type that is not read.
    ///
    /// # Panics
    ///
    /// Where `out` is no whole rows, or there are not so many.
    pub fn rows(&self, tensor: &GgufTensor, first: usize, out: &mut [f32]) -> Result<()> {
        let width = tensor.shape.last().copied().unwrap_or(1);
        let row = tensor.kind.size(&[width]).expect("a row is whole blocks");
        assert!(out.len().is_multiple_of(width.max(1)), "GgufFile: whole rows");
        let n = out.len() / width.max(1);
        let bytes = self.bytes(tensor);
        if tensor.kind.values(&bytes[first * row..][..n * row], out) {
            return Ok(());
        }
        let known: Vec<&str> = BlockType::read_names().collect();
        let what = format!("elements of type {}", tensor.kind.name);
        let remedy = format!("use a file with types of {} only", known.join(", "));
        Err(Error::input(self.path(), &tensor.name, what, remedy))
    }
}
