//! What opening and running a checkpoint costs in memory, beside the limits.
//!
//! Random weights of GPT-2 small's shape in BF16 (249 MB). `inspect` opens it and fingerprints
//! it, which samples 64 KiB of each tensor: it must not read the weights. Its limit is half of the
//! file, for the system maps whole runs of cached pages around each one that is touched. `logits`
//! of two lines of 512 tokens must stay below the file's size plus 1 GB, pages of the mapped file
//! counted.
//!
//! `cargo bench --bench memory` (Linux: peaks are VmHWM of `/proc/PID/status`).

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[allow(dead_code)] // of the support, only shapes
mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use incise::base::DType;
use support::gpt2::Shape;

/// Peak of the resident memory in MB and seconds of a run of the program.
fn peak(args: &[&str]) -> (f64, f64) {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_incise"))
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0.0f64);
    while child.try_wait().expect("our own child").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kb = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        peak = peak.max(kb.unwrap_or(0.0) / 1e3);
        sleep(Duration::from_millis(1));
    }
    assert!(child.wait().expect("our own child").success(), "{args:?}");
    (peak, start.elapsed().as_secs_f64())
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    Shape::SMALL.write(&model, DType::BF16);
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2/tokenizer.json");
    fs::copy(tokenizer, model.join("tokenizer.json")).expect("a tokenizer");
    let prompts = folder.path().join("prompts");
    fs::write(&prompts, format!("{0}\n{0}\n", "!".repeat(512))).expect("room for a file");
    let size = fs::metadata(model.join("model.safetensors")).expect("just written").len();
    let file = size as f64 / 1e6;
    let [model, prompts, out] =
        [&model, &prompts, &folder.path().join("out")].map(|p| p.display().to_string());
    println!("checkpoint of {file:.0} MB    {:>8}  {:>8}  {:>8}", "peak MB", "limit MB", "seconds");
    for (name, args, limit) in [
        ("inspect", vec!["inspect", &*model], file / 2.0),
        ("logits", vec!["logits", &*model, "--prompts", &*prompts, "-o", &*out], file + 1000.0),
    ] {
        let (peak, seconds) = peak(&args);
        println!("{name:<22}  {peak:>8.0}  {limit:>8.0}  {seconds:>8.2}");
    }
}
