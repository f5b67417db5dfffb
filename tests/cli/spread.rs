//! Several machines: what shards find, merged, gives what one machine gives, byte for byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use incise::stats::Moment;
use incise::store::Patch;
use serde_json::json;

use crate::support::session::{Session, done, fails, json, strs, text};

/// A session with requests and settings for MEMIT, and statistics.
fn session() -> Session {
    let s = Session::new("gpt2");
    let hparams = json!({
        "layers": [0, 1], "v_num_grad_steps": 6, "v_lr": 0.5, "v_weight_decay": 0.01,
        "v_loss_layer": 2, "clamp_norm_factor": 4, "kl_factor": 0.0625,
        "mom2_adjustment": true, "mom2_update_weight": 5,
    });
    fs::write(s.at("hparams.json"), hparams.to_string()).unwrap();
    requests(&s, "requests.jsonl", &["a", "b", "c", "d", "e"]);
    s.stats();
    s
}

/// A file of the facts of these ids.
fn requests(s: &Session, name: &str, ids: &[&str]) {
    let line = |id: &&str| {
        let (prompt, subject, target) = match *id {
            "a" => ("{} is in", "Big Ben", "Paris"),
            "b" => ("The mother tongue of {} is", "Danielle Darrieux", "French"),
            "c" => ("{} lives in", "Leonhard Euler", "German"),
            "d" => ("See {}", "東京", "Paris"),
            "e" => ("The capital of {}", "Japan", "Berlin"),
            _ => ("The tower of {}", "London", "Rome"),
        };
        let all = json!({"id": id, "prompt": prompt, "subject": subject, "target_new": target});
        format!("{all}\n")
    };
    fs::write(s.at(name), ids.iter().map(line).collect::<String>()).unwrap();
}

/// The arguments of an edit of some requests of a model to a file, with more.
fn edit(s: &Session, [model, requests, to]: [&str; 3], more: &[&str]) -> Vec<String> {
    let mut args = s.edit(&[]);
    (args[1], args[2]) = (s.at(model), s.at(requests));
    for (flag, value) in [("-o", s.at(to)), ("--method", "memit".to_owned())] {
        let at = args.iter().position(|a| a == flag).unwrap();
        args[at + 1] = value;
    }
    args.extend(more.iter().map(|s| (*s).to_owned()));
    args
}

const USUAL: [&str; 2] = ["model", "requests.jsonl"];

/// Runs an edit of the session's model and requests, and returns the bytes it wrote.
fn run(s: &Session, to: &str, more: &[&str]) -> Vec<u8> {
    let [model, requests] = USUAL;
    done(&strs(&edit(s, [model, requests, to], more)));
    fs::read(s.at(to)).unwrap()
}

fn len(path: String) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn values_of_shards_give_the_patch_of_one_run() {
    let s = session();
    let whole = run(&s, "whole", &[]);
    let [zero, one, all] = ["zero", "one", "all"].map(|name| s.at(name));
    run(&s, "zero", &["--shard", "0/2"]);
    run(&s, "one", &["--shard", "1/2"]);
    let told = json(&["merge", &one, &zero, "-o", &all, "--json"]);
    assert_eq!(told["values"], 5);
    assert_eq!(run(&s, "joined", &["--values", &all]), whole);
    let lines = fs::read_to_string(s.at("joined.report.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let device = &line["device"];
    assert_eq!(device["values_from"], serde_json::json!([all]), "{device}");
    assert!(device["name"] == "cpu" && device["first_look_checked"].is_null(), "{device}");
    // Every value came from the file: nothing was searched and added.
    assert_eq!(len(s.at("joined.kept/values")), len(all));
    // Pieces need not be merged, and more machines than facts do no harm.
    assert_eq!(run(&s, "pieces", &["--values", &one, &zero]), whole);
    let empty = s.at("empty");
    run(&s, "empty", &["--shard", "7/8"]);
    let told = json(&["merge", &empty, &zero, "-o", &s.at("few"), "--json"]);
    assert_eq!(told["values"], 3);
    fails(2, &strs(&edit(&s, ["model", "requests.jsonl", "x"], &["--shard", "2/2"])));
}

#[test]
fn a_piece_that_is_none_or_was_cut_off_is_refused_by_name() {
    let s = session();
    let whole = run(&s, "piece", &["--shard", "0/2"]);
    let (piece, torn) = (s.at("piece"), s.at("torn"));
    let refused = |what: &str| {
        let out = s.at("out");
        let values = edit(&s, ["model", "requests.jsonl", "patch"], &["--values", &torn]);
        for args in [vec!["merge", &piece, &torn, "-o", &out], strs(&values)] {
            let error = fails(1, &args);
            assert!(error.contains("torn: ") && error.contains(what), "{args:?}: {error}");
        }
        assert!(!Path::new(&out).exists() && !Path::new(&s.at("patch")).exists());
    };
    for len in [0, 8, 16 + 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&torn, &whole[..len]).unwrap();
        refused("is damaged or cut off");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&torn, flipped).unwrap();
    refused("is damaged or cut off");
    for other in ["requests.jsonl", "model/model.safetensors"] {
        fs::copy(s.at(other), &torn).unwrap();
        refused("is not a file of values");
    }
}

#[test]
fn values_of_other_facts_or_another_model_are_not_used() {
    let s = session();
    let whole = run(&s, "whole", &[]);
    let other = |[model, requests]: [&str; 2], name: &str| {
        done(&strs(&edit(&s, [model, requests, name], &["--shard", "0/1"])));
        s.at(name)
    };
    requests(&s, "others.jsonl", &["f"]);
    let facts = other(["model", "others.jsonl"], "facts");
    done(&["apply", &s.at("model"), &s.at("whole"), "-o", &s.at("edited")]);
    let model = other(["edited", "requests.jsonl"], "edited-values");
    for (name, file) in [("a", &facts), ("b", &model)] {
        assert_eq!(run(&s, name, &["--values", file]), whole, "{file}");
        // A record a fact was added to those that came, behind the one magic line of 16 bytes.
        let searched = len(s.at("whole.kept/values")) - 16;
        assert_eq!(len(s.at(&format!("{name}.kept/values"))), len(file.clone()) + searched);
    }
    // They are other values: on the model they are of they make another patch.
    let patch = edit(&s, ["edited", "requests.jsonl", "again"], &["--values", &model]);
    done(&strs(&patch));
    assert_ne!(fs::read(s.at("again")).unwrap(), whole);
    assert_eq!(len(s.at("again.kept/values")), len(model));
}

#[test]
fn a_fact_is_withdrawn_without_a_new_search() {
    let s = session();
    let whole = run(&s, "patch", &[]);
    let before = len(s.at("patch.kept/values"));
    let without = run(&s, "patch", &["--without", "b", "d"]);
    assert_eq!(len(s.at("patch.kept/values")), before, "nothing was searched");
    assert_ne!(without, whole);
    requests(&s, "left.jsonl", &["a", "c", "e"]);
    done(&strs(&edit(&s, ["model", "left.jsonl", "fresh"], &[])));
    assert_eq!(fs::read(s.at("fresh")).unwrap(), without);
    let digest = |name: &str| Patch::read(Path::new(&s.at(name))).unwrap().metadata.requests;
    assert_eq!(digest("fresh"), digest("patch"));
    let [model, requests] = USUAL;
    let error = fails(1, &strs(&edit(&s, [model, requests, "x"], &["--without", "z"])));
    assert!(error.contains("no request has the id `z`"), "{error}");
}

#[test]
fn statistics_of_shards_are_collected_and_merged() {
    let s = Session::new("gpt2");
    let (model, corpus) = (s.at("model"), s.at("corpus.txt"));
    let collect = |to: &str, more: &[&str]| {
        let to = s.at(to);
        let args = ["stats", &model, "--layers", "0-1", "--corpus", &corpus, "-o", &to, "--json"];
        json(&[&args[..], more].concat())
    };
    let whole = collect("stats", &["--max-tokens", "500"]);
    let shards = ["0/3", "1/3", "2/3"];
    let dirs = ["s0", "s1", "s2"].map(|name| s.at(name));
    let tokens = |told: &serde_json::Value| told["tokens"].as_u64().unwrap();
    let mut sum = 0;
    for (shard, dir) in shards.into_iter().zip(["s0", "s1", "s2"]) {
        let told = collect(dir, &["--max-tokens", "500", "--shard", shard]);
        assert_eq!(told["shard"], shard);
        sum += tokens(&told);
    }
    assert_eq!((sum, tokens(&whole)), (500, 500));
    let (merged, [a, b, c]) = (s.at("merged"), &dirs);
    let error = fails(1, &["stats", "merge", a, c, "-o", &merged]);
    assert!(error.contains("shard 1/3") && error.contains("is missing"), "{error}");
    let error = fails(1, &["stats", "merge", a, b, b, c, "-o", &merged]);
    assert!(error.contains("s1/layer-0.safetensors: shard: 1/3"), "{error}");
    assert!(!Path::new(&merged).exists());
    done(&["stats", "merge", a, b, c, "-o", &merged]);
    let one = Moment::open(Path::new(&merged), 1).unwrap();
    assert_eq!((one.tokens, one.part), (500, None));
    let inspected = json(&["inspect", &model, "--stats", &merged, "--json"]);
    assert_eq!(inspected["statistics"], json!([[0, 500], [1, 500]]));
    let error = fails(1, &["inspect", &model, "--stats", a]);
    assert!(error.contains("is shard 0/3 of the text alone"), "{error}");
    fails(2, &["stats", &model, "--layers", "0", "--corpus", &corpus, "--shard", "3", "-o", a]);
}

/// `sbatch` that runs what it is given at once, as often as its array is long.
const SBATCH: &str = r#"#!/usr/bin/env bash
set -euo pipefail
last=0 array=
while [[ $1 == --* ]]; do
    case $1 in --array=0-*) array=1 last=${1#--array=0-} ;; esac
    shift
done
for ((i = 0; i <= last; i++)); do
    if [[ $array ]]; then export SLURM_ARRAY_TASK_ID=$i; fi
    "$@" >&2
done
echo "7;cluster"
"#;

/// tools/slurm_edit.sh, with a Slurm of one machine.
#[test]
fn the_slurm_script_ends_with_the_patch_of_one_run() {
    let s = session();
    let bin = s.folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("sbatch"), SBATCH).unwrap();
    fs::set_permissions(bin.join("sbatch"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/slurm_edit.sh");
    let run_with = |out: &str, more: &[(&str, String)]| {
        let mut command = Command::new("bash");
        command.arg(&script).arg("submit").env("PATH", &path).env("SHARDS", "3");
        command.env("INCISE", env!("CARGO_BIN_EXE_incise")).env("OUT", s.at(out));
        command.env("MODEL", s.at("model")).env("REQUESTS", s.at("requests.jsonl"));
        command.env("HPARAMS", s.at("hparams.json")).env("CONTEXTS", s.at("contexts.json"));
        command.envs(more.iter().cloned());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
        fs::read(s.at(&format!("{out}/patch.safetensors"))).unwrap()
    };
    let whole = run(&s, "whole", &[]);
    assert_eq!(run_with("given", &[("STATS", s.at("stats"))]), whole);
    let from_text = [("CORPUS", s.at("corpus.txt")), ("LAYERS", "0-1".to_owned())];
    let patch = run_with("collected", &from_text);
    fs::remove_dir_all(s.at("stats")).unwrap();
    fs::rename(s.at("collected/statistics"), s.at("stats")).unwrap();
    assert_eq!(patch, run(&s, "again", &[]));
}
