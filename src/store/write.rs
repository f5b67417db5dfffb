//! Writing a safetensors file: the same content gives the same bytes, and a reader never sees half.
//!
//! Metadata keys are sorted. The rest is as the format's own library lays it out: tensors from the
//! last element type of [`Dtype`]'s order, which is the widest, to the first, then by name; the
//! header padded with spaces to a multiple of 8. So every tensor starts at a multiple of its
//! element's size, counted from the start of the file.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::json;
use tempfile::NamedTempFile;

use super::header::{METADATA, size};
use crate::base::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!(
    "safetensors files are little-endian, and incise writes numbers as they are in memory"
);

/// Bytes collected before they go to the system.
const BUFFER: usize = 1 << 20;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
}

/// Writes item i's bytes, little-endian and row-major, into the writer; as many as its shape has.
pub type WriteItem<'a> = dyn FnMut(usize, &mut dyn Write) -> io::Result<()> + 'a;

/// Writes the file at `path` through a temporary sibling: it appears whole, and replaces what was
/// there, or does not appear.
///
/// # Errors
///
/// What the system refuses, and two items of one name.
///
/// # Panics
///
/// Where `write_item` writes more or fewer bytes than the item's shape has.
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    items: &[Item],
    write_item: &mut WriteItem,
) -> Result<()> {
    unique(path, items)?;
    let failed = |e| Error::io(path, "write", e);
    let mut file = temporary(path)?;
    write_to(file.as_file_mut(), metadata, items, write_item).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    sync_dir(folder(path))
}

/// Writes bytes to the file at `path`, which appears whole or not at all.
///
/// # Errors
///
/// What the system refuses.
pub fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io(path, "write", e);
    let mut file = temporary(path)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// A temporary sibling of a file, with the permissions of any new file.
///
/// # Errors
///
/// What the system refuses.
pub fn temporary(path: &Path) -> Result<NamedTempFile> {
    let dir = folder(path);
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(|e| Error::io(dir, "make a file in", e))
}

/// The folder a file is in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A file or folder beside another, its name longer by `ending`.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Whether this names a file directly in a folder, and nothing outside it.
pub fn is_name(file: &str) -> bool {
    Path::new(file).file_name().is_some_and(|last| last == file)
}

/// Makes the names in a folder last through a power failure.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(dir, "sync", e))
}

/// Writes the bytes of such a file into `out`.
pub(crate) fn write_to(
    out: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    items: &[Item],
    write_item: &mut WriteItem,
) -> io::Result<()> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&i| (Reverse(items[i].dtype), &items[i].name));
    let layout = layout(items, &order);
    let mut out = BufWriter::with_capacity(BUFFER, out);
    out.write_all(&header(metadata, &layout))?;
    for &i in &order {
        let name = &items[i].name;
        let (begin, end) = layout.info(name).expect("one of the items").data_offsets;
        let mut counted = Counted { out: &mut out, bytes: 0 };
        write_item(i, &mut counted)?;
        assert_eq!(counted.bytes, end - begin, "{name}: bytes written");
    }
    out.flush()
}

/// The items end to end in that order.
fn layout(items: &[Item], order: &[usize]) -> Metadata {
    let mut begin = 0;
    let mut tensors = Vec::with_capacity(order.len());
    for &i in order {
        let Item { name, dtype, shape } = items[i].clone();
        let end = begin + size(dtype, &shape).expect("a size that exists, in whole bytes");
        tensors.push((name, TensorInfo { dtype, shape, data_offsets: (begin, end) }));
        begin = end;
    }
    Metadata::new(None, tensors).expect("tensors end to end, each of its size")
}

/// The length word and the header.
fn header(metadata: &BTreeMap<String, String>, layout: &Metadata) -> Vec<u8> {
    let mut json = serde_json::to_string(layout).expect("strings and numbers");
    if !metadata.is_empty() {
        // Ours, because the library writes the keys in the order of a hash map.
        let comma = if json == "{}" { "" } else { "," };
        json.insert_str(1, &format!("\"{METADATA}\":{}{comma}", json!(metadata)));
    }
    let mut json = json.into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

fn unique(path: &Path, items: &[Item]) -> Result<()> {
    let mut names: Vec<_> = items.iter().map(|item| item.name.as_str()).collect();
    names.push(METADATA);
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            Err(Error::input(path, pair[0], "two tensors of this name", "rename one of them"))
        }
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
