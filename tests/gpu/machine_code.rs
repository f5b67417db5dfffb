//! What the compiler made of the kernels: docs/kernels.md has a row of figures for each and its
//! types, read from the machine code for H100 and H200 (sm_90a). A change that makes one worse
//! fails by name; `tools/kernel_table` writes the page anew. What must hold of every kernel, on any
//! page, are the clauses beside it (`machine_code/clauses.rs`).
//!
//! NVIDIA's disassembler is unpacked by `.ci/wheels`. Where it is not, the test says so, and fails
//! with `EXPECT_DISASSEMBLER=1`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use incise::gpu::kernels::FILES;
use incise::gpu::launch::{File, Image};
use rayon::prelude::*;

use crate::support::programs::kernel::Source;
use crate::support::root;

mod clauses;
mod figures;
mod graph;
mod instruction;
mod table;

use figures::Figures;
use table::{DOES, Name, TAKES};

/// The machine code that figures are of.
const ARCH: &str = "sm_90a";

/// Disassembles an image. What was made of it once is kept, by a hash of it and of who made it.
fn listing(tools: &Path, image: &[u8]) -> String {
    let mut hash = DefaultHasher::new();
    (image, tools.join("cuobjdump").metadata().unwrap().len()).hash(&mut hash);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine_code");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{:016x}", hash.finish()));
    if let Ok(listing) = fs::read_to_string(&path) {
        return listing;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    // It looks for nvdisasm where commands are.
    let paths = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let paths = env::join_paths([tools.to_owned()].into_iter().chain(paths)).unwrap();
    let mut command = Command::new(tools.join("cuobjdump"));
    command.args(["-sass", "-res-usage"]).arg(file.path()).env("PATH", paths);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let listing = String::from_utf8(out.stdout).unwrap();
    let part = path.with_extension(std::process::id().to_string());
    fs::write(&part, &listing).and_then(|()| fs::rename(&part, &path)).unwrap();
    listing
}

/// Threads of a block of a kernel: its bounds, else those of its file. Those of a norm depend on
/// the row: here one of GPT-J, and a head of it.
fn threads(file: &File, kernel: &str) -> usize {
    let source = Source::parse(&format!("{}.cu", file.name), file.text).unwrap();
    let constant = |name: &str| {
        let found = source.constants.iter().find(|(constant, _)| constant == name);
        found.map(|(_, value)| *value as usize)
    };
    let declared = |text: &str| text.find(&format!("{kernel}(")).map(|end| text[..end].to_owned());
    let bounds = || {
        let head = file.text.split("extern \"C\"").find_map(declared)?;
        let bounds = head.split_once("__launch_bounds__(")?.1.split([',', ')']).next()?.to_owned();
        bounds.parse().ok().or_else(|| constant(&bounds))
    };
    let of_norm = || match kernel.starts_with("norm_heads") {
        true => constant("BLOCK_THREADS"),
        false => Some(4096 / (constant("VEC")? * constant("ITEMS_PER_THREAD")?)),
    };
    let found =
        if file.name == "norm" { of_norm() } else { bounds().or_else(|| constant("THREADS")) };
    found.unwrap_or_else(|| panic!("threads of {kernel}"))
}

/// The figures of all kernels, in the order of their files; not of those that only tests launch.
fn measure(tools: &Path) -> Vec<(Name, Figures)> {
    let of = |(file, image): &(&File, &Image)| {
        let types = [file.name, image.elem, image.weight];
        let name = types.into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(".");
        let mut kernels = instruction::parse(&listing(tools, image.bytes));
        kernels.sort_by_key(|code| file.kernels.iter().position(|k| *k == code.kernel));
        let figures = |code: instruction::Code| {
            let figures = Figures::of(&code, threads(file, &code.kernel));
            ([name.clone(), code.kernel], figures)
        };
        kernels.into_iter().map(figures).collect::<Vec<_>>()
    };
    let launched = FILES.iter().filter(|file| file.name != "probe");
    let images = launched.flat_map(|file| file.images.iter().map(move |image| (*file, image)));
    let images: Vec<(&File, &Image)> = images.filter(|(_, image)| image.arch == ARCH).collect();
    images.par_iter().flat_map(of).collect()
}

/// The folder of the disassembler, where there is one and something to disassemble.
fn tools(test: &str) -> Option<PathBuf> {
    let tools = root().join(".build/disassembler/nvidia/cu13/bin");
    let compiled = FILES.iter().any(|file| file.images.iter().any(|image| image.arch == ARCH));
    let why = match () {
        () if !tools.join("cuobjdump").exists() => "no disassembler, which .ci/wheels unpacks",
        () if !compiled => "the build compiled no machine code for sm_90a",
        () => return Some(tools),
    };
    let expected = env::var_os("EXPECT_DISASSEMBLER").is_some_and(|v| v == "1");
    assert!(!expected, "EXPECT_DISASSEMBLER=1, and {why}");
    std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes()).unwrap();
    None
}

/// What stands before a part of the page between its marks, the part, and what stands behind.
fn parts<'a>(page: &'a str, name: &str) -> [&'a str; 3] {
    let [from, to] = [format!("<!-- {name} -->\n"), format!("<!-- /{name} -->")];
    let ends = page.find(&from).zip(page.find(&to)).map(|(at, end)| (at + from.len(), end));
    let (from, to) = ends.unwrap_or_else(|| panic!("docs/kernels.md has the marks of `{name}`"));
    [&page[..from], &page[from..to], &page[to..]]
}

#[test]
fn no_kernel_is_worse_than_the_page_says() {
    let test = "gpu::machine_code::no_kernel_is_worse_than_the_page_says";
    let Some(tools) = tools(test) else { return };
    let kernels = measure(&tools);
    let broken = clauses::broken(&kernels);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let path = root().join("docs/kernels.md");
    let page = fs::read_to_string(&path).unwrap();
    let (mut want, mut worse) = (page.clone(), Vec::new());
    for (name, columns) in [("takes", TAKES), ("does", DOES)] {
        let ([before, was, after], is) = (parts(&want, name), table::write(columns, &kernels));
        worse.extend(table::worse(columns, was, &is));
        want = [before, &is, after].concat();
    }
    if env::var_os("INCISE_WRITE_DOCS").is_some() {
        fs::write(&path, &want).unwrap();
        return;
    }
    let again = "tools/kernel_table writes docs/kernels.md again";
    assert!(worse.is_empty(), "{}\nIf that is meant: {again}.", worse.join("\n"));
    assert!(page == want, "kernels are better than docs/kernels.md says, or other ones: {again}");
}
