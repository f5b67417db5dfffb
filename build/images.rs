//! Machine code and PTX of the kernels, compiled once a checkout.
//!
//! ```text
//! .build/images/<name>-<hash>    what NVRTC made, for all profiles, features and targets
//! OUT_DIR/<name>-<hash>          a copy, which kernels.rs embeds
//! ```
//!
//! A hash names all that makes an image, so a file under its name need not be made again. Where the
//! source is no checkout (a package is not to be written to) or is read-only, OUT_DIR alone keeps
//! them.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, process, thread};

use super::kernel::Source;
use super::nvrtc::{self, NamedText, Nvrtc};

/// One compilation.
pub struct Job {
    /// Of the source, in the list of sources.
    pub source: usize,
    /// The types `elem` and `weight` stand for.
    pub types: (String, String),
    /// For what.
    pub arch: &'static str,
    /// Where the result lies.
    pub path: PathBuf,
}

/// What is compiled of some sources for some devices into a folder.
pub fn jobs(
    sources: &[Source],
    texts: &[NamedText],
    headers: &[NamedText],
    arches: &[&'static str],
    out: &Path,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        for (elem, weight) in source.variants() {
            for &arch in arches {
                let mut hash = DefaultHasher::new();
                (&texts[i], headers, elem, weight, arch, nvrtc::PINNED).hash(&mut hash);
                let path = out.join(format!("{}-{:016x}", source.name, hash.finish()));
                jobs.push(Job { source: i, types: (elem.into(), weight.into()), arch, path });
            }
        }
    }
    jobs
}

/// The folder that a checkout keeps images in.
pub fn cache(root: &Path) -> Option<PathBuf> {
    let cache = root.join(".build/images");
    let is_checkout = root.join(".git").exists();
    (is_checkout && fs::create_dir_all(&cache).is_ok()).then_some(cache)
}

/// Makes what is not there yet, on all cores.
pub fn make(
    nvrtc: &Nvrtc,
    jobs: &[Job],
    texts: &[NamedText],
    headers: &[NamedText],
    cache: Option<&Path>,
) -> Result<(), String> {
    let todo = Mutex::new(jobs.iter().filter(|job| !job.path.exists()));
    let worker = || {
        loop {
            let Some(job) = todo.lock().expect("no worker panics").next() else { return Ok(()) };
            let name = job.path.file_name().expect("a file of OUT_DIR");
            let cached = cache.map(|cache| cache.join(name));
            if let Some(image) = cached.as_ref().and_then(|path| fs::read(path).ok()) {
                put(&job.path, &image)?;
                continue;
            }
            let (name, text) = &texts[job.source];
            let name = format!("kernels/{name}");
            let options = nvrtc::options(&job.types.0, &job.types.1);
            let image = nvrtc.compile(&name, text, headers, job.arch, &options);
            let image = image.map_err(|log| format!("{log}\n{name} for {}", job.arch))?;
            put(&job.path, &image)?;
            if let Some(path) = cached {
                // Without it the next build compiles again, and that is all.
                let _ = put(&path, &image);
            }
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no worker panics"))
    })
}

/// Writes a file that is there whole or not at all: another build may read it meanwhile.
fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let part = path.with_extension(process::id().to_string());
    let put = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    put.map_err(|e| format!("{}: {e}", path.display()))
}
