//! Ctrl-C at several moments of each long command: what was there stays, what was finished is
//! kept, and the same command goes on.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use incise::base::{DType, Rng};
use incise::store::{Change, Delta, Patch, tensor_fingerprint};

use crate::cli::{Session, done, json, strs, text};
use crate::store::toy::{A, Toy, metadata, tensor};

/// Runs the program and presses Ctrl-C after a while.
fn interrupted(args: &[&str], after: Duration) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sleep(after);
    let kill = format!("kill -INT {}", child.id());
    // It may have ended by now.
    Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
    child.wait_with_output().unwrap()
}

/// It ended by itself, or said that it was interrupted, or had not begun when the signal came.
#[track_caller]
fn said(out: &Output) -> bool {
    let error = text(&out.stderr);
    match out.status.code() {
        Some(0) => true,
        Some(1) => {
            assert!(error.contains("incise: interrupted; "), "{error}");
            false
        }
        code => {
            assert!(code.is_none() && error.is_empty(), "{code:?}: {error}");
            false
        }
    }
}

/// A patch of all of A, which is (n, n).
fn patch(toy: &Toy, n: usize) -> String {
    let path = toy.beside("patch.safetensors");
    let mut rng = Rng::new(0, "patch");
    let mut draw = || (0..n).map(|_| 0.1 * rng.normal() as f32).collect();
    let change = Change {
        tensor: A.into(),
        module: "a".into(),
        out: n,
        inner: n,
        fan_in_fan_out: false,
        fingerprint: tensor_fingerprint(&tensor(&toy.dir, A)),
        delta: Delta::LowRank { left: draw(), right: draw(), r: 1 },
    };
    Patch { changes: vec![change], metadata: metadata() }.write(&path).unwrap();
    path.display().to_string()
}

#[test]
fn apply_and_undo_leave_all_old_or_all_new() {
    const N: usize = 2048;
    let toy = Toy::new(DType::F32, [N, N]);
    let (model, patch) = (toy.dir.display().to_string(), patch(&toy, N));
    let (apply, undo) = (["apply", &*model, &*patch, "--in-place"], ["undo", &*model]);
    let old = toy.bytes();
    let begun = Instant::now();
    done(&apply);
    let whole = begun.elapsed();
    let new = toy.bytes();
    done(&undo);
    let mut stopped = 0;
    for part in 1..=12 {
        let finished = said(&interrupted(&apply, whole * part / 12));
        stopped += usize::from(!finished);
        let log = json(&["log", &model, "--json"]).as_array().unwrap().len();
        assert_eq!(log, usize::from(finished), "what was interrupted is not there");
        assert!(toy.bytes() == if finished { new.clone() } else { old.clone() }, "at {part}/12");
        if finished {
            // Undoing is not stopped: it brings back what the user wants back.
            let undone = said(&interrupted(&undo, whole * part / 24));
            let log = json(&["log", &model, "--json"]).as_array().unwrap().len();
            assert_eq!(log, usize::from(!undone));
            if !undone {
                done(&undo);
            }
        }
        assert!(toy.bytes() == old, "at {part}/12");
    }
    assert!(stopped > 0, "no signal came in time");
    let copy = toy.beside("copy");
    let to_folder = ["apply", &model, &patch, "-o", copy.to_str().unwrap()];
    for part in 1..=6 {
        let finished = said(&interrupted(&to_folder, whole * part / 6));
        assert_eq!(copy.exists(), finished);
        let _ = fs::remove_dir_all(&copy);
        let left = fs::read_dir(toy.temp.path()).unwrap().count();
        assert_eq!(left, 2, "only the model and the patch are there");
    }
}

/// Interrupted as often as it takes, the same statistics come out.
#[test]
fn statistics_go_on_where_they_stopped() {
    let s = Session::new("gpt2");
    let line = |i: usize| format!("Line {i} says {} of the sea.\n", "nothing ".repeat(i % 7));
    fs::write(s.at("corpus.txt"), (0..12_000).map(line).collect::<String>()).unwrap();
    let (model, corpus) = (s.at("model"), s.at("corpus.txt"));
    let command = |out: &str| {
        [
            "stats",
            &model,
            "--layers",
            "0-1",
            "--corpus",
            &corpus,
            "--max-tokens",
            "1000000",
            "-o",
            out,
        ]
        .map(String::from)
    };
    let [whole, parts] = ["whole", "parts"].map(|name| command(&s.at(name)));
    let begun = Instant::now();
    done(&strs(&whole));
    let each = begun.elapsed() / 4;
    let mut kept = 0;
    for _ in 0..100 {
        let out = interrupted(&strs(&parts), each);
        if said(&out) {
            break;
        }
        kept += usize::from(text(&out.stderr).contains("the same command goes on"));
        assert!(!Path::new(&s.at("parts/layer-0.safetensors")).exists());
    }
    assert!(kept > 0, "no signal came in time");
    for layer in ["layer-0.safetensors", "layer-1.safetensors"] {
        let file = |folder: &str| fs::read(s.at(&format!("{folder}/{layer}"))).unwrap();
        assert!(file("parts") == file("whole"), "{layer}");
    }
    assert!(!Path::new(&s.at("parts/partial.safetensors")).exists());
}

/// An edit that is interrupted writes no patch, and an older one stays.
#[test]
fn an_edit_leaves_no_half_patch() {
    let s = Session::new("gpt2");
    s.stats();
    done(&strs(&s.edit(&[])));
    let older = fs::read(s.at("patch.safetensors")).unwrap();
    let edit = s.edit(&["--set", "v_num_grad_steps=1000000", "--set", "v_lr=1e-12"]);
    let mut stopped = 0;
    for ms in [0, 5, 20, 80, 300, 600] {
        let out = interrupted(&strs(&edit), Duration::from_millis(ms));
        assert!(!said(&out));
        stopped += usize::from(out.status.code() == Some(1));
        assert!(fs::read(s.at("patch.safetensors")).unwrap() == older);
    }
    assert!(stopped > 0, "no signal came after the start");
}

/// Logits are written whole or not at all.
#[test]
fn logits_are_whole_or_absent() {
    let s = Session::new("gpt2");
    let line = |i: usize| format!("Line {i} says {} of the sea.\n", "nothing ".repeat(i % 7));
    fs::write(s.at("prompts"), (0..600).map(line).collect::<String>()).unwrap();
    let (model, prompts, out) = (s.at("model"), s.at("prompts"), s.at("logits"));
    let args = ["logits", &model, "--prompts", &prompts, "-o", &out];
    let begun = Instant::now();
    done(&args);
    let (whole, size) = (begun.elapsed(), fs::metadata(&out).unwrap().len());
    for part in 1..=6 {
        fs::remove_file(&out).unwrap();
        let finished = said(&interrupted(&args, whole * part / 8));
        assert_eq!(Path::new(&out).exists(), finished);
        if !finished {
            done(&args);
        }
        assert_eq!(fs::metadata(&out).unwrap().len(), size);
    }
}
