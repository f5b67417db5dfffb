//! Writing a safetensors file: the same content gives the same bytes, and a reader never sees half.
//!
//! Metadata keys are sorted; tensors lie from the widest element type to the narrowest, then by
//! name; the header is padded with spaces to a multiple of 8. So every tensor starts at a multiple
//! of its element's size, counted from the start of the file.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::NamedTempFile;

use super::header;
use crate::base::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!(
    "safetensors files are little-endian, and incise writes numbers as they lie in memory"
);

/// Bytes collected before they go to the system.
const BUFFER: usize = 1 << 20;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// The name of its element type in the format, one that [`header::bits`] knows.
    pub dtype: &'static str,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
}

/// Writes item i's bytes, little-endian and row-major, into the writer; as many as its shape says.
pub type Fill<'a> = dyn FnMut(usize, &mut dyn Write) -> io::Result<()> + 'a;

/// Writes the file at `path` through a temporary sibling: it appears whole, and replaces what was
/// there, or does not appear.
///
/// # Errors
///
/// What the system refuses, and two items of one name.
///
/// # Panics
///
/// Where `fill` writes more or fewer bytes than the item's shape says.
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    items: &[Item],
    fill: &mut Fill,
) -> Result<()> {
    unique(path, items)?;
    let failed = |e| Error::io(path, "write", e);
    let mut file = temporary(path)?;
    stream(file.as_file_mut(), metadata, items, fill).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    sync_dir(folder(path))
}

/// A temporary sibling of a file, readable by whom the system's mask says, as any new file.
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

/// Makes the names in a folder last through a power failure.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(dir, "sync", e))
}

/// Writes the bytes of such a file into `out`.
pub(crate) fn stream(
    out: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    items: &[Item],
    fill: &mut Fill,
) -> io::Result<()> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&i| (Reverse(header::bits(items[i].dtype)), &items[i].name));
    let mut out = BufWriter::with_capacity(BUFFER, out);
    out.write_all(&head(metadata, items, &order))?;
    for &i in &order {
        let mut counted = Counted { out: &mut out, bytes: 0 };
        fill(i, &mut counted)?;
        assert_eq!(counted.bytes, len(&items[i]), "{}: bytes written", items[i].name);
    }
    out.flush()
}

fn len(item: &Item) -> u64 {
    header::size(item.dtype, &item.shape).expect("a type of the format, and a size that exists")
}

/// The length word and the header.
fn head(metadata: &BTreeMap<String, String>, items: &[Item], order: &[usize]) -> Vec<u8> {
    let mut fields = Vec::new();
    if !metadata.is_empty() {
        fields.push(format!("\"__metadata__\":{}", json!(metadata)));
    }
    let mut at = 0;
    for item in order.iter().map(|&i| &items[i]) {
        let (name, end) = (json!(item.name), at + len(item));
        let (dtype, shape) = (item.dtype, json!(item.shape));
        fields.push(format!(
            "{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{at},{end}]}}"
        ));
        at = end;
    }
    let mut json = format!("{{{}}}", fields.join(",")).into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

fn unique(path: &Path, items: &[Item]) -> Result<()> {
    let mut names: Vec<_> = items.iter().map(|item| item.name.as_str()).collect();
    names.push("__metadata__");
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
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
