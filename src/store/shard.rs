//! One mapped safetensors file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::header::Header;
use super::mapped::{Bytes, MappedFile, Stamp};
use crate::base::Result;

/// One mapped safetensors file.
pub struct Shard {
    file: Arc<MappedFile>,
    header: Header,
}

impl Shard {
    /// Maps the file and reads its header; no weight is touched.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, or whose header [`Header::parse`] refuses.
    pub fn open(path: &Path) -> Result<Arc<Shard>> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(path, file.all())?;
        Ok(Arc::new(Shard { file, header }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its tensors and metadata.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the file looked like when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.file.stamp()
    }

    /// An error if another program has written the file since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.file.unchanged()
    }

    /// Some of the file's bytes, which stay mapped while the handle lives.
    ///
    /// # Panics
    ///
    /// Where `range` is not inside the file; an [`Entry`](super::header::Entry)'s always is.
    pub fn bytes(&self, range: &Range<u64>) -> Bytes {
        self.file.bytes(range)
    }
}
