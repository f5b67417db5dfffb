//! Circles between files of the crate: one uses another that, over any number of steps, uses it.
//!
//! What a file uses is what its paths lead to: a path is followed through modules, imports and
//! re-exports to the file that defines its name. A `mod.rs` that only hands names on uses nothing,
//! and a path that leads to no definition counts for its file if that has no folder (kernels are
//! defined in generated text), else for nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{Tree, code, none, planted, tree, words};

/// Circles that there still are. None may grow; what is undone leaves the list.
const KNOWN: &[&[&str]] = &[];

/// A name brought in by `use`: what it is called, the path it stands for, and whether it is handed
/// on. A glob is called `*`.
struct Import {
    name: String,
    path: Vec<String>,
    public: bool,
}

/// A file, as far as paths go.
struct Module<'a> {
    file: &'a str,
    /// What it defines at its top level.
    items: BTreeSet<&'a str>,
    imports: Vec<Import>,
    /// Paths outside `use`.
    paths: Vec<Vec<String>>,
}

/// Modules by their path: `["ops", "cpu", "norm"]`.
struct Modules<'a>(BTreeMap<Vec<String>, Module<'a>>);

fn strings(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// `ops::cpu::norm` of `src/ops/cpu/norm.rs`; `None` outside the library.
fn module_path(file: &str) -> Option<Vec<String>> {
    let inside = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut path: Vec<String> = inside.split('/').map(str::to_owned).collect();
    match inside {
        "main" => return None,
        "lib" => path.clear(),
        _ => path.truncate(path.len() - usize::from(inside.ends_with("/mod"))),
    }
    Some(path)
}

/// The name that a line at the left margin defines.
fn defined(line: &str) -> Option<&str> {
    const KINDS: [&str; 9] =
        ["fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"];
    const BEFORE: [&str; 6] = ["pub", "crate", "super", "unsafe", "async", "mut"];
    if line.starts_with(char::is_whitespace) {
        return None;
    }
    let mut is_item = false;
    for word in words(line) {
        is_item |= KINDS.contains(&word);
        if !KINDS.contains(&word) && !BEFORE.contains(&word) {
            return is_item.then_some(word);
        }
    }
    None
}

/// Appends what a tree of imports, `a::{b, c as d, e::*}`, brings in.
fn expand(tree: &str, before: &[String], public: bool, imports: &mut Vec<Import>) {
    let (head, group) = match tree.split_once('{') {
        Some((head, group)) => (head, group.trim().strip_suffix('}')),
        None => (tree, None),
    };
    let (head, renamed) = match head.split_once(" as ") {
        Some((head, name)) => (head, Some(name.trim())),
        None => (head, None),
    };
    let mut path = [before, &strings(head)].concat();
    let Some(group) = group else {
        let last = path.pop_if(|last| last == "self" || last == "*");
        let glob = last.is_some_and(|last| last == "*");
        let name = if glob { Some("*") } else { renamed.or(path.last().map(String::as_str)) };
        let name = name.unwrap_or_default().to_owned();
        return imports.push(Import { name, path, public });
    };
    let (mut depth, mut start) = (0, 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&group[start..i], &path, public, imports);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        expand(&group[start..], &path, public, imports);
    }
}

/// Takes the `use` statements out of a text; what is left has the other paths.
fn imports(text: &str) -> (Vec<Import>, String) {
    let (mut imports, mut left) = (Vec::new(), String::new());
    let mut lines = text.lines().map(code);
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        let shown = match start.strip_prefix("pub").map(str::trim_start) {
            Some(rest) if rest.starts_with('(') => rest.split_once(") ").map(|(_, rest)| rest),
            rest => rest,
        };
        let Some(tree) = shown.unwrap_or(start).strip_prefix("use ") else {
            left.push_str(line);
            left.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            let Some(next) = lines.next() else { break };
            tree.push(' ');
            tree.push_str(next.trim());
        }
        expand(tree.trim_end_matches(';'), &[], shown.is_some(), &mut imports);
    }
    (imports, left)
}

impl<'a> Modules<'a> {
    fn read(tree: &'a Tree) -> Modules<'a> {
        let mut modules = BTreeMap::new();
        for (file, text) in tree {
            let Some(path) = module_path(file) else { continue };
            let (imports, left) = imports(text);
            let no_path = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
            let paths = left.split(no_path).filter(|p| p.contains("::") && !p.starts_with(':'));
            let paths = paths.map(strings).collect();
            let items = text.lines().map(code).filter_map(defined).collect();
            modules.insert(path, Module { file, items, imports, paths });
        }
        Modules(modules)
    }

    /// The file that defines what a path leads to, seen from a module. `None` where the path ends
    /// in a module, leaves the crate or is not understood; `steps` bounds imports of imports.
    fn defining(&self, from: &[String], path: &[String], steps: usize) -> Option<&'a str> {
        let steps = steps.checked_sub(1)?;
        let (first, mut rest) = path.split_first()?;
        let mut at = from.to_vec();
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop()?;
            }
            _ => return self.named(&at, path, false, steps),
        }
        while let Some(left) = rest.strip_prefix(&["super".to_owned()]) {
            at.pop()?;
            rest = left;
        }
        self.named(&at, rest, true, steps)
    }

    /// The same for a path that begins in a module; `whole` if it is known to do so.
    fn named(&self, at: &[String], path: &[String], whole: bool, steps: usize) -> Option<&'a str> {
        let (name, rest) = path.split_first()?;
        let below = [at, std::slice::from_ref(name)].concat();
        if self.0.contains_key(&below) {
            return self.named(&below, rest, true, steps);
        }
        let module = self.0.get(at)?;
        if module.items.contains(name.as_str()) {
            return Some(module.file);
        }
        let follow = |target: &[String]| self.defining(at, target, steps);
        for import in module.imports.iter().filter(|i| i.name == *name && i.path != path) {
            if let Some(file) = follow(&[&import.path, rest].concat()) {
                return Some(file);
            }
        }
        for glob in module.imports.iter().filter(|i| i.name == "*") {
            if let Some(file) = follow(&[&glob.path, path].concat()) {
                return Some(file);
            }
        }
        let imported = module.imports.iter().any(|i| i.name == *name);
        let leaf = !module.file.ends_with("/mod.rs") && !at.is_empty();
        (whole && leaf && !imported).then_some(module.file)
    }

    /// The files that each file uses.
    fn uses(&self) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let mut uses = BTreeMap::new();
        for (path, module) in &self.0 {
            let hands_on = module.file.ends_with("/mod.rs") || path.is_empty();
            let imported = module.imports.iter().filter(|i| !(i.public && hands_on));
            let paths = imported.map(|i| &i.path).chain(&module.paths);
            let mut used: BTreeSet<&str> =
                paths.filter_map(|p| self.defining(path, p, 16)).collect();
            used.remove(module.file);
            uses.insert(module.file, used);
        }
        uses
    }
}

/// Sets of files each of which uses, over some steps, all others of its set.
fn circles<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<BTreeSet<&'a str>> {
    let reached = |from: &'a str| {
        let mut reached = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(file) = todo.pop() {
            todo.extend(uses[file].iter().filter(|other| reached.insert(**other)));
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|f| (*f, reached(f))).collect();
    let circle = |file: &&'a str| -> BTreeSet<&'a str> {
        reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect()
    };
    let circles: BTreeSet<_> = uses.keys().map(circle).filter(|c| c.len() > 1).collect();
    circles.into_iter().collect()
}

fn circle_complaints(tree: &Tree, known: &[&[&str]]) -> Vec<String> {
    let uses = Modules::read(tree).uses();
    let circles = circles(&uses);
    let mut complaints = Vec::new();
    let is_known = |c: &BTreeSet<&str>| known.iter().any(|k| c.iter().all(|f| k.contains(f)));
    for circle in circles.iter().filter(|c| !is_known(c)) {
        let mut complaint = format!("a circle of {} files:", circle.len());
        for file in circle {
            let others: Vec<&str> = uses[file].intersection(circle).copied().collect();
            complaint += &format!("\n    {file} uses {}", others.join(", "));
        }
        complaints.push(complaint);
    }
    for gone in known.iter().filter(|k| !circles.iter().any(|c| c.iter().all(|f| k.contains(f)))) {
        complaints.push(format!("no circle any more, take it off the list: {}", gone.join(", ")));
    }
    complaints
}

#[test]
fn files_use_each_other_one_way() {
    none(circle_complaints(&tree(), KNOWN));
}

#[test]
fn planted_circles_are_found() {
    let complaints = |mid: &str, a: &str, b: &str| {
        let lib = ("src/lib.rs", "pub mod m;\npub use m::A;\n");
        let files = [lib, ("src/m/mod.rs", mid), ("src/m/a.rs", a), ("src/m/b.rs", b)];
        circle_complaints(&planted(files), &[]).len()
    };
    let (parts, a, b) = ("mod a;\nmod b;\n", "pub struct A;\n", "pub fn b() {}\n");
    let hands_on = "mod a;\nmod b;\npub use a::A;\npub use b::*;\n";
    // Each with a use of b in a: what b says then makes it a circle.
    for (mid, in_a) in [
        (parts, "use super::b::b;\n"),
        (parts, "use super::b;\nfn f() { b::b() }\n"),
        (parts, "fn f() { crate::m::b::b() }\n"),
        (parts, "use crate::{m::{b::{b as c}}};\n"),
        (hands_on, "use super::b;\nfn f() { b::b() }\n"),
        (hands_on, "use crate::m::{self};\nfn f() { m::b::b() }\n"),
    ] {
        let in_a = in_a.to_owned() + a;
        assert_eq!(complaints(mid, &in_a, b), 0, "{in_a}");
        assert_eq!(complaints(mid, &in_a, &format!("// super::a::A\n{b}")), 0);
        assert_eq!(complaints(mid, &in_a, &format!("use super::a;\n{b}")), 0, "nothing is used");
        for in_b in ["use super::a::A;", "use crate::m::a::*;\nfn f(_: crate::m::a::A) {}"] {
            assert_eq!(complaints(mid, &in_a, &format!("{in_b}\n{b}")), 1, "{in_a} {in_b}");
        }
    }
    let in_a = format!("use super::b::b;\n{a}");
    for in_b in ["use super::A;", "use crate::A;", "use crate::m;\nfn f(_: m::A) {}"] {
        assert_eq!(complaints(hands_on, &in_a, &format!("{in_b}\n{b}")), 1, "{in_b}");
    }
    // A parent that uses its children is on no circle until one of them uses what it defines.
    let parent = format!("{parts}pub struct M(a::A);\n");
    assert_eq!(complaints(&parent, a, b), 0);
    assert_eq!(complaints(&parent, &format!("use super::M;\n{a}"), b), 1);
}

#[test]
fn known_circles_may_shrink_and_leave_the_list() {
    let files = [
        ("src/a.rs", "use crate::b::B;\npub struct A;"),
        ("src/b.rs", "use crate::a::A;\npub struct B;"),
        ("src/c.rs", "pub struct C;"),
    ];
    let complaints = |known| circle_complaints(&planted(files), known);
    assert_eq!(complaints(&[]).len(), 1);
    assert!(complaints(&[&["src/a.rs", "src/b.rs"]]).is_empty());
    assert!(complaints(&[&["src/a.rs", "src/b.rs", "src/c.rs"]]).is_empty());
    assert_eq!(complaints(&[&["src/a.rs", "src/b.rs"], &["src/b.rs", "src/c.rs"]]).len(), 1);
}
