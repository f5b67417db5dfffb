//! A copy of a GGUF file in which some tensors have other types.
//!
//! What precedes the tensors' descriptions stays byte for byte. The descriptions name the new types
//! and places; the data follow end to end, as [`header`](super::header) has it.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::block_types::BlockType;
use super::file::GgufFile;
use super::header::GgufTensor;
use crate::base::{Error, Result};
use crate::store::write;

/// A type, and blocks of it.
pub type Blocks = (&'static BlockType, Vec<u8>);

/// Writes a copy of a file with other blocks for some of its tensors, by their names: whole or not
/// at all.
///
/// # Errors
///
/// What the system refuses.
///
/// # Panics
///
/// Where blocks are not as many as their tensor's shape asks for.
pub fn rewrite(file: &GgufFile, others: &BTreeMap<String, Blocks>, out: &Path) -> Result<()> {
    let failed = |e| Error::io(out, "write", e);
    let mut made = write::temporary(out)?;
    let written = put(file, others, &mut BufWriter::new(made.as_file_mut()));
    written.map_err(failed)?;
    made.as_file().sync_all().map_err(failed)?;
    made.persist(out).map_err(|e| failed(e.error))?;
    write::sync_dir(write::folder(out))
}

fn put(file: &GgufFile, others: &BTreeMap<String, Blocks>, out: &mut dyn Write) -> io::Result<()> {
    let header = file.header();
    let kind = |tensor: &GgufTensor| match others.get(&tensor.name) {
        Some((kind, blocks)) => {
            let size = kind.size(&tensor.shape);
            assert_eq!(size, Some(blocks.len()), "rewrite: blocks of {}", tensor.name);
            *kind
        }
        None => tensor.kind,
    };
    let alignment = header.alignment as usize;
    let mut head = file.mapped().all()[..header.pairs.end as usize].to_vec();
    let mut begin = 0u64;
    for tensor in &header.tensors {
        let kind = kind(tensor);
        head.extend((tensor.name.len() as u64).to_le_bytes());
        head.extend(tensor.name.as_bytes());
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for &size in tensor.shape.iter().rev() {
            head.extend((size as u64).to_le_bytes());
        }
        head.extend(kind.id.to_le_bytes());
        head.extend(begin.to_le_bytes());
        let size = kind.size(&tensor.shape).expect("whole blocks");
        begin += size.next_multiple_of(alignment) as u64;
    }
    head.resize(head.len().next_multiple_of(alignment), 0);
    out.write_all(&head)?;
    for tensor in &header.tensors {
        let own = file.bytes(tensor);
        let blocks = others.get(&tensor.name).map_or(&own[..], |(_, blocks)| blocks);
        out.write_all(blocks)?;
        let end = blocks.len().next_multiple_of(alignment) - blocks.len();
        out.write_all(&vec![0; end])?;
    }
    out.flush()
}
