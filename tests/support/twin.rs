//! Kernels on the host: three executables of all kernels, made where they changed.
//!
//! One as it is, to compare results; one under AddressSanitizer and UndefinedBehaviorSanitizer; one
//! under ThreadSanitizer, which takes every CUDA thread for a thread. Made by the system's C++
//! compiler; where there is none, the tests that need them say so, and fail with `EXPECT_CXX=1`.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::{fs, thread};

use half::{bf16, f16};
use incise::gpu::driver::TWIN;
use incise::gpu::launch::Elem;
use incise::gpu::twin::{Order, Twin, symbol};
use incise::gpu::{Array, Engine, gpus, kernels};

#[path = "../../build/kernel.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
pub mod kernel;

use kernel::{ParameterKind, Source};

type Flags = &'static [&'static str];

/// How an executable is made: its name, and the compiler's flags.
pub const BUILDS: [(&str, Flags); 3] = [
    ("plain", &["-O2"]),
    ("address", &["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
    ("thread", &["-O1", "-fsanitize=thread"]),
];

/// Executables of all kernels, one a build. `None`, and a line, where there is no compiler.
fn programs(test: &str) -> Option<&'static [PathBuf]> {
    static MADE: LazyLock<Option<Vec<PathBuf>>> = LazyLock::new(|| {
        let sources: Vec<(String, String)> =
            kernels::FILES.iter().map(|f| (f.name.to_owned(), f.text.to_owned())).collect();
        make("kernels", &sources)
    });
    if MADE.is_none() {
        let expected = std::env::var_os("EXPECT_CXX").is_some_and(|v| v == "1");
        assert!(!expected, "EXPECT_CXX=1, and there is no C++ compiler (c++)");
        let line = format!("skipped: {test}: no C++ compiler (c++) to build kernels with\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    MADE.as_deref()
}

/// The plain executable.
pub fn program(test: &str) -> Option<&'static Path> {
    programs(test).map(|all| &*all[0])
}

/// A card, where there is one. `EXPECT_GPU=1` makes it a failure that there is none.
pub fn card() -> Option<Engine> {
    let expected = std::env::var_os("EXPECT_GPU").is_some_and(|v| v == "1");
    match gpus().first() {
        Some(gpu) => Some(gpu.open().unwrap()),
        None => {
            assert!(!expected, "EXPECT_GPU=1, and the driver shows no GPU");
            None
        }
    }
}

/// A card where one of NVIDIA's libraries is used; a line where there is none.
pub fn library(test: &str, is_there: impl Fn(&Engine) -> bool) -> Option<Engine> {
    let found = card().filter(is_there);
    if found.is_none() {
        let line = format!("skipped: {test}: no card with the library\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

/// What runs kernels for a test of whole computations: the card, else the plain executable, in the
/// order that suits kernels least.
pub fn engine(test: &str) -> Option<Engine> {
    let twin = |program| Engine::twin(Twin::start(program, Order::Shuffled).unwrap());
    card().or_else(|| program(test).map(twin))
}

/// Sizes of real models for a card, small ones where the host stands in for it or a checker of
/// memory watches.
pub fn sizes<T>(real: T, small: T) -> T {
    let watched = std::env::var_os("INCISE_SMALLEST").is_some_and(|v| v == "1");
    let hosted = std::env::var_os(TWIN).is_some() || gpus().is_empty();
    if watched || hosted { small } else { real }
}

/// Engines by name, which must give the same bits: the card where there is one, else those of every
/// build on the host (the plain one in every order, the others shuffled). A card and the host
/// differ in the last digits of exp, and of sums in tensor cores. Kernels of ours alone: libraries
/// have tests of their own.
pub fn engines(test: &str) -> Option<Vec<(String, Engine)>> {
    if let Some(card) = card() {
        return Some(vec![("card".to_owned(), card.own())]);
    }
    let orders = [Order::Forwards, Order::Backwards, Order::Shuffled];
    let mut twins = Vec::new();
    for (i, (program, (build, _))) in programs(test).into_iter().flatten().zip(BUILDS).enumerate() {
        for &order in if i == 0 { &orders[..] } else { &orders[2..] } {
            let twin = Twin::start(program, order).unwrap();
            twins.push((format!("{build}, {order:?}"), Engine::twin(twin)));
        }
    }
    (!twins.is_empty()).then_some(twins)
}

/// Executables of some sources (name and text), one a build; `None` without a compiler.
///
/// Objects and executables are named by a hash of all that makes them, so what lies there from
/// another run of the tests need not be made again.
pub fn make(name: &str, sources: &[(String, String)]) -> Option<Vec<PathBuf>> {
    let compiler = Command::new("c++").arg("--version").output().ok()?.stdout;
    let twins = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twin");
    let dir = twins.join(name);
    let objects = twins.join("objects");
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(&objects).unwrap();
    let mut units = Vec::new();
    for file in ["simt.cpp", "main.cpp"] {
        let path = kernels_dir().join("host").join(file);
        units.push(Unit { name: file.to_owned(), text: fs::read_to_string(&path).unwrap(), path });
    }
    for (name, text) in sources {
        let source = Source::parse(&format!("{name}.cu"), text).unwrap();
        let file = dir.join(format!("{name}.cu"));
        fs::write(&file, text).unwrap();
        for (elem, weight) in source.variants() {
            let name = format!("{name}.{elem}{weight}.cpp");
            let path = dir.join(&name);
            let unit = translation_unit(&source, &file, elem, weight);
            fs::write(&path, &unit).unwrap();
            units.push(Unit { name, text: unit + text, path });
        }
    }
    let headers = [headers(&kernels_dir()), headers(&kernels_dir().join("host"))];
    let jobs: Vec<Job> = BUILDS
        .iter()
        .flat_map(|build| units.iter().map(move |unit| (build, unit)))
        .map(|((build, flags), unit)| {
            let made_of = (&compiler, &headers, &unit.text, flags);
            let object = format!("{}.{build}-{:016x}.o", unit.name, hash(made_of));
            Job { object: objects.join(object), unit, flags }
        })
        .collect();
    let todo = Mutex::new(jobs.iter().filter(|job| !job.object.exists()));
    let compile = || {
        while let Some(job) = { todo.lock().unwrap().next() } {
            cxx(job.flags, &[OsStr::new("-c"), job.unit.path.as_os_str()], &job.object);
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(compile)).collect();
        workers.into_iter().for_each(|w| w.join().unwrap_or_else(|p| resume_unwind(p)));
    });
    let link = |((build, flags), jobs): (&(&str, Flags), &[Job])| {
        let objects: Vec<&OsStr> = jobs.iter().map(|job| job.object.as_os_str()).collect();
        let program = dir.join(format!("{build}-{:016x}", hash(&objects)));
        if !program.exists() {
            cxx(flags, &objects, &program);
        }
        program
    };
    Some(BUILDS.iter().zip(jobs.chunks(units.len())).map(link).collect())
}

/// A translation unit.
struct Unit {
    name: String,
    /// All of it but the headers.
    text: String,
    path: PathBuf,
}

/// A translation unit, compiled for one build.
struct Job<'a> {
    object: PathBuf,
    unit: &'a Unit,
    flags: Flags,
}

fn kernels_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Texts of the headers of a folder, in the order of their names.
fn headers(dir: &Path) -> Vec<String> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_header = |path: &PathBuf| path.extension().is_some_and(|e| e == "cuh" || e == "h");
    let mut paths: Vec<PathBuf> = paths.filter(is_header).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
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

/// Values in the elements of a type, to the nearest.
pub fn rounded(elem: Elem, values: &[f64]) -> Vec<f64> {
    let round = |&x: &f64| match elem {
        Elem::BF16 => bf16::from_f64(x).to_f64(),
        Elem::F16 => f16::from_f64(x).to_f64(),
        Elem::F64 => x,
        _ => f64::from(x as f32),
    };
    values.iter().map(round).collect()
}

/// An array of values that its type holds exactly.
pub fn up(engine: &Engine, elem: Elem, values: &[f64]) -> Array {
    engine.upload(elem, &bytes(elem, values)).unwrap()
}

/// Values in the bytes of a type, to the nearest.
pub fn bytes(elem: Elem, values: &[f64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * elem.size());
    for &x in values {
        match elem {
            Elem::F32 => bytes.extend((x as f32).to_le_bytes()),
            Elem::BF16 => bytes.extend(bf16::from_f64(x).to_le_bytes()),
            Elem::F16 => bytes.extend(f16::from_f64(x).to_le_bytes()),
            Elem::F64 => bytes.extend(x.to_le_bytes()),
            Elem::I32 => bytes.extend((x as i32).to_le_bytes()),
            Elem::U8 => bytes.push(x as u8),
        }
    }
    bytes
}

/// What an array holds.
pub fn down(array: &Array) -> Vec<f64> {
    let (elem, bytes) = (array.elem(), array.download());
    bytes.chunks(elem.size()).map(|b| number(elem, b)).collect()
}

/// A number of some type.
pub fn number(elem: Elem, bytes: &[u8]) -> f64 {
    match elem {
        Elem::F32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
        Elem::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        Elem::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        Elem::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        Elem::I32 => f64::from(i32::from_le_bytes(bytes.try_into().unwrap())),
        Elem::U8 => f64::from(bytes[0]),
    }
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
        let slot = |(i, p): (usize, &kernel::Parameter)| {
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
             static simt::Kernel kernel_{name}({called:?}, call_{name}, {shared});",
            slots.join(", "),
        )
        .unwrap();
    }
    unit
}
