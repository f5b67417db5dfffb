//! What only a card can show. Without one these tests say that they were skipped, and with
//! `EXPECT_GPU=1` they fail.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use incise::gpu::kernels::FILES;
use incise::gpu::launch::Elem;
use serde_json::json;

use crate::support::twin;

#[test]
fn every_image_loads() {
    let Some(card) = twin::card() else {
        eprintln!("skipped: gpu::card::every_image_loads: no driver shows a GPU");
        return;
    };
    let mut loaded = 0;
    for file in FILES {
        for &types in file.variants {
            for kernel in file.kernels {
                card.load(file, kernel, types);
                loaded += 1;
            }
        }
    }
    assert!(loaded > FILES.len());
}

/// More than the pairs hold, to a place that a copy enqueued before still reads.
#[test]
fn large_uploads_arrive_in_turn() {
    let Some(card) = twin::card() else {
        eprintln!("skipped: gpu::card::large_uploads_arrive_in_turn: no driver shows a GPU");
        return;
    };
    let bytes = |seed: usize| -> Vec<u8> {
        (0..(420usize << 20) + 5).map(|i| (i % 251 + i / 4093 * seed) as u8).collect()
    };
    let mut copies = Vec::new();
    for seed in [1, 2, 3] {
        let there = card.upload(Elem::U8, &bytes(seed)).unwrap();
        let mut copy = card.array(Elem::U8, there.len()).unwrap();
        copy.copy(0, &there, 0..there.len());
        copies.push((seed, copy)); // `there` is free for the next, which the copy is not done with
    }
    for (seed, copy) in copies {
        assert!(copy.download() == bytes(seed), "upload {seed}");
    }
}

fn has_python(test: &str) -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {test}: no python3");
    }
    found
}

/// The dry run of `tools/gpu_check`, with the host in the card's place. The stages that are left
/// out run what others do.
#[test]
fn the_check_for_cards_runs() {
    let test = "gpu::card::the_check_for_cards_runs";
    let Some(twin) = twin::program(test) else { return };
    if !has_python(test) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let script = crate::support::root().join("tools/gpu_check");
    let mut command = Command::new("python3");
    command.arg(script).args(["--incise", env!("CARGO_BIN_EXE_incise"), "--tests"]);
    command.arg(std::env::current_exe().unwrap()).arg("--twin").arg(twin).arg("--out");
    command.arg(out.path()).args(["--only", "load", "kernels", "torch", "torch_ops"]);
    command.args(["sanitizer", "profile", "predicted"]);
    // Killed after its first run, it goes on behind that.
    let mut killed = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    let first = lines.map(Result::unwrap).find(|line| line.contains("every image: "));
    // What follows in it, the second run, ends with its reader.
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(first.is_some_and(|line| line.contains(": ok")));
    let run = command.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("every image: done before"), "{said}");
    assert!(said.contains("compared: ok") && said.contains("a calculation, no"), "{said}");
    let results = std::fs::read(out.path().join("gpu_check.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let rows = results["stages"]["kernels"][0]["numbers"]["rows"].as_array().unwrap();
    let search = rows.iter().any(|row| row["name"].as_str().unwrap().starts_with("value search"));
    assert!(search && rows.iter().all(|row| row["seconds"].as_f64().unwrap() > 0.0));
    // Called again, it goes on after what is finished.
    let again = command.output().unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("bench: done before"), "{said}");
}

/// Of made-up results: a measure that is met, two that are not, and what is missing.
#[test]
fn aims_are_compared_with_what_was_measured() {
    if !has_python("gpu::card::aims_are_compared_with_what_was_measured") {
        return;
    }
    let row = |part: &str, name: &str, shape: &str, seconds: f64, work: f64| {
        let limit = (part == "ops").then_some(1.0);
        json!({"part": part, "name": name, "shape": shape, "seconds": seconds, "work": work,
            "limit": limit})
    };
    let run =
        |name: &str, rows: Vec<serde_json::Value>| json!({"name": name, "numbers": {"rows": rows}});
    let serial = row("torch", "value search, serial, f32", "gpt-j-6b", 5.0, 2.0);
    let search =
        |seconds| row("stages", "value search, layer 8", "64 × 31 suffix tokens", seconds, 64.0);
    let factor = row("solves", "factor and solve", "16384", 1.0, 1.0);
    let results = json!({"stages": {
        "kernels": [
            run("bench", vec![
                row("ops", "layer norm, bf16", "9 × 4096", 1.0, 0.95),
                row("ops", "rounding, bf16", "9 × 4096", 1.0, 0.875),
                row("ops", "product with BF16", "8192 × 1 × 1", 1.0, 1.0),
                row("ops", "product with BF16, own", "8192 × 1 × 1", 2.5, 1.0),
                search(6.4),
            ]),
            run("bench, our kernels alone", vec![factor]),
        ],
        "torch": [
            run("ours before", vec![search(3.2)]),
            run("serial, f32", vec![serial]),
            run("ours after", vec![search(3.2)]),
            json!({"name": "late", "code": "late"}),
        ],
    }});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), results.to_string()).unwrap();
    let script = crate::support::root().join("tools/gpu_table.py");
    let run = Command::new("python3").arg(script).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let line = |of: &str| {
        let line = said.lines().find(|line| line.starts_with(of)).unwrap_or_else(|| {
            panic!("no {of} in\n{said}{}", String::from_utf8_lossy(&run.stderr))
        });
        line[of.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (measure, expected) in [
        ("bf16 element-wise and norm kernels, of the rate of a copy", "0.875 ≥ 0.85 met"),
        ("our products beside cuBLASLt's, bf16, 8,192 rows", "0.4 ≥ 0.45 not met"),
        ("value search, exact, s a fact", "0.1 ≤ 0.05 not met"),
        ("value search, exact: times serial PyTorch in f32", "50 ≥ 40 met"),
        ("f64 Cholesky, F 16,384, s", "– ≤ 0.1 not measured"), // by our kernels alone only
    ] {
        assert_eq!(line(measure), expected, "{measure}");
    }
}
