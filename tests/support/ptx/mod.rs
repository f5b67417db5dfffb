//! Compiled kernels on the host: the PTX that NVRTC makes, as C++ over `kernels/host`'s fibres.
//!
//! ```text
//! kernels/*.cu ──NVRTC──► PTX ──read──► Module ──unit──► C++ ──compiler──► the twin
//! ```
//!
//! A card's driver makes machine code of the same instructions. Each becomes one statement, a
//! register a variable, a label a label; what the instructions do is in `kernels/host/ptx.h`. What
//! is not known here or there is an error with the line of the PTX.

mod read;
mod statement;

use std::fmt::Write as _;

use incise::gpu::twin::symbol;

use read::{Body, Kernel, Module, Variable};
use statement::Scope;

/// A translation unit of the kernels of a file, for some types, from their PTX, which lies at
/// `path`.
pub fn unit(file: &str, elem: &str, weight: &str, ptx: &str, path: &str) -> Result<String, String> {
    let module = read::module(ptx).map_err(|e| format!("{path}:{e}"))?;
    let mut unit = format!(
        "// Written by tests/support/ptx.\n\
         #include \"host/ptx.h\"\n\
         #define AT(line) (simt::Site{{{path:?}, line, true}})\n\
         using namespace ptx;\nnamespace {{\n"
    );
    for kernel in &module.kernels {
        let function = function(&module, kernel).map_err(|e| format!("{path}:{e}"))?;
        let (name, shared) = (&kernel.name, bytes(&shared(&module, kernel)));
        let called = symbol(file, elem, weight, name);
        let (arguments, threads) = (kernel.parameters.len(), kernel.max_threads);
        write!(
            unit,
            "{function}simt::Kernel kernel_{name}\
             ({called:?}, {name}, {shared}, {arguments}, {threads});\n\n"
        )
        .unwrap();
    }
    Ok(unit + "}  // namespace\n")
}

/// Shared memory that a kernel uses: a module's variable belongs to those that name it.
fn shared<'a>(module: &'a Module, kernel: &'a Kernel) -> Vec<&'a Variable> {
    let of_module = module.shared.iter().filter(|v| kernel.names(&v.name));
    of_module.chain(&kernel.shared).collect()
}

/// Where each variable lies, one after the other.
fn offsets(variables: &[&Variable]) -> Vec<usize> {
    let mut end = 0;
    let place = |v: &&Variable| {
        let at = usize::next_multiple_of(end, v.align);
        end = at + v.bytes;
        at
    };
    variables.iter().map(place).collect()
}

fn bytes(variables: &[&Variable]) -> usize {
    let last = offsets(variables).into_iter().zip(variables).next_back();
    last.map_or(0, |(at, variable)| at + variable.bytes)
}

fn function(module: &Module, kernel: &Kernel) -> Result<String, String> {
    let shared = shared(module, kernel);
    let local: Vec<&Variable> = kernel.local.iter().collect();
    let mut text = format!("void {}([[maybe_unused]] const u64* slots) {{\n", kernel.name);
    for (space, variables, memory, begin) in [
        ("block", &shared, "static_cast<char*>(simt::block_memory())", "SHARED_BEGIN"),
        ("own", &local, "stack", "0"),
    ] {
        let bytes = bytes(variables);
        if space == "own" && bytes > 0 {
            writeln!(text, "  alignas(16) char stack[{bytes}];").unwrap();
            writeln!(text, "  memset(stack, 0xff, sizeof stack);").unwrap();
        }
        if bytes > 0 {
            let name = if space == "own" { "local" } else { "shared" };
            writeln!(text, "  const Space {space} = {{{memory}, {begin}, {bytes}, {name:?}}};")
                .unwrap();
        }
    }
    for (name, function) in [
        ("vtid", "thread_index"),
        ("vntid", "block_size"),
        ("vctaid", "block_index"),
        ("vnctaid", "grid_size"),
    ] {
        writeln!(text, "  [[maybe_unused]] const uint3 {name} = simt::{function}();").unwrap();
    }
    for set in &kernel.registers {
        // No number, and no address, until it is written.
        let poison = match &*set.class {
            "f32" => "__builtin_nanf(\"\")",
            "f64" => "__builtin_nan(\"\")",
            "pred" => "false",
            "b16" => "0xa5a5",
            "b32" => "0xa5a5a5a5u",
            "b64" => "0xa5a5a5a5a5a5a5a5ull",
            other => return Err(format!("{}: registers of type {other}", set.line)),
        };
        let class = if set.class == "pred" { "bool" } else { &set.class };
        for name in &set.names {
            writeln!(text, "  [[maybe_unused]] {class} {name} = {poison};").unwrap();
        }
    }
    let scope = Scope::new(kernel, [&shared, &local]);
    for (line, item) in &kernel.body {
        match item {
            Body::Label(label) => writeln!(text, "{}:;", label.replace('$', "")).unwrap(),
            Body::Instruction(instruction) => {
                let statement = scope.statement(*line, instruction);
                let statement = statement.map_err(|e| format!("{line}: {e}"))?;
                writeln!(text, "  {statement}").unwrap();
            }
        }
    }
    Ok(text + "}\n")
}
