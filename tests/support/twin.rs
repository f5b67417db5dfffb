//! Engines for tests: a card where there is one, else kernels on the host (`programs.rs`), the
//! sources and what is compiled of them.
//!
//! Where there is no C++ compiler, or no NVRTC, the tests that need it say so, and fail with
//! `EXPECT_CXX=1`.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use half::{bf16, f16};
use incise::gpu::driver::TWIN;
use incise::gpu::launch::Elem;
use incise::gpu::nvrtc::NamedText;
use incise::gpu::twin::{Order, Twin};
use incise::gpu::{Array, Engine, gpus, kernels};

use super::programs::{self, PTX, Program, Texts};

/// The kernels, as they were built.
pub fn texts() -> Texts {
    let files = kernels::FILES.iter().map(|f| (format!("{}.cu", f.name), f.text.to_owned()));
    let headers = kernels::HEADERS.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
    Texts { files: files.collect(), headers: headers.collect::<Vec<NamedText>>() }
}

/// Executables of all kernels, those of the sources first. None, and a line, without a compiler;
/// without NVRTC a line, and none of compiled kernels.
pub fn programs(test: &str) -> &'static [Program] {
    static MADE: LazyLock<(Vec<Program>, Option<String>)> =
        LazyLock::new(|| programs::make("kernels", &texts()));
    let (programs, missing) = &*MADE;
    if let Some(missing) = missing {
        let expected = std::env::var_os("EXPECT_CXX").is_some_and(|v| v == "1");
        assert!(!expected, "EXPECT_CXX=1, and {missing}");
        let what = if programs.is_empty() { "" } else { " on compiled kernels" };
        let line = format!("skipped: {test}{what}: {missing}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    programs
}

/// The plain executable.
pub fn program(test: &str) -> Option<&'static Path> {
    programs(test).first().map(|program| &*program.path)
}

/// How compiled kernels run: the bits of a sum that tensor cores keep, and the order.
pub const COMPILED: [(&str, Order); 2] = [("24", Order::Shuffled), ("26", Order::Interrupted)];

/// Compiled kernels on tensor cores that keep so many bits of a sum.
pub fn compiled(program: &Path, bits: &str, order: Order) -> Engine {
    let mut command = Command::new(program);
    command.env("INCISE_ACCUMULATORS", bits);
    Engine::twin(Twin::spawn(command, order).unwrap())
}

/// Whether an engine of [`engines`] is of compiled kernels.
pub fn is_compiled(name: &str) -> bool {
    name.starts_with(PTX)
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

/// What runs kernels for a test of whole computations: the card, else what is compiled for one,
/// else the plain executable; in the order that suits kernels least.
pub fn engine(test: &str) -> Option<Engine> {
    card().or_else(|| match programs(test) {
        [.., last] if last.build == PTX => Some(compiled(&last.path, "24", Order::Shuffled)),
        [plain, ..] => Some(Engine::twin(Twin::start(&plain.path, Order::Shuffled).unwrap())),
        [] => None,
    })
}

/// The card, else the plain executable, which is the fastest: where it does not matter what exactly
/// kernels compute.
pub fn fastest(test: &str) -> Option<Engine> {
    card().or_else(|| {
        program(test).map(|plain| Engine::twin(Twin::start(plain, Order::Shuffled).unwrap()))
    })
}

/// Sizes of real models for a card, small ones where the host stands in for it or a checker of
/// memory watches.
pub fn sizes<T>(real: T, small: T) -> T {
    let watched = std::env::var_os("INCISE_SMALLEST").is_some_and(|v| v == "1");
    let hosted = std::env::var_os(TWIN).is_some() || gpus().is_empty();
    if watched || hosted { small } else { real }
}

/// Engines by name: the card where there is one, else those of every build on the host (the plain
/// one in every order, those under sanitizers shuffled). Those of the sources must give the same
/// bits. Those of compiled kernels ([`COMPILED`]) give others, as a card does: the compiler
/// contracts products and sums, exp is another, and tensor cores keep 24 or 26 bits of a sum; each
/// is judged for itself. Kernels of ours alone: libraries have tests of their own.
pub fn engines(test: &str) -> Option<Vec<(String, Engine)>> {
    if let Some(card) = card() {
        return Some(vec![("card".to_owned(), card.own())]);
    }
    let mut twins = Vec::new();
    for Program { build, path, .. } in programs(test) {
        let orders = [Order::Forwards, Order::Backwards, Order::Shuffled];
        match *build {
            PTX => {
                twins.extend(COMPILED.map(|(bits, order)| {
                    (format!("{PTX}, {bits} bits"), compiled(path, bits, order))
                }))
            }
            build => {
                twins.extend(orders[if build == "plain" { 0 } else { 2 }..].iter().map(|&o| {
                    (format!("{build}, {o:?}"), Engine::twin(Twin::start(path, o).unwrap()))
                }))
            }
        }
    }
    (!twins.is_empty()).then_some(twins)
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
