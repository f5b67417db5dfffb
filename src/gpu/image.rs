//! The machine code of a file for some types and a card: what the build embedded, else what NVRTC
//! makes of the text on first use, cached on disk.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::launch::File;
use super::nvrtc::{self, NamedText, Nvrtc};
use crate::base::{Error, Result};

/// Machine code for this card where there is some, else PTX, which the driver compiles.
pub fn arch(capability: (i32, i32)) -> &'static str {
    match capability {
        (8, _) => "sm_80",
        (9, 0) => "sm_90a",
        (10, 0) => "sm_100",
        (12, 0) => "sm_120",
        _ => "compute_80",
    }
}

/// The image of a file; PTX ends in a NUL.
///
/// # Errors
///
/// Neither an image nor a compiler; the compiler's.
pub fn image(file: &File, types: (&str, &str), arch: &str) -> Result<Cow<'static, [u8]>> {
    let of =
        |arch: &str| file.images.iter().find(|i| (i.elem, i.weight) == types && i.arch == arch);
    // PTX serves every card.
    match of(arch).or_else(|| of("compute_80")) {
        Some(image) => Ok(Cow::Borrowed(image.bytes)),
        None => compiled(file, types, arch, &cache()).map(Cow::Owned),
    }
}

/// Compiled by NVRTC, or read from `cache`.
///
/// # Errors
///
/// No compiler; the compiler's.
pub fn compiled(
    file: &File,
    (elem, weight): (&str, &str),
    arch: &str,
    cache: &Path,
) -> Result<Vec<u8>> {
    // Named by all that makes it.
    let mut hash = DefaultHasher::new();
    (file.text, file.headers, elem, weight, arch, nvrtc::PINNED).hash(&mut hash);
    let path = cache.join(format!("{}-{:016x}", file.name, hash.finish()));
    if let Ok(image) = fs::read(&path)
        && let Some((image, sum)) = image.split_last_chunk::<8>()
        && *sum == checksum(image)
    {
        return Ok(image.to_vec());
    }
    let remedy = "install nvidia-cuda-nvrtc-cu12 12.8 and name its folder in INCISE_NVRTC, or \
                  build the program where it is";
    let nvrtc = Nvrtc::find(Path::new(".")).map_err(|why| {
        Error::device(format!("kernels/{}.cu was not compiled: {why}", file.name), remedy)
    })?;
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let headers: Vec<NamedText> = file.headers.iter().map(owned).collect();
    let options = nvrtc::options(elem, weight);
    let image = nvrtc.compile(&format!("{}.cu", file.name), file.text, &headers, arch, &options);
    let image = image.map_err(|log| Error::refused(log, "correct the kernel"))?;
    // A cache that cannot be written costs time, not results.
    let _ = store(&path, &image);
    Ok(image)
}

/// Whole or not at all: another process may be writing the same.
fn store(path: &Path, image: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().expect("a file in a folder");
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(image)?;
    file.write_all(&checksum(image))?;
    file.persist(path)?;
    Ok(())
}

fn checksum(image: &[u8]) -> [u8; 8] {
    *blake3::hash(image).as_bytes().first_chunk().expect("32 bytes")
}

/// The folder of cached images.
fn cache() -> PathBuf {
    cache_folder().join("kernels")
}

/// What is kept from run to run: under `INCISE_CACHE`, else under the user's cache folder.
pub(super) fn cache_folder() -> PathBuf {
    let named =
        |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || Some(named("HOME")?.join(".cache"));
    let user = || Some(named("XDG_CACHE_HOME").or_else(home)?.join("incise"));
    named("INCISE_CACHE").or_else(user).unwrap_or_else(std::env::temp_dir)
}
