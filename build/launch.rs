//! The Rust side of the kernels: a struct for each, whose fields are its parameters.

use super::images::Job;
use super::kernel::{Kernel, Parameter, ParameterKind, Source};
use super::nvrtc::NamedText;

/// `OUT_DIR/kernels.rs`, which `src/gpu/kernels.rs` includes.
pub fn rust(
    sources: &[Source],
    jobs: &[Job],
    texts: &[NamedText],
    headers: &[NamedText],
) -> String {
    let module = |(i, source): (usize, &Source)| {
        let images: String = jobs.iter().filter(|job| job.source == i).map(image).collect();
        module(source, &texts[i].1, &images)
    };
    let modules: String = sources.iter().enumerate().map(module).collect();
    let files: String = sources.iter().map(|s| format!("&{}::FILE, ", s.name)).collect();
    let headers: String = headers.iter().map(|h| format!("{h:?}, ")).collect();
    format!(
        "\
// Written by build.rs from kernels/*.cu.
{modules}
/// All files of kernels.
pub static FILES: &[&crate::gpu::launch::File] = &[{files}];

/// What they include: name and text.
pub static HEADERS: &[(&str, &str)] = &[{headers}];
"
    )
}

fn module(source: &Source, text: &str, images: &str) -> String {
    let (name, variants) = (&source.name, source.variants());
    let constant = |(name, value): &(String, i64)| {
        format!("    #[allow(missing_docs)]\n    pub const {name}: usize = {value};\n")
    };
    let kernels: Vec<&str> = source.kernels.iter().map(|k| &*k.name).collect();
    let constants: String = source.constants.iter().map(constant).collect();
    let launchers: String = source.kernels.iter().map(|kernel| launcher(name, kernel)).collect();
    format!(
        "
/// `kernels/{name}.cu`.
pub mod {name} {{
    use crate::gpu::Engine;
    use crate::gpu::launch::*;

{constants}
    /// The file, as it was compiled.
    pub static FILE: File = File {{
        name: {name:?},
        text: {text:?},
        variants: &{variants:?},
        kernels: &{kernels:?},
        images: &[{images}],
        headers: super::HEADERS,
    }};
{launchers}}}
"
    )
}

fn image(job: &Job) -> String {
    let Job { types: (elem, weight), arch, path, .. } = job;
    format!(
        "Image {{ elem: {elem:?}, weight: {weight:?}, arch: {arch:?}, \
         bytes: include_bytes!({path:?}) }}, "
    )
}

fn launcher(file: &str, kernel: &Kernel) -> String {
    let Kernel { name, line, parameters } = kernel;
    let title: String = name.split('_').map(capital).collect();
    let field = |Parameter { name, kind }: &Parameter| {
        let kind = match kind {
            ParameterKind::In(_) => "In<'a>",
            ParameterKind::Out(_) => "Out<'a>",
            ParameterKind::InOut(_) => "InOut<'a>",
            ParameterKind::Scalar(number) => number,
        };
        format!("        pub {name}: {kind},\n")
    };
    let argument = |Parameter { name, kind }: &Parameter| match kind {
        ParameterKind::In(to) | ParameterKind::Out(to) | ParameterKind::InOut(to) => {
            format!("                self.{name}.argument({name:?}, {to:?}),\n")
        }
        ParameterKind::Scalar(number) => {
            format!("                Argument::{number}(self.{name}),\n")
        }
    };
    let fields: String = parameters.iter().map(field).collect();
    let arguments: String = parameters.iter().map(argument).collect();
    format!(
        "
    /// `kernels/{file}.cu`, line {line}.
    #[allow(missing_docs, non_snake_case)]
    pub struct {title}<'a> {{
{fields}    }}

    impl {title}<'_> {{
        /// Enqueues the kernel.
        pub fn launch(self, engine: &Engine, grid: Grid) {{
            engine.launch(&FILE, {name:?}, grid, &[
{arguments}            ]);
        }}
    }}
"
    )
}

/// `layer` → `Layer`.
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |c| c.to_ascii_uppercase().to_string() + letters.as_str())
}
