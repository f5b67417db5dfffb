//! What opening and running a checkpoint costs in memory, beside the limits.
//!
//! Three checkpoints: random weights of GPT-2 small's shape (249 MB in BF16) and of Pythia 2.8B's
//! (5.6 GB), and a hole of 30 GB in Llama's. `inspect` opens one and fingerprints it, which samples
//! 64 KiB of each tensor: it must not read the weights. Its limits are 0.2 s, and half of the file
//! for the smallest, as the system maps whole runs of cached pages around each one that is
//! touched. `logits` of lines of tokens must stay below the file's size plus 1 GB, for Pythia
//! 1.5 GB, pages of the mapped file counted.
//!
//! `cargo bench --bench memory` (Linux: peaks are VmHWM of `/proc/PID/status`).

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[allow(dead_code)] // of the support, only shapes
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use incise::base::DType;
use support::shapes::Shape;

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

/// Runs the program and prints what it took beside the limits, in MB and seconds.
fn row(name: &str, args: &[&str], limit: Option<f64>, seconds: Option<f64>) {
    let or_none = |limit: Option<f64>| limit.map_or("none".to_owned(), |x| x.to_string());
    let (peak, took) = peak(args);
    let [limit, seconds] = [limit.map(f64::round), seconds].map(or_none);
    println!("{name:<34}  {peak:>8.0}  {limit:>8}  {took:>8.2}  {seconds:>8}");
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2/tokenizer.json");
    let make = |name: &str, write: &dyn Fn(&Path)| {
        let dir = folder.path().join(name);
        fs::create_dir(&dir).expect("a folder");
        write(&dir);
        fs::copy(tokenizer, dir.join("tokenizer.json")).expect("a tokenizer");
        let size = fs::metadata(dir.join("model.safetensors")).expect("just written").len();
        (dir.display().to_string(), size as f64 / 1e6)
    };
    let lines = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("room for a file");
        path.display().to_string()
    };
    // A token each: the tokenizer has no merge of this character.
    let two = lines("two", format!("{0}\n{0}\n", "!".repeat(512)));
    let one = lines("one", "!".repeat(128) + "\n");
    let out = folder.path().join("out").display().to_string();

    let titles = ["", "peak MB", "limit MB", "seconds", "limit s"];
    let [name, rest @ ..] = titles;
    println!("{name:<34}  {}", rest.map(|t| format!("{t:>8}")).join("  "));
    let (model, file) = make("small", &|dir| Shape::gpt2_small().write(dir, DType::BF16));
    row("GPT-2 small, inspect", &["inspect", &model], Some(file / 2.0), Some(0.2));
    let logits = ["logits", &model, "--prompts", &two, "-o", &out];
    row("GPT-2 small, logits of 2 x 512", &logits, Some(file + 1000.0), None);
    let (model, _) = make("hole", &|dir| Shape::llama_30gb().write_hole(dir, DType::BF16));
    row("Llama, 30 GB, inspect", &["inspect", &model], None, Some(0.2));
    let (model, file) = make("pythia", &|dir| Shape::pythia().write(dir, DType::BF16));
    row("Pythia 2.8B, inspect", &["inspect", &model], None, Some(0.2));
    let logits = ["logits", &model, "--prompts", &one, "-o", &out];
    row("Pythia 2.8B, logits of 128", &logits, Some(file + 1500.0), None);
}
