//! The program on the demo model: an edit beside the weights is made, attached and refused.

use std::fs;

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
    let error = fails(1, &["apply", &demo, &memory, "-o", &at("edited")]);
    assert!(error.contains("beside the weights") && error.contains("--with"), "{error}");
    assert!(!folder.path().join("edited").exists());
    // A memory is replaced by a memory alone.
    done(&[&["edit", &demo], &request[..], &how].concat());
    let patch = ["--method", "ft-m", "--set", "layers=[0]", "-o", &memory];
    let error = fails(1, &[&["edit", &demo], &request[..], &patch].concat());
    assert!(error.contains("patch"), "{error}");
}
