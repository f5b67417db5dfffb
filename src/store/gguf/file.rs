//! One mapped GGUF file.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::block_types::{BlockType, Content};
use super::header::{GgufHeader, GgufTensor, MAGIC};
use crate::base::file::open_file;
use crate::base::{Error, Result};
use crate::store::mapped::{Bytes, MappedFile};

/// Whether a path names a file that begins as this format does.
pub fn is_gguf(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = open_file(path).is_ok_and(|mut file| file.read_exact(&mut head).is_ok());
    read && head == *MAGIC
}

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
        self.check_read(tensor)?;
        tensor.kind.values(&bytes[first * row..][..n * row], out);
        Ok(())
    }

    /// Refuses a tensor of a type that is not read.
    ///
    /// # Errors
    ///
    /// Such a type, with those that are.
    pub fn check_read(&self, tensor: &GgufTensor) -> Result<()> {
        if !matches!(tensor.kind.content, Content::Other) {
            return Ok(());
        }
        let known: Vec<&str> = BlockType::read_names().collect();
        let what = format!("elements of type {}", tensor.kind.name);
        let remedy = format!("use a file with types of {} only", known.join(", "));
        Err(Error::input(self.path(), &tensor.name, what, remedy))
    }
}
