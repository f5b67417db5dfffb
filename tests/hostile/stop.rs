//! Cancellation at every moment of each long command: what was there stays, what was finished is
//! kept, and the same command goes on. One edit meets the signals themselves.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use incise::base::{DType, Rng};
use incise::store::{Change, Delta, Patch, tensor_fingerprint};

use crate::store::toy::{A, Toy, metadata, tensor};
use crate::support::session::{Session, done, fails, incise, json, strs, text};

/// Runs the program, which is cancelled at the n-th time that it asks.
fn cancelled(args: &[&str], n: u64) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    command.args(args).env("INCISE_CANCEL_AT", n.to_string()).output().unwrap()
}

/// Runs the program and sends it a signal after a while: INT, as Ctrl-C does, or TERM.
fn interrupted(args: &[&str], signal: &str, after: Duration) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    let mut child =
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sleep(after);
    let kill = format!("kill -{signal} {}", child.id());
    // It may have ended by now. A signal that comes while the handler is being installed is lost.
    let mut ends = || {
        Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() && begin.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(2));
        }
        child.try_wait().unwrap().is_some()
    };
    assert!(ends() || ends(), "it goes on after two signals");
    child.wait_with_output().unwrap()
}

/// Whether it came to its end; else it said that it was interrupted.
#[track_caller]
fn finished(out: &Output) -> bool {
    let error = text(&out.stderr);
    match out.status.code() {
        Some(0) => true,
        code => {
            assert_eq!(code, Some(1), "{error}");
            assert!(error.contains("incise: interrupted; "), "{error}");
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
        rows: None,
        out: n,
        inner: n,
        fan_in_fan_out: false,
        fingerprint: tensor_fingerprint(&tensor(&toy.dir, A)),
        keys: None,
        delta: Delta::LowRank { left: draw(), right: draw(), r: 1 },
    };
    Patch { changes: vec![change], metadata: metadata(), file: None }.write(&path).unwrap();
    path.display().to_string()
}

#[test]
fn apply_and_undo_leave_all_old_or_all_new() {
    const N: usize = 512;
    let toy = Toy::new(DType::F32, [N, N]);
    let (model, patch) = (toy.dir.display().to_string(), patch(&toy, N));
    let (apply, undo) = (["apply", &*model, &*patch, "--in-place"], ["undo", &*model]);
    let old = toy.bytes();
    done(&apply);
    let new = toy.bytes();
    done(&undo);
    assert!(old != new && toy.bytes() == old);
    let changes = || json(&["log", &model, "--json"]).as_array().unwrap().len();
    for n in 1.. {
        let whole = finished(&cancelled(&apply, n));
        assert_eq!(changes(), usize::from(whole), "what was interrupted is not there");
        assert!(toy.bytes() == *if whole { &new } else { &old }, "at question {n}");
        if whole {
            assert!(n > 2, "{n}: never asked");
            break;
        }
    }
    // Undoing is not cancelled: it brings back what the user wants back.
    assert!(finished(&cancelled(&undo, 1)));
    assert_eq!(changes(), 0);
    assert!(toy.bytes() == old);
    let copy = toy.beside("copy");
    let to_folder = ["apply", &model, &patch, "-o", copy.to_str().unwrap()];
    for n in 1.. {
        let whole = finished(&cancelled(&to_folder, n));
        assert_eq!(copy.exists(), whole);
        let left = fs::read_dir(toy.temp.path()).unwrap().count();
        assert_eq!(left, 2 + usize::from(whole), "only the model and the patch are there");
        if whole {
            assert!(n > 2, "{n}: never asked");
            break;
        }
    }
}

/// What a killed apply leaves before it writes the first byte is a change to be undone, and the one
/// before it stays. A damaged lineage is no reason not to list the changes.
#[test]
fn an_undo_after_a_kill_says_what_it_did() {
    let toy = Toy::new(DType::F32, [7, 7]);
    let (model, patch) = (toy.dir.display().to_string(), patch(&toy, 7));
    let old = toy.bytes();
    done(&["apply", &model, &patch, "--in-place"]);
    let new = toy.bytes();
    fs::write(toy.dir.join(".incise/lineage.json"), "{").unwrap();
    let log = incise(&["log", &model]);
    assert!(log.status.success() && text(&log.stdout).contains("3 facts by rome"));
    assert!(text(&log.stderr).contains("lineage.json: JSON:"), "{}", text(&log.stderr));
    fs::write(toy.dir.join(".incise/0002.partial"), "").unwrap();
    let said = done(&["undo", &model]);
    assert!(said.starts_with("rolled back a change that was cut off"), "{said}");
    assert!(old != new && toy.bytes() == new);
    let undone = json(&["undo", &model, "--json"]);
    assert_eq!((&undone["undone"][0], &undone["rolled_back"]), (&1.into(), &false.into()));
    assert!(toy.bytes() == old);
    assert!(fails(1, &["undo", &model]).contains("no change is applied"));
}

/// Interrupted as often as it takes, the same statistics come out.
#[test]
fn statistics_go_on_where_they_stopped() {
    let s = Session::new("gpt2");
    let line = |i: usize| format!("Line {i} says {} of the sea.\n", "nothing ".repeat(i % 7));
    fs::write(s.at("corpus.txt"), (0..1000).map(line).collect::<String>()).unwrap();
    let (model, corpus) = (s.at("model"), s.at("corpus.txt"));
    let command = |out: &str| {
        let all = ["--max-tokens", "1000000", "-o", out];
        let args = ["stats", &model, "--layers", "0-1", "--corpus", &corpus];
        args.into_iter().chain(all).map(String::from).collect::<Vec<_>>()
    };
    let [whole, parts] = ["whole", "parts"].map(|name| command(&s.at(name)));
    done(&strs(&whole));
    let mut kept = 0;
    loop {
        let out = cancelled(&strs(&parts), 8);
        if finished(&out) {
            break;
        }
        assert!(text(&out.stderr).contains("the same call goes on"));
        assert!(!Path::new(&s.at("parts/layer-0.safetensors")).exists());
        kept += 1;
    }
    assert!(kept > 1, "interrupted {kept} times");
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
    let unchanged = || assert!(fs::read(s.at("patch.safetensors")).unwrap() == older);
    for n in [1, 2, 5] {
        assert!(!finished(&cancelled(&strs(&s.edit(&[])), n)), "question {n}");
        unchanged();
    }
    // A signal, later and later until the program is there to hear it.
    let endless = s.edit(&["--set", "v_num_grad_steps=1000000", "--set", "v_lr=1e-12"]);
    for signal in ["INT", "TERM"] {
        let mut waits = (0..14).map(|i| Duration::from_millis(2 << i));
        let heard = waits.any(|wait| {
            let out = interrupted(&strs(&endless), signal, wait);
            unchanged();
            // Before the program listens, the signal ends it.
            out.status.code().is_some() && !finished(&out)
        });
        assert!(heard, "no {signal} came after the start");
    }
}

/// A training that was cut off is kept until the patch is written, beside no file of values; one
/// that is damaged is nothing to a method that searches none.
#[test]
fn a_training_is_kept_until_it_has_served() {
    let s = Session::new("gpt2");
    let (model, requests, patch) = (s.at("model"), s.at("requests.jsonl"), s.at("ft.safetensors"));
    let (kept, values) = (s.at("ft.safetensors.kept"), s.at("ft.safetensors.kept/values"));
    let set = ["--set", "layers=[1]", "--set", "num_steps=8", "--set", "lr=0.01"];
    let train = ["edit", &*model, &*requests, "--method", "ft-m", "-o", &*patch];
    let train = [&train[..], &set].concat();
    let files = || {
        let mut names: Vec<String> = fs::read_dir(&kept)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .map(|name| name.split('-').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let mut n = 1;
    while !Path::new(&kept).exists() || files() != ["lock", "training"] {
        assert!(!finished(&cancelled(&train, n)), "nothing was kept up to question {n}");
        n += 1;
    }
    fs::write(&values, "no values").unwrap();
    done(&train);
    assert_eq!(files(), ["lock", "values"], "what is ours is gone");
    fs::remove_file(&values).unwrap();
    done(&train);
    assert!(!Path::new(&kept).exists(), "and the folder, where there is nothing else");
}

/// Logits are written whole or not at all.
#[test]
fn logits_are_whole_or_absent() {
    let s = Session::new("gpt2");
    let line = |i: usize| format!("Line {i} says {} of the sea.\n", "nothing ".repeat(i % 7));
    fs::write(s.at("prompts"), (0..60).map(line).collect::<String>()).unwrap();
    let (model, prompts, out) = (s.at("model"), s.at("prompts"), s.at("logits"));
    let args = ["logits", &model, "--prompts", &prompts, "-o", &out];
    for (n, whole) in [(1, false), (2, false), (30, false), (60, false), (61, true)] {
        assert_eq!(finished(&cancelled(&args, n)), whole, "question {n}");
        assert_eq!(Path::new(&out).exists(), whole);
    }
}
