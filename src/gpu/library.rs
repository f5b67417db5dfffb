//! NVIDIA's libraries, which are used where they are: cuBLASLt ([`super::blaslt`]) for products,
//! cuSOLVER ([`super::solver`]) for factors. Nothing needs them.
//!
//! Looked for by the loader, in a CUDA toolkit and in the wheels of a Python environment, those of
//! CUDA 13 where the driver serves it, else those of CUDA 12. They are opened here, what they need
//! before them, and their functions are taken one by one under their own names. A function that is
//! missing is an error here, where cudarc would panic.

use std::error::Error as _;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::nvrtc::places;
use crate::base::{Error, Result as Outcome};

/// Set to `off`, it leaves all of them alone.
pub const SWITCH: &str = "INCISE_LIBRARIES";

/// A library that is looked for.
pub struct Wanted {
    /// "cuBLASLt".
    pub name: &'static str,
    /// The function that tells its version.
    property: &'static str,
    /// Its file, after those of the libraries that it needs, by CUDA release.
    files: [(i32, &'static [&'static str]); 2],
}

/// Products.
pub const BLASLT: Wanted = Wanted {
    name: "cuBLASLt",
    property: "cublasLtGetProperty",
    files: [(13, &["libcublasLt.so.13"]), (12, &["libcublasLt.so.12"])],
};

/// Factors. Its own numbers are one behind those of CUDA.
pub const SOLVER: Wanted = Wanted {
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

/// Where wheels have their libraries: all of CUDA 13 in one folder, of CUDA 12 a folder each.
const WHEELS: [&str; 5] = [
    "nvidia/cu13/lib",
    "nvidia/cublas/lib",
    "nvidia/nvjitlink/lib",
    "nvidia/cusparse/lib",
    "nvidia/cusolver/lib",
];

/// A library that was found. It is not closed again: it may have left work for the program's end.
pub struct Found {
    /// "cuBLASLt 12.8.4".
    pub title: String,
    /// Its file.
    pub path: String,
    library: ManuallyDrop<Library>,
}

/// Looks for a library that a driver for CUDA `serves` (12080 is 12.8) can run; `Err` says why
/// there is none. Never panics.
pub fn find(wanted: &Wanted, serves: i32) -> Result<Found, String> {
    match std::env::var_os(SWITCH) {
        None => find_in(wanted, serves, &places(Vec::new(), &WHEELS)),
        Some(value) if value == "off" => Err(format!("left alone, by {SWITCH}=off")),
        Some(value) => Err(format!("left alone: {SWITCH} is {value:?}; say off, or unset it")),
    }
}

/// As [`find`], in some folders after the loader's.
pub fn find_in(wanted: &Wanted, serves: i32, places: &[PathBuf]) -> Result<Found, String> {
    let mut why = Vec::new();
    for (_, files) in wanted.files.iter().filter(|(release, _)| *release <= serves / 1000) {
        match Found::open(wanted, files, places) {
            Ok(found) => return Ok(found),
            Err(e) => why.push(e),
        }
    }
    if why.is_empty() {
        why.push(format!("the driver serves CUDA {}; 12 or later is needed", serves / 1000));
    }
    Err(why.join("; "))
}

impl Found {
    fn open(wanted: &Wanted, files: &[&str], places: &[PathBuf]) -> Result<Found, String> {
        let (file, needed) = files.split_last().expect("a file of its own");
        // What a wheel needs lies in other folders than the loader knows. Where one is not found,
        // the loader may still do without.
        let _needed: Vec<_> = needed.iter().filter_map(|file| open(file, places).ok()).collect();
        let library = open(file, places)?;
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

    /// What it did not do.
    pub(super) fn refused(&self, why: impl std::fmt::Display) -> Error {
        let what = format!("{} ({}): {why}", self.title, self.path);
        Error::device(what, "mend it, or leave it alone by INCISE_LIBRARIES=off")
    }

    /// Says so where a status is not 0.
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
        function.map(|f| *f).map_err(said)
    }
}

/// By the loader, else from the first folder that has it.
fn open(file: &str, places: &[PathBuf]) -> Result<ManuallyDrop<Library>, String> {
    // SAFETY: NVIDIA's libraries; their initialisers have no demands.
    let load = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let mut why = format!("{file} was not found");
    let there = places.iter().map(|dir| dir.join(file)).filter(|path| path.exists());
    for path in std::iter::once(file.into()).chain(there) {
        match load(&path) {
            Ok(library) => return Ok(ManuallyDrop::new(library)),
            Err(e) if path.is_absolute() => why = said(e),
            Err(_) => {}
        }
    }
    Err(why)
}

/// What the loader said: the error alone tells only which call it was.
fn said(e: libloading::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}

/// The file that is in memory under a name, as the system tells it.
fn loaded(file: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains(file))?;
    Some(line[line.find('/')?..].to_owned())
}

/// A struct of the functions that are used of a library, by their own names, and its `of`, which
/// takes them from it. All return a status, which is 0 where all is well.
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
