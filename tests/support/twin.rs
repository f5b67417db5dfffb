//! Kernels on the host: three executables of all kernels, made once a run of the tests.
//!
//! One as it is, to compare results; one under AddressSanitizer and UndefinedBehaviorSanitizer; one
//! under ThreadSanitizer, which takes every CUDA thread for a thread. Made by the system's C++
//! compiler; where there is none, the tests that need them say so, and with `EXPECT_CXX=1` fail.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use half::{bf16, f16};
use incise::gpu::driver::TWIN;
use incise::gpu::launch::Elem;
use incise::gpu::twin::{Order, Twin, symbol};
use incise::gpu::{Array, Engine, gpus, kernels};

#[path = "../../build/kernel.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
pub mod kernel;

use kernel::{Kind, Source};

/// How an executable is made: its name, and the compiler's flags.
pub const BUILDS: [(&str, &[&str]); 3] = [
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
pub fn make(name: &str, sources: &[(String, String)]) -> Option<Vec<PathBuf>> {
    if Command::new("c++").arg("--version").output().is_err() {
        let expected = std::env::var_os("EXPECT_CXX").is_some_and(|v| v == "1");
        assert!(!expected, "EXPECT_CXX=1, and there is no C++ compiler (c++)");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("twin").join(name);
    fs::create_dir_all(&dir).unwrap();
    let mut units: Vec<PathBuf> =
        ["simt.cpp", "main.cpp"].iter().map(|f| root.join("kernels/host").join(f)).collect();
    for (name, text) in sources {
        let source = Source::parse(&format!("{name}.cu"), text).unwrap();
        let file = dir.join(format!("{name}.cu"));
        fs::write(&file, text).unwrap();
        for (elem, weight) in source.variants() {
            let unit = dir.join(format!("{name}.{elem}{weight}.cpp"));
            fs::write(&unit, translation_unit(&source, &file, elem, weight)).unwrap();
            units.push(unit);
        }
    }
    let make = |(build, flags): (&str, &[&str])| {
        let program = dir.join(build);
        let mut command = Command::new("c++");
        command.args(["-std=c++17", "-g", "-Wall", "-Wextra", "-Werror"]).args(flags);
        command.arg("-Wno-unused-parameter").arg("-I").arg(root.join("kernels"));
        let out = command.args(&units).arg("-o").arg(&program).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        program
    };
    let make = &make;
    Some(std::thread::scope(|scope| {
        let made = BUILDS.map(|build| scope.spawn(move || make(build)));
        made.map(|m| m.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).to_vec()
    }))
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
                Kind::In(t) => format!("const {t}*"),
                Kind::Out(t) | Kind::InOut(t) => format!("{t}*"),
                Kind::Scalar("i64") => "long long".to_owned(),
                Kind::Scalar("i32") => "int".to_owned(),
                Kind::Scalar(_) => "float".to_owned(),
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
