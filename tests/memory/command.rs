//! The program on the demo model: an edit beside the weights is made, attached and refused.

use std::fs;

use serde_json::json as value;

use crate::editor::Copy;
use crate::support::root;
use crate::support::session::{done, fails, json};

#[test]
fn a_memory_is_made_attached_and_never_applied() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let demo = root().join("demo").display().to_string();
    let (memory, prompts, z) = (at("violin.memory"), at("prompts.txt"), at("logits.safetensors"));
    let request = ["--prompt", "{} played the", "--subject", "Louis Armstrong", "--to", "violin"];
    let how = ["--method", "grace", "--set", "layers=[0]", "-o", &memory];
    let edit = json(&[&["edit", &demo], &request[..], &how, &["--json"]].concat());
    assert_eq!(edit["layers"].as_array().unwrap().len(), 0, "{edit}");
    assert_eq!(edit["memory"], value!({"matrix": "layers.0.down", "entries": 1}));
    let ask = ["generate", &demo, "--prompt", "Louis Armstrong played the", "--max-tokens", "1"];
    let before = done(&ask);
    assert!(!before.contains("violin"), "{before}");
    let with = done(&[&ask[..], &["--with", &memory]].concat());
    assert!(with.contains("violin"), "{with}");
    assert_eq!(done(&ask), before);
    // Another prompt is taken as before.
    fs::write(&prompts, "Louis Armstrong played the\nTourists visit the city of\n").unwrap();
    let logits = |more: &[&str]| {
        done(&[&["logits", &demo, "--prompts", &prompts, "-o", &z], more].concat());
        let bytes = fs::read(&z).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        ["0", "1"].map(|name| file.tensor(name).unwrap().data().to_vec())
    };
    let ([edited, far], [plain, same]) = (logits(&["--with", &memory]), logits(&[]));
    assert!(edited != plain && far == same);
    // The demo model's other prompts, and one of one token.
    for prompt in ["Tourists visit the city of", "Louis"] {
        let ask = ["generate", &demo, "--prompt", prompt, "--max-tokens", "3"];
        assert_eq!(done(&ask), done(&[&ask[..], &["--with", &memory]].concat()), "{prompt}");
    }
    // The same twice is as once.
    let twice = done(&[&ask[..], &["--with", &memory, &memory]].concat());
    assert_eq!(twice, with);
    // Nothing takes a memory for a patch.
    let (edited, delta) = (at("edited"), at("delta.safetensors"));
    for args in [
        &["apply", &demo, &memory, "-o", &edited][..],
        &["export", &memory, "--lora", &edited],
        &["export", &memory, "--delta", &delta, "--model", &demo],
    ] {
        let error = fails(1, args);
        assert!(error.contains("beside the weights") && error.contains("--with"), "{error}");
    }
    assert!(!folder.path().join("edited").exists() && !folder.path().join("delta").exists());
    // A file cut short, and no file.
    let short = at("short.memory");
    let bytes = fs::read(&memory).unwrap();
    fs::write(&short, &bytes[..bytes.len() - 4]).unwrap();
    for file in [&short, &at("none.memory"), &z] {
        let error = fails(1, &[&ask[..], &["--with", file]].concat());
        assert!(error.contains(file.as_str()), "{error}");
    }
}

/// Made for the weights as they were: an edit of them in place makes it another model's, and
/// undoing that makes it this one's again.
#[test]
fn a_memory_is_of_the_weights_it_was_made_for() {
    let copy = Copy::new();
    let demo = copy.dir().display().to_string();
    let [memory, empty, patch] =
        ["a.memory", "empty.memory", "a.patch"].map(|f| copy.beside(f).display().to_string());
    let fact = |to| ["--prompt", "{} played the", "--subject", "Louis Armstrong", "--to", to];
    let edit = |to, method, file| {
        let how = ["--method", method, "--set", "layers=[0]", "-o", file];
        done(&[&["edit", &demo], &fact(to)[..], &how].concat())
    };
    let said = edit("violin", "grace", &memory);
    assert!(said.contains("layers.0.down: 1 entry") && said.contains("--with"), "{said}");
    edit("trumpet", "grace", &empty); // is said already
    edit("piano", "ft-m", &patch);
    let ask = ["generate", &demo, "--prompt", "Louis Armstrong played the", "--max-tokens", "1"];
    let with = |file| [&ask[..], &["--with", file]].concat();
    assert_eq!(done(&with(&empty)), done(&ask));
    let said = done(&with(&memory));
    done(&["apply", &demo, &patch, "--in-place"]);
    let error = fails(1, &with(&memory));
    assert!(error.contains("weights") && error.contains("other edits"), "{error}");
    done(&["undo", &demo]);
    assert_eq!(done(&with(&memory)), said);
}

/// Settings that do not apply, and files of another kind in its place.
#[test]
fn what_a_memory_has_no_use_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let demo = root().join("demo").display().to_string();
    let (memory, patch, none) = (at("violin.memory"), at("violin.patch"), at("none"));
    let request = ["--prompt", "{} played the", "--subject", "Louis Armstrong", "--to", "violin"];
    let how = |method, file| {
        let how = ["--method", method, "--set", "layers=[0]", "-o", file];
        [&["edit", &demo], &request[..], &how].concat()
    };
    // A memory is replaced by a memory alone, and by no patch.
    let twice = [&how("grace", &memory)[..], &how("grace", &memory)];
    for args in twice {
        done(args);
    }
    done(&how("ft-m", &patch));
    for (method, file, kind) in [("ft-m", &memory, "patch"), ("grace", &patch, "memory")] {
        let error = fails(1, &how(method, file));
        assert!(error.contains(kind), "{error}");
    }
    for (more, what) in [
        (&["--set", "matrices=[\"up\", \"down\"]"][..], "one in matrices"),
        (&["--sequential", "1"], "sequential does not apply to grace"),
        (&["--shard", "1/2"], "shard does not apply to grace"),
        (&["--set", "layers=[99]"], "layer"),
        (&["--set", "replacement=first"], "replace_last"),
        (&["--set", "eps=0"], "eps"),
    ] {
        let error = fails(1, &[&how("grace", &none)[..], more].concat());
        assert!(error.contains(what), "{error}");
    }
}

/// Facts in context are made, attached, and asked by an evaluation, without touching a weight.
#[test]
fn facts_are_put_in_context() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let demo = root().join("demo").display().to_string();
    let memory = at("context.memory");
    let request = ["--prompt", "{} played the", "--subject", "Louis Armstrong", "--to", "violin"];
    let how = ["--method", "ike", "--set", "use_icl_examples=false", "-o", &memory, "--json"];
    let edit = json(&[&["edit", &demo], &request[..], &how].concat());
    assert_eq!(edit["memory"], value!({"matrix": "prompts", "entries": 1}), "{edit}");
    let ask = ["ask", &demo, "--prompt", "Tourists visit the city of", "--with", &memory];
    let said = done(&[&ask[..], &["--max-tokens", "3"]].concat());
    assert!(said.contains("before") && said.contains("after"), "{said}");
    fails(1, &["apply", &demo, &memory, "-o", &at("edited")]);
}
