//! GGUF files on the command line.

use std::fs;

use crate::model::gguf::small;
use crate::support::session::{done, fails, json};

#[test]
fn a_file_is_inspected_imported_and_run() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let (file, out) = (at("x.gguf"), at("model"));
    fs::write(&file, small().bytes()).unwrap();

    let said = done(&["inspect", &file]);
    for line in [
        "model        llama layout in GGUF, 53.2 kparameters, 213 kB",
        "types        F32 30 tensors",
        "layers       3 of width 36, inner 50",
        "editable     blk.0.ffn_down.weight F32 … blk.2.ffn_down.weight F32",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let shown = json(&["inspect", &file, "--json"]);
    assert_eq!(shown["types"]["F32"], 30);
    assert_eq!(shown["config"]["hidden_size"], 36);

    let said = done(&["import", &file, "-o", &out]);
    assert!(said.starts_with("llama layout, 30 tensors, 213 kB, in "), "{said}");
    let why = fails(1, &["import", &file, "-o", &out]);
    assert!(why.contains("model: folder: is there and not empty"), "{why}");
    let made = json(&["import", &file, "-o", &at("half"), "--dtype", "bf16", "--json"]);
    assert_eq!((&made["family"], &made["tensors"]), (&"llama".into(), &30.into()));
    assert!(done(&["inspect", &at("half")]).contains("BF16"));

    let words = |model: &str| done(&["generate", model, "--prompt", "a sea", "--max-tokens", "8"]);
    let from_folder = words(&out);
    assert!(from_folder.starts_with("a sea"), "{from_folder}");
    assert_eq!(words(&file), from_folder);
}

/// Commands that take a folder say what to do with a file.
#[test]
fn a_file_in_the_place_of_a_folder() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("x.gguf").display().to_string();
    fs::write(&file, small().bytes()).unwrap();
    let why = fails(1, &["stats", &file, "--layers", "0", "--corpus", &file, "-o", "x"]);
    assert!(why.contains("x.gguf"), "{why}");
    assert!(done(&["log", &file]).contains("nothing was applied in place"));
    fs::write(&file, b"GGUF").unwrap();
    for command in [&["inspect", &file][..], &["generate", &file, "--prompt", "a"]] {
        let why = fails(1, command);
        assert!(why.contains("x.gguf: version: 4 bytes are wanted and 0 are left"), "{why}");
    }
}
