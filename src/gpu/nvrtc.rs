//! NVRTC, loaded on demand: CUDA text in, PTX or a cubin out. The build uses this file too.
//!
//! It is searched for in `INCISE_NVRTC` (a folder), `.build/nvrtc` of the checkout, the CUDA
//! toolkit (`CUDA_HOME`, `CUDA_PATH`, /usr/local/cuda), Python environments, and the loader's path.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The release whose images the oldest supported drivers load.
pub const PINNED: (c_int, c_int) = (12, 8);

/// The compiler's options for what `elem` and `weight` stand for; the second may be empty.
pub fn options(elem: &str, weight: &str) -> Vec<String> {
    let word = |t: &str| if t == "f32" { "float".to_owned() } else { t.to_owned() };
    let mut options = vec!["--std=c++17".to_owned(), format!("-DELEM={}", word(elem))];
    if !weight.is_empty() {
        options.push(format!("-DWEIGHT={}", word(weight)));
    }
    options
}

type Program = *mut c_void;
type Code = c_int;

/// The library and the eight functions used of it.
pub struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log: Getter,
    ptx: Getter,
    cubin: Getter,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
    explain: unsafe extern "C" fn(Code) -> *const c_char,
    _libraries: [Option<Library>; 2],
}

struct Getter {
    size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    get: unsafe extern "C" fn(Program, *mut c_char) -> Code,
}

/// A file's name and its text.
pub type NamedText = (String, String);

impl Nvrtc {
    /// Searches everywhere; `Err` says that there is none, or why one that was found is not used.
    pub fn find(checkout: &Path) -> Result<Nvrtc, String> {
        let mut why = "NVRTC was not found".to_owned();
        let named = std::env::var_os("INCISE_NVRTC").map(PathBuf::from);
        let first = named.into_iter().chain([checkout.join(".build/nvrtc")]).collect();
        for dir in library_folders(first, &["nvidia/cuda_nvrtc/lib"]) {
            let Some(library) = newest(&dir, "libnvrtc.so") else { continue };
            match Nvrtc::load(&library, newest(&dir, "libnvrtc-builtins.so")) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(e) => why = format!("{}: {e}", library.display()),
            }
        }
        Err(why)
    }

    fn load(path: &Path, builtins: Option<PathBuf>) -> Result<Nvrtc, String> {
        let text = |e: libloading::Error| e.to_string();
        // SAFETY: NVIDIA's libraries; their initialisers have no demands.
        let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        // First its builtins: the loader does not know the wheel's folder.
        let builtins = builtins.map(|path| open(&path)).transpose().map_err(text)?;
        let library = open(path).map_err(text)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type is the function's signature in nvrtc.h.
                unsafe { *library.get($name).map_err(text)? }
            };
        }
        let nvrtc = Nvrtc {
            version: function!(b"nvrtcVersion\0"),
            create: function!(b"nvrtcCreateProgram\0"),
            compile: function!(b"nvrtcCompileProgram\0"),
            log: Getter {
                size: function!(b"nvrtcGetProgramLogSize\0"),
                get: function!(b"nvrtcGetProgramLog\0"),
            },
            ptx: Getter { size: function!(b"nvrtcGetPTXSize\0"), get: function!(b"nvrtcGetPTX\0") },
            cubin: Getter {
                size: function!(b"nvrtcGetCUBINSize\0"),
                get: function!(b"nvrtcGetCUBIN\0"),
            },
            destroy: function!(b"nvrtcDestroyProgram\0"),
            explain: function!(b"nvrtcGetErrorString\0"),
            _libraries: [Some(library), builtins],
        };
        match nvrtc.version() {
            PINNED => Ok(nvrtc),
            (major, minor) => {
                let (a, b) = PINNED;
                Err(format!("is version {major}.{minor}, and the build is pinned to {a}.{b}"))
            }
        }
    }

    /// Major and minor.
    pub fn version(&self) -> (c_int, c_int) {
        let mut major = 0;
        let mut minor = 0;
        // SAFETY: two integers to write to.
        unsafe { (self.version)(&mut major, &mut minor) };
        (major, minor)
    }

    /// Compiles a text for `compute_80` (gives PTX) or `sm_90a` (gives a cubin); `Err` is the
    /// compiler's log.
    pub fn compile(
        &self,
        name: &str,
        text: &str,
        headers: &[NamedText],
        arch: &str,
        options: &[String],
    ) -> Result<Vec<u8>, String> {
        let c = |s: &str| CString::new(s).expect("sources hold no NUL");
        let name = c(name);
        let text = c(text);
        let names: Vec<CString> = headers.iter().map(|h| c(&h.0)).collect();
        let texts: Vec<CString> = headers.iter().map(|h| c(&h.1)).collect();
        let arch_option = format!("--gpu-architecture={arch}");
        let options = options.iter().map(String::as_str).chain([arch_option.as_str()]);
        let options: Vec<CString> = options.map(c).collect();
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let names = pointers(&names);
        let texts = pointers(&texts);
        let options = pointers(&options);
        let mut program = null_mut();
        // SAFETY: every pointer is to a text that lives until the end of this function.
        let code = unsafe {
            (self.create)(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check(code)?;
        // SAFETY: the program was made just now.
        let code = unsafe { (self.compile)(program, options.len() as c_int, options.as_ptr()) };
        let image = if arch.starts_with("compute") { &self.ptx } else { &self.cubin };
        let made = match code {
            0 => self.get(program, image),
            _ => Err(self
                .get(program, &self.log)
                .map(|log| String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
                .unwrap_or_else(|e| e)),
        };
        // SAFETY: the program is not used again.
        unsafe { (self.destroy)(&mut program) };
        made
    }

    fn get(&self, program: Program, what: &Getter) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: a live program, and a number to write to.
        self.check(unsafe { (what.size)(program, &mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: as many bytes as the library needs.
        self.check(unsafe { (what.get)(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, code: Code) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: gives a text that lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.explain)(code)) };
        Err(text.to_string_lossy().into_owned())
    }
}

/// Folders that may hold a library of NVIDIA's: under `first`, of a CUDA toolkit, of a Python
/// environment that has `wheels`, of the loader's path.
pub fn library_folders(first: Vec<PathBuf>, wheels: &[&str]) -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut roots = first;
    roots.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| variable(name)));
    roots.push("/usr/local/cuda".into());
    roots.extend(["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name)));
    roots.extend(variable("HOME").map(|home| home.join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut folders = Vec::new();
    for root in roots {
        folders.extend(["", "lib64", "lib"].iter().chain(wheels).map(|inside| root.join(inside)));
        let inside = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
        let pythons = inside.filter(|dir| dir.file_name().to_string_lossy().starts_with("python"));
        for packages in pythons.map(|python| python.path()).flat_map(|python| {
            ["site-packages", "dist-packages"].map(|packages| python.join(packages))
        }) {
            folders.extend(wheels.iter().map(|wheel| packages.join(wheel)));
        }
    }
    let loader = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(loader.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from));
    folders.push("/usr/lib/x86_64-linux-gnu".into());
    folders
}

/// The file of that name, or of that name and a version, in a folder.
fn newest(dir: &Path, name: &str) -> Option<PathBuf> {
    let files = fs::read_dir(dir).ok()?.flatten().map(|file| file.path());
    let ours = |path: &PathBuf| {
        let file = path.file_name().and_then(|f| f.to_str()).unwrap_or_default();
        file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    files.filter(ours).max()
}
