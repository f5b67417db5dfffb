//! Executables of kernels for the host, made where something changed.
//!
//! ```text
//! plain      the sources, by the system's C++ compiler
//! address    … under AddressSanitizer and UndefinedBehaviorSanitizer
//! thread     … under ThreadSanitizer, which takes every CUDA thread for a thread
//! ptx        what NVRTC makes of them for a Hopper card, as C++ (`ptx/`)
//! ```
//!
//! Objects and executables are named by a hash of all that makes them, so what lies there from
//! another run of the tests need not be made again.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fs, io, thread};

use incise::gpu::nvrtc::{self, NamedText, Nvrtc};
use incise::gpu::twin::symbol;

#[path = "../../build/images.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod images;
#[path = "../../build/kernel.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
pub mod kernel;

use super::ptx;
use kernel::{Parameter, ParameterKind, Source};

type Flags = &'static [&'static str];

/// How an executable is made: its name, and the compiler's flags.
pub const BUILDS: [(&str, Flags); 4] = [
    ("plain", &["-O2"]),
    ("address", &["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
    ("thread", &["-O1", "-fsanitize=thread"]),
    (PTX, &["-O1", "-g0", "-ffp-contract=off", "-Wno-overflow"]),
];

/// The build of compiled kernels.
pub const PTX: &str = "ptx";
/// What it is compiled for: the virtual card that `sm_90a` images are of.
const ARCH: &str = "compute_90a";

/// Files of kernels, and the headers that they may include.
#[derive(Clone)]
pub struct Texts {
    pub files: Vec<NamedText>,
    pub headers: Vec<NamedText>,
}

/// An executable, and what it was linked of.
#[derive(Clone)]
pub struct Program {
    pub build: &'static str,
    pub path: PathBuf,
    /// By the names of their units, `norm.bf16` or `simt.cpp`.
    objects: Vec<(String, PathBuf)>,
}

/// A translation unit.
#[derive(Clone)]
struct Unit {
    name: String,
    /// All of it but the headers.
    text: String,
    path: PathBuf,
    /// Besides the build's.
    flags: Flags,
}

/// Executables of all kernels of some files, one a build, those of the sources first. An error says
/// what is missing; without NVRTC it comes with the others.
pub fn make(name: &str, texts: &Texts) -> (Vec<Program>, Option<String>) {
    if let Err(missing) = compiler() {
        return (Vec::new(), Some(missing));
    }
    let dir = twins().join(name);
    let written = BUILDS.iter().map(|(build, _)| units(&dir, build, texts, |_| true));
    let (mut ready, mut missing) = (Vec::new(), None);
    for ((build, _), units) in BUILDS.iter().zip(written) {
        match units {
            Ok(units) => ready.push((*build, [support(build), units].concat())),
            Err(why) => missing = Some(why),
        }
    }
    let objects = compile(texts, &ready);
    let programs =
        ready.iter().zip(objects).map(|((build, _), objects)| link(&dir, build, objects));
    (programs.collect(), missing)
}

/// An executable with one unit in the place of that of its name, made of other texts.
pub fn with_unit(program: &Program, name: &str, unit: &str, texts: &Texts) -> Program {
    let dir = twins().join(name);
    let made = one_unit(&dir, program.build, unit, texts, &[]);
    let mut objects = program.objects.clone();
    *objects.iter_mut().find(|(name, _)| name == unit).unwrap() = made;
    link(&dir, program.build, objects)
}

/// An executable of one unit, made in the least time: not optimised, with what runs it.
pub fn of_unit(program: &Program, name: &str, unit: &str, texts: &Texts) -> Program {
    let dir = twins().join(name);
    let mut objects = program.objects.clone();
    objects.retain(|(name, _)| SUPPORT.contains(&name.as_str()));
    objects.push(one_unit(&dir, program.build, unit, texts, &["-O0", "-g0"]));
    link(&dir, program.build, objects)
}

/// The object of the unit of a name.
fn one_unit(
    dir: &Path,
    build: &'static str,
    unit: &str,
    texts: &Texts,
    flags: Flags,
) -> (String, PathBuf) {
    let mut units = units(dir, build, texts, |name| name == unit).unwrap();
    assert_eq!(units.len(), 1, "{}: the unit {unit}", dir.display());
    units[0].flags = flags;
    compile(texts, &[(build, units)]).remove(0).remove(0)
}

/// An executable of the kernels of a text of PTX, of one type. None without a compiler.
pub fn of_ptx(file: &str, elem: &str, text: &str) -> Option<Program> {
    compiler().ok()?;
    let dir = twins().join(file);
    fs::create_dir_all(&dir).unwrap();
    let from = dir.join(format!("{file}.ptx"));
    fs::write(&from, text).unwrap();
    let text = ptx::unit(file, elem, "", text, &from.display().to_string()).unwrap();
    let path = dir.join(format!("{file}.{PTX}.cpp"));
    fs::write(&path, &text).unwrap();
    let unit = Unit { name: format!("{file}.{elem}"), text, path, flags: &[] };
    let texts = Texts { files: Vec::new(), headers: Vec::new() };
    let units = [support(PTX), vec![unit]].concat();
    Some(link(&dir, PTX, compile(&texts, &[(PTX, units)]).remove(0)))
}

/// What the C++ compiler says it is.
fn compiler() -> Result<Vec<u8>, String> {
    let said = Command::new("c++").arg("--version").output();
    said.map(|out| out.stdout).map_err(|_| "there is no C++ compiler (c++)".to_owned())
}

fn twins() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("twin")
}

fn kernels_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

const SUPPORT: [&str; 4] = ["simt.cpp", "memory.cpp", "main.cpp", "ptx.cpp"];

/// What runs kernels.
fn support(build: &str) -> Vec<Unit> {
    let used = SUPPORT.into_iter().filter(|file| *file != "ptx.cpp" || build == PTX);
    let unit = |file: &str| {
        let path = kernels_dir().join("host").join(file);
        let text = fs::read_to_string(&path).unwrap();
        // These are few, and what runs most.
        let flags: Flags = if build == PTX { &["-O2", "-ftree-vectorize"] } else { &[] };
        Unit { name: file.to_owned(), text, path, flags }
    };
    used.map(unit).collect()
}

/// Writes the units of a build whose name is wanted.
fn units(
    dir: &Path,
    build: &str,
    texts: &Texts,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Unit>, String> {
    fs::create_dir_all(dir).unwrap();
    let parse = |(name, text): &NamedText| Source::parse(name, text).unwrap();
    let sources: Vec<Source> = texts.files.iter().map(parse).collect();
    let unit_name = |source: &Source, elem: &str, weight: &str| {
        let name = symbol(&source.name, elem, weight, "");
        name.trim_end_matches('.').to_owned()
    };
    let mut units = Vec::new();
    let mut add = |name: String, text: String| {
        let path = dir.join(format!("{name}.{build}.cpp"));
        fs::write(&path, &text).unwrap();
        units.push(Unit { name, text, path, flags: &[] });
    };
    if build != PTX {
        for (name, text) in texts.headers.iter().chain(&texts.files) {
            fs::write(dir.join(name), text).unwrap();
        }
        for (source, (name, text)) in sources.iter().zip(&texts.files) {
            for (elem, weight) in source.variants() {
                let unit = unit_name(source, elem, weight);
                if wanted(&unit) {
                    let of = translation_unit(source, &dir.join(name), elem, weight);
                    // The text is part of what names the object.
                    add(unit, format!("{of}/*\n{text}*/\n"));
                }
            }
        }
        return Ok(units);
    }
    let nvrtc = Nvrtc::find(&super::root())?;
    let mut jobs = images::jobs(&sources, &texts.files, &texts.headers, &[ARCH], dir);
    jobs.retain(|job| wanted(&unit_name(&sources[job.source], &job.types.0, &job.types.1)));
    let cache = images::cache(&super::root());
    images::make(&nvrtc, &jobs, &texts.files, &texts.headers, cache.as_deref()).unwrap();
    for job in jobs {
        let (source, (elem, weight)) = (&sources[job.source], &job.types);
        let unit = unit_name(source, elem, weight);
        let text = fs::read_to_string(&job.path).unwrap();
        // Under a name that a message can be looked up by.
        let path = dir.join(format!("{unit}.ptx"));
        fs::write(&path, text.trim_end_matches('\0')).unwrap();
        let path = path.display().to_string();
        let written = ptx::unit(&source.name, elem, weight, &text, &path);
        add(unit, written.unwrap_or_else(|e| panic!("{e}")));
    }
    Ok(units)
}

/// Objects of units by build, on all cores.
fn compile(texts: &Texts, builds: &[(&'static str, Vec<Unit>)]) -> Vec<Vec<(String, PathBuf)>> {
    let objects = twins().join("objects");
    fs::create_dir_all(&objects).unwrap();
    let made_by = compiler().unwrap();
    let mut jobs = Vec::new();
    for (build, units) in builds {
        let flags = flags(build);
        // Sources include theirs, and compiled kernels ptx.h.
        let mut included = headers(&kernels_dir().join("host"), *build == PTX);
        included.extend(texts.headers.iter().filter(|_| *build != PTX).cloned());
        for unit in units {
            let flags = [&flags[..], unit.flags].concat();
            let made_of = hash((&made_by, &included, &unit.text, &flags));
            let object = objects.join(format!("{}.{build}-{made_of:016x}.o", unit.name));
            jobs.push((flags, unit, object));
        }
    }
    let mut todo: Vec<_> = jobs.iter().filter(|(_, _, object)| !object.exists()).collect();
    // The longest first, so that none is left to one core at the end.
    todo.sort_by_key(|(_, unit, _)| unit.text.len());
    let todo = Mutex::new(todo);
    let compile = || {
        while let Some((flags, unit, object)) = { todo.lock().unwrap().pop() } {
            cxx(flags, &[OsStr::new("-c"), unit.path.as_os_str()], object);
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(compile)).collect();
        workers.into_iter().for_each(|w| w.join().unwrap_or_else(|p| resume_unwind(p)));
    });
    let mut made = jobs.into_iter().map(|(_, unit, object)| (unit.name.clone(), object));
    builds.iter().map(|(_, units)| made.by_ref().take(units.len()).collect()).collect()
}

fn link(dir: &Path, build: &'static str, objects: Vec<(String, PathBuf)>) -> Program {
    let files: Vec<&OsStr> = objects.iter().map(|(_, object)| object.as_os_str()).collect();
    let path = dir.join(format!("{build}-{:016x}", hash(&files)));
    if !path.exists() {
        cxx(&flags(build), &files, &path);
    }
    Program { build, path, objects }
}

/// A build's flags, and for compiled kernels the instructions that this machine has for what they
/// do most: without them they are functions, which are right and slow.
fn flags(build: &str) -> Vec<&'static str> {
    let (_, flags) = BUILDS.iter().find(|(name, _)| *name == build).unwrap();
    let mut flags = flags.to_vec();
    #[cfg(target_arch = "x86_64")]
    if build == PTX {
        flags.extend(is_x86_feature_detected!("fma").then_some("-mfma"));
        flags.extend(is_x86_feature_detected!("f16c").then_some("-mf16c"));
    }
    flags
}

/// Names and texts of the headers of a folder, in order, with that of PTX or without.
fn headers(dir: &Path, ptx: bool) -> Vec<NamedText> {
    let named = |entry: io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_header = name.ends_with(".h") && (ptx || name != "ptx.h");
        is_header.then(|| (name, fs::read_to_string(&path).unwrap()))
    };
    let mut headers: Vec<NamedText> = fs::read_dir(dir).unwrap().filter_map(named).collect();
    headers.sort();
    headers
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Makes a file that is there whole or not at all: another run may look for it meanwhile.
fn cxx(flags: &[&str], inputs: &[&OsStr], made: &Path) {
    let part = made.with_extension(format!("part-{}", std::process::id()));
    let mut command = Command::new("c++");
    command.args(["-std=c++17", "-g", "-Wall", "-Wextra", "-Werror"]).args(flags);
    command.arg("-Wno-unused-parameter").arg("-I").arg(kernels_dir());
    let out = command.args(inputs).arg("-o").arg(&part).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::rename(&part, made).unwrap();
}

/// C++ that includes a file for some types and tells of its kernels by name.
fn translation_unit(source: &Source, file: &Path, elem: &str, weight: &str) -> String {
    let word = |t: &str| if t == "f32" { "float".to_owned() } else { t.to_owned() };
    let mut unit = format!("#define ELEM {}\n", word(elem));
    if !weight.is_empty() {
        writeln!(unit, "#define WEIGHT {}", word(weight)).unwrap();
    }
    for kernel in &source.kernels {
        // The same name for other types is another function.
        let name = &kernel.name;
        writeln!(unit, "#define {name} {}_{elem}{weight}_{name}", source.name).unwrap();
    }
    writeln!(unit, "#include {:?}", file.display()).unwrap();
    let shared = if source.shared { "sizeof(Shared)" } else { "0" };
    for kernel in &source.kernels {
        let name = &kernel.name;
        let slot = |(i, p): (usize, &Parameter)| {
            let kind = match &p.kind {
                ParameterKind::In(t) => format!("const {t}*"),
                ParameterKind::Out(t) | ParameterKind::InOut(t) => format!("{t}*"),
                ParameterKind::Scalar("i64") => "long long".to_owned(),
                ParameterKind::Scalar("i32") => "int".to_owned(),
                ParameterKind::Scalar(_) => "float".to_owned(),
            };
            format!("simt::argument<{kind}>(slots[{i}])")
        };
        let slots: Vec<String> = kernel.parameters.iter().enumerate().map(slot).collect();
        let called = symbol(&source.name, elem, weight, name);
        writeln!(
            unit,
            "static void call_{name}(const unsigned long long* slots) {{\n    {name}({});\n}}\n\
             static simt::Kernel kernel_{name}({called:?}, call_{name}, {shared}, {});",
            slots.join(", "),
            slots.len(),
        )
        .unwrap();
    }
    unit
}
