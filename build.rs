//! Compiles the kernels, writes their launchers, and tells the program which commit it is of.
//!
//! ```text
//! kernels/*.cu ──► signatures ──► OUT_DIR/kernels.rs     a struct a kernel: its launch
//!           └──► NVRTC ──► .build/images ──► OUT_DIR      PTX and cubins, embedded by kernels.rs
//! ```
//!
//! Without NVRTC only the sources are embedded, and one line says so. `INCISE_NVRTC` names a folder
//! to look in first. `INCISE_ARCHES=compute_80` compiles for that alone, which takes
//! less time, while kernels are written; what a card lacks is compiled at first use.

#[path = "build/images.rs"]
mod images;
#[path = "build/kernel.rs"]
mod kernel;
#[path = "build/launch.rs"]
mod launch;
#[path = "src/gpu/nvrtc.rs"]
mod nvrtc;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use kernel::Source;
use nvrtc::{NamedText, Nvrtc};

/// What is compiled: PTX for cards to come, machine code for A100, Hopper, and
/// Blackwell in data centres and workstations.
const ARCHES: [&str; 5] = ["compute_80", "sm_80", "sm_90a", "sm_100", "sm_120"];

fn main() {
    commit();
    // A path that is missing would rerun this every time.
    for path in ["build", "kernels", "src/gpu", "src/ops", ".build/nvrtc"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-env-changed=INCISE_NVRTC");
    println!("cargo::rerun-if-env-changed=INCISE_ARCHES");
    println!("cargo::rustc-env=INCISE_SOURCES={:016x}", sources());
    if let Err(e) = kernels() {
        e.lines().for_each(|line| println!("cargo::error={line}"));
    }
}

fn commit() {
    // Where they lie in a work tree of its own, too.
    for path in git(&["--git-path", "HEAD", "--git-path", "refs/heads"]).lines() {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = git(&["--short=12", "HEAD"]);
    let commit = if commit.trim().is_empty() { "unknown" } else { commit.trim() };
    println!("cargo::rustc-env=INCISE_COMMIT={commit}");
}

/// A hash of the sources that launch kernels and ask a card what it computes.
fn sources() -> u64 {
    let mut folders = vec![PathBuf::from("src/gpu"), PathBuf::from("src/ops")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|f| f.path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash = DefaultHasher::new();
    files.iter().for_each(|path| fs::read(path).unwrap_or_default().hash(&mut hash));
    hash.finish()
}

/// What `git rev-parse` says; nothing outside a checkout.
fn git(asked: &[&str]) -> String {
    let said = Command::new("git").arg("rev-parse").args(asked).output();
    let said = said.ok().filter(|o| o.status.success()).map(|o| o.stdout).unwrap_or_default();
    String::from_utf8(said).unwrap_or_default()
}

fn kernels() -> Result<(), String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let texts = read(&root.join("kernels"), "cu")?;
    let headers = read(&root.join("kernels"), "cuh")?;
    let parse = |(name, text): &NamedText| Source::parse(&format!("kernels/{name}"), text);
    let sources: Vec<Source> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    let jobs = match Nvrtc::find(&root) {
        Ok(nvrtc) => {
            let jobs = images::jobs(&sources, &texts, &headers, &arches()?, &out);
            let cache = images::cache(&root);
            images::make(&nvrtc, &jobs, &texts, &headers, cache.as_deref())?;
            jobs
        }
        Err(why) => {
            println!("cargo::warning=kernels are not compiled: {why}");
            Vec::new()
        }
    };
    let written = launch::rust(&sources, &jobs, &texts, &headers);
    fs::write(out.join("kernels.rs"), written).map_err(|e| format!("kernels.rs: {e}"))
}

/// Files of an ending, by name.
fn read(dir: &Path, ending: &str) -> Result<Vec<NamedText>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == ending) {
            let name = path.file_name().expect("a file of a folder").to_string_lossy();
            files.push((name.into_owned(), fs::read_to_string(&path).map_err(failed)?));
        }
    }
    files.sort();
    Ok(files)
}

/// Those of [`ARCHES`] that `INCISE_ARCHES` names; all where it is not set.
fn arches() -> Result<Vec<&'static str>, String> {
    let Ok(named) = env::var("INCISE_ARCHES") else { return Ok(ARCHES.to_vec()) };
    let known = |name: &str| ARCHES.into_iter().find(|arch| *arch == name);
    let all: Option<Vec<_>> = named.split_whitespace().map(known).collect();
    all.ok_or_else(|| format!("INCISE_ARCHES={named}: name some of {}", ARCHES.join(" ")))
}
