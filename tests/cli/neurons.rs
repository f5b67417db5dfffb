//! `incise neurons` and `--method kn` on the demo model.

use crate::support::root;
use crate::support::session::{done, fails, json};

#[test]
fn neurons_are_found_and_edited() {
    let folder = tempfile::tempdir().unwrap();
    let demo = root().join("demo").display().to_string();
    let ask = ["neurons", &demo, "--prompt", "Louis Armstrong played the"];
    let found = json(&[&ask[..], &["--json"]].concat());
    let neurons = found["neurons"].as_array().unwrap();
    assert!(!neurons.is_empty() && found["answer"] == " trumpet", "{found}");
    let rests = |n: usize| neurons[n]["attribution"].as_f64().unwrap();
    assert!((1..neurons.len()).all(|n| rests(n - 1) >= rests(n)), "the most first");
    let said = done(&ask);
    assert!(said.contains("rests on") && said.contains("neuron"), "{said}");
    let shared =
        json(&[&ask[..], &["--prompt", "Armstrong was a master of the", "--json"]].concat());
    assert_eq!(shared["p"].as_array().unwrap().len(), 2);
    fails(1, &[&ask[..], &["--answer", "  "]].concat());
    for (option, number) in [("--share", "1"), ("--threshold", "1.5"), ("--share", "NaN")] {
        let said = fails(1, &[&ask[..], &[option, number]].concat());
        assert!(said.contains(&option[2..]) && said.contains("smaller"), "{said}");
    }
    let patch = folder.path().join("kn.patch").display().to_string();
    let request = ["--prompt", "{} played the", "--subject", "Louis Armstrong", "--to", "violin"];
    let how = ["--method", "kn", "-o", &patch, "--json"];
    let edit = json(&[&["edit", &demo], &request[..], &how].concat());
    assert!(edit["facts"][0]["neurons"].as_u64().unwrap() > 0, "{edit}");
    assert!(!edit["layers"].as_array().unwrap().is_empty(), "{edit}");
}
