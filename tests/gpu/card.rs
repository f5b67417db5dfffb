//! What only a card can show. Without one these tests say that they were skipped, and with
//! `EXPECT_GPU=1` they fail.

use incise::gpu::kernels::FILES;
use incise::gpu::launch::Elem;

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

/// The dry run of `tools/gpu_check`, with the host in the card's place.
#[test]
fn the_check_for_cards_runs() {
    use std::process::Command;
    let test = "gpu::card::the_check_for_cards_runs";
    let Some(twin) = twin::program(test) else { return };
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: {test}: no python3");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let script = crate::support::root().join("tools/gpu_check");
    let mut command = Command::new("python3");
    command.arg(script).args(["--incise", env!("CARGO_BIN_EXE_incise"), "--tests"]);
    command.arg(std::env::current_exe().unwrap()).arg("--twin").arg(twin).arg("--out");
    command.arg(out.path()).args(["--only", "load", "limits", "sanitizer", "kernels", "profile"]);
    let run = command.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let results = std::fs::read(out.path().join("gpu_check.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let rows = results["stages"]["kernels"][0]["numbers"]["rows"].as_array().unwrap();
    let search = rows.iter().any(|row| row["name"].as_str().unwrap().starts_with("value search"));
    assert!(search && rows.iter().all(|row| row["seconds"].as_f64().unwrap() > 0.0));
    // Called again, it goes on after what is finished.
    let again = command.output().unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("kernels: done before"), "{said}");
}
