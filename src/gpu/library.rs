//! NVIDIA's libraries, used if found: cuBLASLt ([`super::blaslt`]) for matrix products, cuSOLVER
//! ([`super::cusolver`]) for Cholesky factors. Nothing needs them.
//!
//! They are searched for by the loader, in a CUDA toolkit and in the wheels of a Python
//! environment: those of CUDA 13 where the driver supports it, else those of CUDA 12. They are
//! opened here, their dependencies first, and their functions are looked up one by one. A missing
//! function is an error here, where cudarc would panic.

use std::error::Error as _;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::nvrtc::library_folders;
use crate::base::{Error, Result as Outcome};

/// `off` disables all of them.
pub const SWITCH: &str = "INCISE_LIBRARIES";

/// A library to search for.
pub struct VendorLibrary {
    /// "cuBLASLt".
    pub name: &'static str,
    /// The function that gives its version.
    property: &'static str,
    /// Its file, after those of its dependencies, by CUDA release.
    files: [(i32, &'static [&'static str]); 2],
}

/// Matrix products.
pub const BLASLT: VendorLibrary = VendorLibrary {
    name: "cuBLASLt",
    property: "cublasLtGetProperty",
    files: [(13, &["libcublasLt.so.13"]), (12, &["libcublasLt.so.12"])],
};

/// Cholesky factors. Its version numbers are one behind those of CUDA.
pub const CUSOLVER: VendorLibrary = VendorLibrary {
    name: "cuSOLVER",
    property: "cusolverGetProperty",
    files: [
        (
            13,
            &[
                "libcublasLt.so.13",
                "libcublas.so.13",
                "libnvJitLink.so.13",
                "libcusparse.so.12",
                "libcusolver.so.12",
            ],
        ),
        (
            12,
            &[
                "libcublasLt.so.12",
                "libcublas.so.12",
                "libnvJitLink.so.12",
                "libcusparse.so.12",
                "libcusolver.so.11",
            ],
        ),
    ],
};

/// Folders of wheels: one for all libraries of CUDA 13, one each for those of CUDA 12.
const WHEELS: [&str; 5] = [
    "nvidia/cu13/lib",
    "nvidia/cublas/lib",
    "nvidia/nvjitlink/lib",
    "nvidia/cusparse/lib",
    "nvidia/cusolver/lib",
];

/// A library on a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryState {
    /// "cuBLASLt".
    pub name: &'static str,
    /// "cuBLASLt 12.8.4", which the card uses; or why it goes on without.
    pub title: Result<String, Unused>,
}

/// Why a card goes on without a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// In a sentence.
    pub why: String,
    /// Whether it is there, and does not start.
    pub refused: bool,
}

/// Starts a library that was found, or not. One that does not start is none: whoever wanted it goes
/// on without.
pub fn start<T>(
    found: Result<Found, String>,
    open: impl FnOnce(Found) -> Outcome<T>,
) -> Result<T, Unused> {
    let found = found.map_err(|why| Unused { why, refused: false })?;
    open(found).map_err(|e| Unused { why: e.line(), refused: true })
}

/// A library that was found. It is never closed: it may have registered exit handlers.
pub struct Found {
    /// "cuBLASLt 12.8.4".
    pub title: String,
    /// Its file.
    pub path: String,
    library: ManuallyDrop<Library>,
}

/// Searches for a library that a driver of a CUDA version (12080 is 12.8) can run; `Err` says why
/// there is none. Never panics.
pub fn find(library: &VendorLibrary, cuda_version: i32) -> Result<Found, String> {
    match std::env::var_os(SWITCH) {
        None => find_in(library, cuda_version, &library_folders(Vec::new(), &WHEELS)),
        Some(value) if value == "off" => Err(format!("disabled by {SWITCH}=off")),
        Some(value) => Err(format!("disabled: {SWITCH} is {value:?}; set it to off, or unset it")),
    }
}

/// As [`find`], in some folders after the loader's.
pub fn find_in(
    library: &VendorLibrary,
    cuda_version: i32,
    folders: &[PathBuf],
) -> Result<Found, String> {
    let newest = cuda_version / 1000;
    let mut why = Vec::new();
    for (_, files) in library.files.iter().filter(|(release, _)| *release <= newest) {
        match Found::open(library, files, folders) {
            Ok(found) => return Ok(found),
            Err(e) => why.push(e),
        }
    }
    if why.is_empty() {
        why.push(format!("the driver supports CUDA {newest}; 12 or later is needed"));
    }
    Err(why.join("; "))
}

impl Found {
    fn open(wanted: &VendorLibrary, files: &[&str], folders: &[PathBuf]) -> Result<Found, String> {
        let (file, dependencies) = files.split_last().expect("a file of its own");
        // A wheel's dependencies are in folders that the loader does not know. Where one is not
        // found, the loader may still find it.
        let _open: Vec<_> =
            dependencies.iter().filter_map(|file| open(file, folders).ok()).collect();
        let library = open(file, folders)?;
        let mut found = Found { title: String::new(), path: String::new(), library };
        // SAFETY: cublasLtGetProperty and cusolverGetProperty have this signature.
        let property: unsafe extern "C" fn(c_int, *mut c_int) -> c_int =
            unsafe { found.function(wanted.property) }?;
        let [major, minor, patch] = [0, 1, 2].map(|which| {
            let mut number = -1;
            // SAFETY: an integer to write to.
            unsafe { property(which, &mut number) };
            number
        });
        found.title = format!("{} {major}.{minor}.{patch}", wanted.name);
        found.path = loaded(file).unwrap_or_else(|| (*file).to_owned());
        Ok(found)
    }

    /// An error of the library.
    pub(super) fn refused(&self, why: impl std::fmt::Display) -> Error {
        let what = format!("{} ({}): {why}", self.title, self.path);
        Error::refused(what, "repair it, or disable it by INCISE_LIBRARIES=off")
    }

    /// A status other than 0 is an error.
    pub(super) fn check(&self, status: c_int) -> Outcome<()> {
        if status == 0 { Ok(()) } else { Err(self.refused(format!("status {status}"))) }
    }

    /// A function by its name.
    ///
    /// # Safety
    ///
    /// `F` is its signature.
    pub(super) unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, String> {
        // SAFETY: the caller's.
        let function = unsafe { self.library.get::<F>(name.as_bytes()) };
        function.map(|f| *f).map_err(reason)
    }
}

/// By the loader, else from the first folder that has it.
fn open(file: &str, folders: &[PathBuf]) -> Result<ManuallyDrop<Library>, String> {
    // SAFETY: NVIDIA's libraries; their initialisers have no demands.
    let load = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let mut why = format!("{file} was not found");
    let there = folders.iter().map(|dir| dir.join(file)).filter(|path| path.exists());
    for path in std::iter::once(file.into()).chain(there) {
        match load(&path) {
            Ok(library) => return Ok(ManuallyDrop::new(library)),
            Err(e) if path.is_absolute() => why = reason(e),
            Err(_) => {}
        }
    }
    Err(why)
}

/// What the loader reports: the error alone names only the call.
fn reason(e: libloading::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}

/// The path of a loaded library, from the system.
fn loaded(file: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains(file))?;
    Some(line[line.find('/')?..].to_owned())
}

/// A struct of the functions that are used of a library, under their own names, and `of`, which
/// looks them up. All return a status, which is 0 on success.
macro_rules! functions {
    ($name:ident { $($function:ident($($parameter:ty),* $(,)?);)+ }) => {
        #[allow(non_snake_case, reason = "the names are the library's")]
        struct $name {
            $($function: unsafe extern "C" fn($($parameter),*) -> std::ffi::c_int,)+
            found: $crate::gpu::library::Found,
        }

        impl $name {
            fn of(found: $crate::gpu::library::Found) -> $crate::base::Result<$name> {
                Ok($name {
                    // SAFETY: the signature is that of the library's header.
                    $($function: unsafe { found.function(stringify!($function)) }
                        .map_err(|why| found.refused(why))?,)+
                    found,
                })
            }
        }
    };
}
pub(super) use functions;
