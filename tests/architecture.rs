//! What keeps the tree in shape: floors, circles, sizes, namesakes, names of types, and where
//! danger and words may be.
//!
//! Each rule is a function from texts to complaints. The tree must give none, and a planted text
//! that breaks the rule must give one.

mod circles;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, iter};

/// Files by their path from the root, with `/` between names.
type Tree = BTreeMap<String, String>;

const LINES: usize = 500;
const COLUMNS: usize = 100;
const FUNCTION: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust, CUDA and C++ file of the repository's own folders.
fn tree() -> Tree {
    const FOLDERS: [&str; 11] = [
        "src", "tests", "benches", "build", "build.rs", "capi", "examples", "fuzz", "kernels",
        "python", "tools",
    ];
    const ENDINGS: [&str; 6] = ["rs", "cu", "cuh", "h", "c", "cpp"];
    let mut tree = Tree::new();
    let mut todo: Vec<PathBuf> = FOLDERS.iter().map(|name| root().join(name)).collect();
    while let Some(path) = todo.pop() {
        if path.ends_with("target") {
            continue; // of a crate of its own, as fuzz is
        }
        if let Ok(entries) = fs::read_dir(&path) {
            todo.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| ENDINGS.iter().any(|&x| e == x))
            && let Ok(text) = fs::read_to_string(&path)
        {
            let parts = path.strip_prefix(root()).unwrap().iter();
            let name: Vec<&str> = parts.map(|p| p.to_str().unwrap()).collect();
            tree.insert(name.join("/"), text);
        }
    }
    tree
}

/// A tree of one or more planted files.
fn planted<const N: usize>(files: [(&str, &str); N]) -> Tree {
    files.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

/// A line without its comment. A `//` inside a string ends it too: the rest of such a line is free.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The words of some code, in order.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

/// The floor of each module, from the table in `src/lib.rs`.
fn floors(lib: &str) -> BTreeMap<&str, usize> {
    let mut floors = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! ")) {
        let parts: Vec<&str> = line.split("  ").map(str::trim).filter(|p| !p.is_empty()).collect();
        if let [floor, names @ .., _what] = &parts[..]
            && let Ok(floor) = floor.parse()
        {
            floors.extend(names.iter().map(|&name| (name, floor)));
        }
    }
    floors
}

/// The first names of the paths that go on after each `prefix`: of `{a::b, c}`, a and c.
fn heads<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        let inside =
            text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let rest = &text[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(words(rest).next().filter(|_| !inside));
            continue;
        };
        let (mut depth, mut fresh) = (1, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if fresh && depth == 1 && !c.is_whitespace() => {
                    found.extend(words(&group[i..]).next());
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// A module uses floors below its own, never its own or above.
fn floor_complaints(tree: &Tree) -> Vec<String> {
    let lib = &tree["src/lib.rs"];
    let floors = floors(lib);
    let mut complaints = Vec::new();
    for module in lib.lines().filter_map(|l| l.strip_prefix("pub mod ")) {
        let module = module.trim_end_matches(';');
        if !floors.contains_key(module) {
            complaints.push(format!("src/lib.rs: {module} stands on no floor"));
        }
    }
    for (file, text) in tree {
        let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
        let ["src", module, inside @ ..] = &parts[..] else { continue };
        let Some(floor) = floors.get(module) else { continue };
        // From src/ops/cpu/act.rs three steps up lead to the root, from src/ops/cpu/mod.rs two.
        let steps = inside.len() + 1 - usize::from(inside.last() == Some(&"mod"));
        let up = "super::".repeat(steps);
        let text: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
        for other in heads(&text, "crate::").into_iter().chain(heads(&text, &up)) {
            match floors.get(other) {
                _ if other == *module => {}
                Some(below) if below < floor => {}
                Some(at) => complaints.push(format!(
                    "{file}: {module} (floor {floor}) must not use {other} (floor {at})"
                )),
                // `pub use` of the root gives names of floor 0; modules are on the table.
                None if other.starts_with(char::is_uppercase) => {}
                None => complaints.push(format!("{file}: crate::{other} stands on no floor")),
            }
        }
    }
    complaints
}

/// No file, function or line is too long.
fn size_complaints(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (file, text) in tree {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() >= LINES {
            complaints.push(format!("{file}: {} lines", lines.len()));
        }
        for (i, line) in lines.iter().enumerate() {
            let (columns, at) = (line.chars().count(), i + 1);
            if columns > COLUMNS {
                complaints.push(format!("{file}:{at}: {columns} columns"));
            }
            let start = line.trim_start();
            let is_fn =
                words(start).find(|w| !["pub", "crate", "super", "const", "unsafe"].contains(w));
            if file.ends_with(".rs") && is_fn == Some("fn") && !start.starts_with("//") {
                // The formatter puts a function's last brace under its first letter.
                let end = format!("{}}}", &line[..line.len() - start.len()]);
                let length = lines[i..].iter().take_while(|l| **l != end).count() + 1;
                if length >= FUNCTION && !line.ends_with('}') && !line.ends_with(';') {
                    complaints.push(format!("{file}:{at}: a function of {length} lines"));
                }
            }
        }
    }
    complaints
}

/// One operation, one name: front door, definition and cases; with a kernel, a launch too.
fn name_complaints(files: &BTreeSet<&str>) -> Vec<String> {
    // Not operations but what their definitions are made of: products of blocks and of few rows,
    // sums in lanes.
    const HELPERS: [&str; 3] = ["gemm", "dots", "lanes"];
    let stem = |file: &&str, folder: &str, ending: &str| {
        let name = file.strip_prefix(folder)?.strip_suffix(ending)?;
        (!name.contains('/') && name != "mod").then(|| name.to_owned())
    };
    let mut wanted = Vec::new();
    for file in files {
        let cases = stem(file, "tests/ops/", ".rs");
        if let Some(op) = stem(file, "src/ops/", ".rs").or(cases) {
            wanted.push((file, format!("src/ops/{op}.rs")));
            wanted.push((file, format!("src/ops/cpu/{op}.rs")));
            wanted.push((file, format!("tests/ops/{op}.rs")));
        }
        for folder in ["src/ops/cpu/", "src/ops/cuda/"] {
            if let Some(op) = stem(file, folder, ".rs").filter(|op| !HELPERS.contains(&op.as_str()))
            {
                wanted.push((file, format!("src/ops/{op}.rs")));
            }
        }
        // attention_row.cu is attention for one row, search_step.cu an operation of that name;
        // probe.cu is no operation.
        if let Some(kernel) = stem(file, "kernels/", ".cu").filter(|op| op != "probe") {
            let whole = files.contains(format!("src/ops/{kernel}.rs").as_str());
            let op = if whole { &kernel } else { kernel.split('_').next().unwrap_or_default() };
            wanted.push((file, format!("src/ops/{op}.rs")));
            wanted.push((file, format!("src/ops/cuda/{op}.rs")));
        }
    }
    let missing = wanted.into_iter().filter(|(_, name)| !files.contains(name.as_str()));
    missing.map(|(file, name)| format!("{file} has no namesake {name}")).collect()
}

/// A word stands only where it may: `allowed` are beginnings of paths.
fn word_complaints(tree: &Tree, word: &str, allowed: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (file, text) in tree.iter().filter(|(file, _)| file.starts_with("src/")) {
        for (i, line) in text.lines().enumerate() {
            let free = allowed.iter().any(|a| file.starts_with(a));
            if !free && words(code(line)).any(|w| w == word) {
                complaints.push(format!("{file}:{}: {word}", i + 1));
            }
        }
    }
    complaints
}

/// Where the compiler's checks end: the driver, the memory map, and the products' crate.
const UNSAFE: [&str; 3] = ["src/gpu/", "src/store/mapped.rs", "src/ops/cpu/gemm.rs"];
/// Who talks to people.
const PRINTS: [&str; 2] = ["src/cli/", "src/main.rs"];

fn place_complaints(tree: &Tree) -> Vec<String> {
    let prints = ["print", "println", "eprint", "eprintln"];
    iter::once(("unsafe", &UNSAFE[..]))
        .chain(prints.map(|print| (print, &PRINTS[..])))
        .flat_map(|(word, allowed)| word_complaints(tree, word, allowed))
        .collect()
}

/// A size that does not fit into a kernel's 32 bits is an error (`gpu::launch::int`) and no other
/// size.
fn cast_complaints(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (file, text) in tree.iter().filter(|(file, _)| file.starts_with("src/ops/cuda/")) {
        for (i, line) in text.lines().enumerate().filter(|(_, line)| code(line).contains(" as i32"))
        {
            complaints.push(format!("{file}:{}: {}", i + 1, line.trim()));
        }
    }
    complaints
}

/// The library speaks of settings by name; the command line alone knows flags and commands.
fn flag_complaints(tree: &Tree) -> Vec<String> {
    const COMMANDS: [&str; 20] = [
        "demo", "doctor", "inspect", "import", "generate", "logits", "stats", "edit", "merge",
        "apply", "export", "undo", "log", "bench", "trace", "eval", "ask", "compare", "push",
        "train",
    ];
    // The kernels' compiler has flags, and so have servers and a tool that fetches models.
    let free = |file: &str, line: &str| {
        let others = file == "src/gpu/nvrtc.rs" || file.starts_with("src/push/");
        file.starts_with("src/cli/") || others || line.contains("`hf download")
    };
    let flag = |line: &str| {
        let long = |(at, _): (usize, &str)| line[at + 2..].starts_with(|c: char| c.is_lowercase());
        line.match_indices("--").any(long) || line.contains("`-o")
    };
    let command = |line: &str| {
        let called = |(at, prefix): (usize, &str)| words(&line[at + prefix.len()..]).next();
        line.match_indices("`incise ").filter_map(called).any(|word| COMMANDS.contains(&word))
    };
    let mut complaints = Vec::new();
    for (file, text) in tree.iter().filter(|(file, _)| file.starts_with("src/")) {
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !free(file, line)) {
            if flag(line) || command(line) {
                complaints.push(format!("{file}:{}: speaks of the command line", i + 1));
            }
        }
    }
    complaints
}

/// A file names a folder of somebody's machine. In pieces, so that this file does not.
fn machine_path(bytes: &[u8]) -> Option<&'static str> {
    const FOLDERS: [&str; 3] =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let has = |folder: &&str| bytes.windows(folder.len()).any(|w| w == folder.as_bytes());
    FOLDERS.into_iter().find(has)
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn floors_hold() {
    none(floor_complaints(&tree()));
    let lib =
        "//! 3  ops  linalg   what\n//! 1  store   bytes\n//! 0  base     all\npub mod ops;\n";
    let complaints = |file, text| floor_complaints(&planted([("src/lib.rs", lib), (file, text)]));
    assert!(complaints("src/ops/a.rs", "use crate::{Error, base::{ops}, store};").is_empty());
    assert!(complaints("src/ops/cpu/a.rs", "use super::super::b; use crate::ops::c;").is_empty());
    assert!(complaints("src/base/a.rs", "// see crate::ops\nfn f() {}").is_empty());
    for (file, text) in [
        ("src/base/a.rs", "use crate::ops::b;"),
        ("src/base/mod.rs", "use super::ops::b;"),
        ("src/ops/cpu/a.rs", "use super::super::super::linalg;"),
        ("src/ops/a.rs", "fn f() { crate::linalg::g() }"),
        ("src/store/a.rs", "use crate::{\n    base::{b, c},\n    ops,\n};"),
        ("src/store/a.rs", "use crate::nowhere::b;"),
    ] {
        assert_eq!(complaints(file, text).len(), 1, "{text}");
    }
    let homeless = planted([("src/lib.rs", "//! 0  base   all\npub mod base;\npub mod ops;\n")]);
    assert_eq!(floor_complaints(&homeless), ["src/lib.rs: ops stands on no floor"]);
}

#[test]
fn every_folder_is_read() {
    let tree = tree();
    for file in [
        "src/ops/cpu/norm.rs",
        "tests/ops/norm.rs",
        "benches/search.rs",
        "build/kernel.rs",
        "build.rs",
        "capi/src/edit.rs",
        "capi/examples/edit.c",
        "examples/candle/src/main.rs",
        "fuzz/fuzz_targets/header.rs",
        "kernels/norm.cu",
        "kernels/common.cuh",
        "kernels/host/simt.cpp",
        "kernels/host/simt.h",
        "python/src/run.rs",
        "tools/demo_scores.rs",
    ] {
        assert!(tree.contains_key(file), "{file} escapes");
    }
}

#[test]
fn nothing_is_too_long() {
    none(size_complaints(&tree()));
    let body = "    work();\n".repeat(FUNCTION);
    let fine = format!("{}\nfn f() {{\n}}\nfn g();\n{body}", "é".repeat(COLUMNS));
    assert!(size_complaints(&planted([("src/a.rs", &fine)])).is_empty());
    for text in [
        "\n".repeat(LINES),
        "é".repeat(COLUMNS + 1),
        format!("pub(super) fn f() {{\n{body}}}\n"),
        format!("    pub const fn f(\n        a: u32,\n    ) {{\n{body}    }}\n"),
    ] {
        assert_eq!(size_complaints(&planted([("src/a.rs", &text)])).len(), 1);
    }
}

#[test]
fn every_operation_has_its_namesakes() {
    let tree = tree();
    none(name_complaints(&tree.keys().map(String::as_str).collect()));
    let whole = ["src/ops/a.rs", "src/ops/cpu/a.rs", "tests/ops/a.rs", "src/ops/mod.rs"];
    let kernel = ["src/ops/cpu/gemm.rs", "src/ops/cuda/a.rs", "kernels/a_row.cu"];
    let whole: BTreeSet<&str> = whole.into_iter().chain(kernel).collect();
    assert!(name_complaints(&whole).is_empty());
    for gone in ["src/ops/a.rs", "src/ops/cpu/a.rs", "tests/ops/a.rs", "src/ops/cuda/a.rs"] {
        let mut some = whole.clone();
        some.remove(gone);
        assert!(!name_complaints(&some).is_empty(), "{gone} is not missed");
    }
}

#[test]
fn danger_and_words_are_where_they_may_be() {
    none(place_complaints(&tree()));
    let complaints = |file, text| place_complaints(&planted([(file, text)])).len();
    assert_eq!(complaints("src/gpu/a.rs", "unsafe { f() }"), 0);
    assert_eq!(complaints("src/cli/a.rs", "println!(\"a\")"), 0);
    assert_eq!(complaints("src/ops/a.rs", "// unsafe, println!\nlet unsafely = 1;"), 0);
    assert_eq!(complaints("src/ops/a.rs", "let x = unsafe { f() };"), 1);
    assert_eq!(complaints("src/ops/a.rs", "eprintln!(\"a\")"), 1);
}

#[test]
fn sizes_of_launches_are_checked() {
    none(cast_complaints(&tree()));
    let complaints = |file, text| cast_complaints(&planted([(file, text)])).len();
    assert_eq!(complaints("src/ops/cuda/a.rs", "N: int(n), // not n as i32"), 0);
    assert_eq!(complaints("src/ops/cuda/a.rs", "N: n as i32,"), 1);
}

#[test]
fn the_library_names_no_flag() {
    none(flag_complaints(&tree()));
    let complaints = |file, text| flag_complaints(&planted([(file, text)])).len();
    assert_eq!(complaints("src/cli/a.rs", "\"say --set v_lr=0.5\""), 0);
    assert_eq!(complaints("src/gpu/nvrtc.rs", "\"--std=c++17\""), 0);
    assert_eq!(complaints("src/ops/a.rs", "let x = y - -z; // a -- b, `incise patch 1`"), 0);
    assert_eq!(complaints("src/edit/a.rs", "\"say --set v_lr=0.5\""), 1);
    assert_eq!(complaints("src/edit/a.rs", "//! as `--state` does"), 1);
    assert_eq!(complaints("src/edit/a.rs", "\"see `incise doctor`\""), 1);
    assert_eq!(complaints("src/store/a.rs", "\"write a new folder with `-o DIR`\""), 1);
}

#[test]
fn no_file_names_a_machine() {
    assert!(machine_path(b"/worker /works /rooted").is_none());
    assert!(machine_path(concat!("in /wo", "rk/main").as_bytes()).is_some());
    if !root().join(".git").exists() {
        println!("skipped: not a clone, so git cannot tell which files belong to it");
        return;
    }
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let files = Command::new("git").args(list).current_dir(root()).output().unwrap();
    assert!(files.status.success(), "git ls-files: {}", String::from_utf8_lossy(&files.stderr));
    let mut complaints = Vec::new();
    for name in String::from_utf8(files.stdout).unwrap().split_terminator('\0') {
        // A file may be deleted and not yet committed as such.
        let bytes = fs::read(root().join(name)).unwrap_or_default();
        complaints.extend(machine_path(&bytes).map(|path| format!("{name}: {path}")));
    }
    none(complaints);
}
