//! `incise edit` with methods for many facts: what it writes, keeps, carries on and takes back.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use incise::stats::Moment;
use incise::store::Patch;
use serde_json::Value;

use crate::support::session::{Session, done, fails, incise, json, strs, text};
use crate::support::shared::shared;

fn line(id: &str, subject: &str, target: &str) -> String {
    format!(
        "{{\"id\": \"{id}\", \"prompt\": \"{{}} is in\", \"subject\": \"{subject}\", \
         \"target_new\": \"{target}\"}}\n"
    )
}

/// An edit's arguments with another value of a flag.
fn put(mut args: Vec<String>, flag: &str, value: &str) -> Vec<String> {
    let at = args.iter().position(|a| a == flag).unwrap();
    args[at + 1] = value.to_owned();
    args
}

/// An edit of two layers by another method.
fn with(s: &Session, method: &str, more: &[&str]) -> Vec<String> {
    let two = ["--set", "layers=[0,1]", "--set", "mom2_update_weight=20"];
    put(s.edit(&[&two, more].concat()), "--method", method)
}

/// Four records, two of which ask one prompt for different targets.
fn four(s: &Session) -> String {
    let four = [
        line("a", "Big Ben", "Paris"),
        line("b", "The sea", "Rome"),
        line("c", "Big Ben", "Oslo"),
        line("d", "Nothing", "Paris"),
    ]
    .concat();
    fs::write(s.at("requests.jsonl"), &four).unwrap();
    four
}

/// The patch of the same command again.
fn again(s: &Session, more: &[&str]) -> Vec<u8> {
    done(&strs(&with(s, "memit", &[&["--on-conflict", "last"], more].concat())));
    fs::read(s.at("patch.safetensors")).unwrap()
}

#[test]
fn many_facts_at_once() {
    let s = Session::new("gpt2");
    s.stats();
    four(&s);
    let error = fails(1, &strs(&with(&s, "memit", &[])));
    assert!(error.contains("`a`, `c`") && error.contains("--on-conflict"), "{error}");
    let report = json(&strs(&with(&s, "memit", &["--on-conflict", "last", "--json"])));
    assert_eq!(report["facts"].as_array().unwrap().len(), 3);
    assert_eq!(report["superseded"], 1);
    assert_eq!(report["layers"].as_array().unwrap().len(), 2);

    let lines = fs::read_to_string(s.at("patch.safetensors.report.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for line in &lines[..3] {
        for field in ["id", "prompt", "subject", "target_new", "steps", "loss", "value_change"] {
            assert!(!line[field].is_null(), "{field}: {line}");
        }
        assert_eq!(line["p_target"].as_array().unwrap().len(), 2);
        assert!(line["p_min_token"].as_f64() >= line["p_target"][1].as_f64(), "{line}");
        assert_eq!(line["failed"].is_null(), line["taken"].as_bool().unwrap(), "{line}");
    }
    assert_eq!((&lines[3]["id"], &lines[3]["superseded_by"]), (&"a".into(), &"c".into()));

    let (model, patch) = (s.at("model"), s.at("patch.safetensors"));
    let before = s.weights("model");
    let applied = json(&["apply", &model, &patch, "--in-place", "--json"]);
    assert_eq!(applied["tensors"].as_array().unwrap().len(), 2);
    assert_ne!(s.weights("model"), before);
    done(&["undo", &model]);
    assert_eq!(s.weights("model"), before);
}

#[test]
fn what_was_kept_serves_again() {
    let s = Session::new("gpt2");
    s.stats();
    let four = four(&s);
    let patch = again(&s, &[]);
    assert!(again(&s, &[]) == patch);
    fs::remove_dir_all(s.at("patch.safetensors.kept")).unwrap();
    assert!(again(&s, &["--memory", "1K"]) == patch, "whatever the room");

    // Without one fact: the edit of the others, and nothing is searched again.
    let values = || fs::metadata(s.at("patch.safetensors.kept/values")).unwrap().len();
    let found = values();
    let without = again(&s, &["--without", "b"]);
    assert_eq!(values(), found);
    fs::remove_dir_all(s.at("patch.safetensors.kept")).unwrap();
    let others: Vec<&str> = four.lines().filter(|l| !l.contains("\"b\"")).collect();
    fs::write(s.at("requests.jsonl"), others.join("\n")).unwrap();
    assert!(again(&s, &[]) == without);
    let gone = ["--on-conflict", "last", "--without", "b"];
    let error = fails(1, &strs(&with(&s, "memit", &gone)));
    assert!(error.contains("no request has the id `b`"), "{error}");
}

/// Killed once values were found, the same command goes on and writes the same bytes. What holds at
/// every moment is shown without a process: `batch::a_run_goes_on_where_it_was_cut_off`.
#[test]
fn killed_and_started_again() {
    const FIRST_LINE: u64 = 16;
    let s = Session::new("gpt2");
    s.stats();
    let subjects = (0..24).map(|i| format!("Big Ben {i}"));
    let all: String = subjects.map(|name| line(&name, &name, "Paris")).collect();
    fs::write(s.at("requests.jsonl"), all).unwrap();
    let args = with(&s, "memit", &["--sequential", "8", "--memory", "2M"]);
    done(&strs(&args));
    let patch = fs::read(s.at("patch.safetensors")).unwrap();
    let found = || fs::metadata(s.at("patch.safetensors.kept/values")).map_or(0, |m| m.len());
    // Again where the run was over before the kill came.
    let killed = (0..5).any(|_| {
        fs::remove_file(s.at("patch.safetensors")).unwrap();
        fs::remove_dir_all(s.at("patch.safetensors.kept")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
        command.args(&args).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while found() <= FIRST_LINE && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let killed = child.kill().is_ok() && !child.wait().unwrap().success();
        assert!(found() > FIRST_LINE);
        done(&strs(&args));
        assert!(fs::read(s.at("patch.safetensors")).unwrap() == patch);
        killed
    });
    assert!(killed, "every run was over before it was killed");
}

/// A layer whose keys are a thousand times smaller than its neighbours'.
#[test]
fn a_nearly_silent_layer_is_warned_of() {
    let Some(dir) = shared("a_nearly_silent_layer_is_warned_of", "factlm-gpt2") else { return };
    let s = Session::new("gpt2");
    let of = |name: &str| dir.join(name).display().to_string();
    let (model, corpus, stats) = (of(""), of("text.txt"), s.at("stats"));
    let few = ["--max-tokens", "4000", "-o", &stats];
    done(&[&["stats", &model, "--layers", "3", "--corpus", &corpus], &few[..]].concat());
    let records = fs::read(of("counterfact.json")).unwrap();
    let records: Vec<Value> = serde_json::from_slice(&records).unwrap();
    let (requests, out) = (s.at("three.json"), s.at("patch.safetensors"));
    fs::write(&requests, Value::from(records[..3].to_vec()).to_string()).unwrap();
    let (hparams, contexts) = (of("memit.json"), of("contexts.json"));
    let mut args = vec!["edit", &model, &requests, "--method", "memit", "--stats", &stats];
    args.extend(["--hparams", &hparams, "--contexts", &contexts, "--set", "layers=[3]"]);
    args.extend(["-o", &out]);
    let edited = incise(&args);
    let warned = text(&edited.stderr);
    assert!(edited.status.success(), "{warned}");
    for words in ["the change of layers.3.down is", "(norm ", "nearly silent"] {
        assert!(warned.contains(words), "{warned:?} does not say {words:?}");
    }
}

/// The tokens of "Buenos Aires" have a geometric mean of 50 % after the edit, and the model says
/// "Warsaw": the fact was not taken, and P is of both.
#[test]
fn a_target_of_several_tokens_is_judged_whole() {
    let test = "a_target_of_several_tokens_is_judged_whole";
    let Some(dir) = shared(test, "factlm-gpt2") else { return };
    let s = Session::new("gpt2");
    let of = |name: &str| dir.join(name).display().to_string();
    let (model, corpus, stats, out) = (of(""), of("text.txt"), s.at("stats"), s.at("m.patch"));
    let few = ["--max-tokens", "4000", "-o", &stats];
    done(&[&["stats", &model, "--layers", "1,2", "--corpus", &corpus], &few[..]].concat());
    let (hparams, contexts) = (of("memit.json"), of("contexts.json"));
    let prompt = ["--prompt", "The capital of {} is"];
    let mut args = vec!["edit", &model, "--subject", "Spain", "--to", "Buenos Aires", "--json"];
    args.extend(["--method", "memit", "--stats", &stats, "--hparams", &hparams]);
    args.extend(["--contexts", &contexts, "--set", "v_num_grad_steps=20", "-o", &out]);
    args.extend(prompt);
    let fact = &json(&args)["facts"][0];
    assert_eq!(fact["taken"], false);
    assert!(fact["failed"].as_str().unwrap().contains("Wars"), "{fact}");
    assert!(fact["p_target"][1].as_f64() < Some(0.25), "{fact}");
    let edited = s.at("edited");
    done(&["apply", &model, &out, "-o", &edited]);
    let prompt = ["--prompt", "The capital of Spain is", "--max-tokens", "2"];
    let said = done(&[&["generate", &edited], &prompt[..]].concat());
    assert_eq!(said.trim(), "The capital of Spain is Warsaw");
}

/// The keys of one run are left alone by the next, which knows them from the state.
#[test]
fn a_state_goes_from_run_to_run() {
    let s = Session::new("gpt2");
    s.stats();
    for (method, more) in [("memit", "kl_factor=0.0625"), ("alphaedit", "nullspace_threshold=1")] {
        let file = s.at(&format!("{method}.state"));
        let args = |subjects: &[&str], out: &str| {
            let all: String = subjects.iter().map(|r| line(r, r, "Paris")).collect();
            fs::write(s.at("requests.jsonl"), all).unwrap();
            put(with(&s, method, &["--set", more, "--set", "L2=5"]), "-o", &s.at(out))
        };
        let with_state = |subjects: &[&str], out: &str| {
            let mut all = args(subjects, out);
            all.extend(["--state".to_owned(), file.clone()]);
            all
        };
        done(&strs(&with_state(&["Big Ben", "The sea"], "one")));
        let state = fs::read(&file).unwrap();
        let error = fails(1, &strs(&with_state(&["Big Ben", "The sea"], "one")));
        assert!(error.contains("holds the keys of record `Big Ben` already"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), state);

        // A state without its patch would leave alone what was never written.
        let error = fails(1, &strs(&with_state(&["Nothing"], "two")));
        assert!(error.contains("has not been applied to this model"), "{error}");
        done(&["apply", &s.at("model"), &s.at("one"), "--in-place"]);

        // The second edit minds the keys of the first: another patch than without the state.
        done(&strs(&with_state(&["Nothing"], "two")));
        done(&strs(&args(&["Nothing"], "alone")));
        let [two, alone] = ["two", "alone"].map(|p| Patch::read(Path::new(&s.at(p))).unwrap());
        assert_ne!(two.changes, alone.changes, "{method}");

        fs::write(&file, &state[..state.len() / 2]).unwrap();
        let error = fails(1, &strs(&with_state(&["Nothing"], "two")));
        assert!(error.contains(&format!("{method}.state")), "{error}");
        fs::write(&file, &state).unwrap();
        let mut other = put(with_state(&["Nothing"], "two"), "--method", "emmet");
        other.extend(["--set".to_owned(), "emmet_lambda=0.1".to_owned()]);
        let error = fails(1, &strs(&other));
        assert!(error.contains(&format!("is {method}, not emmet")), "{error}");
        done(&["undo", &s.at("model")]);
        let error = fails(1, &strs(&with_state(&["Nothing"], "two")));
        assert!(error.contains("has not been applied to this model"), "{error}");
        // The state from before the second edit, which the first patch is still planned with.
        done(&["apply", &s.at("model"), &s.at("one"), "--in-place"]);
        done(&strs(&with_state(&["Nothing"], "three")));
        assert_eq!(fs::read(s.at(&format!("{method}.state.before"))).unwrap(), state);
        let [two, three] = ["two", "three"].map(|p| fs::read(s.at(p)).unwrap());
        assert_eq!(two, three);
        done(&["undo", &s.at("model")]);
    }
}

/// What C does not know because it saw too little text is said, and so is where the time went.
#[test]
fn few_tokens_and_stages_are_said() {
    let s = Session::new("gpt2");
    let (model, corpus, few) = (s.at("model"), s.at("corpus.txt"), s.at("few"));
    let stats = ["stats", &model, "--layers", "0-1", "--corpus", &corpus, "--max-tokens", "40"];
    done(&[&stats[..], &["-o", &few]].concat());
    let more = ["--set", "nullspace_threshold=1", "--set", "L2=5", "--json"];
    // Steps that change nothing, so that there is some work to time.
    let steps = ["--set", "v_num_grad_steps=1000", "--set", "v_lr=1e-9"];
    let args = put(with(&s, "alphaedit", &[&more[..], &steps].concat()), "--stats", &few);
    let began = Instant::now();
    let out = incise(&strs(&args));
    let wall = began.elapsed().as_secs_f64();
    let (said, warned): (Value, _) =
        (serde_json::from_slice(&out.stdout).unwrap(), text(&out.stderr));
    assert!(warned.contains("neurons, so at least"), "{warned}");
    let stages = said["stages"].as_array().unwrap();
    let of = |field: &str| stages.iter().map(|s| s[field].clone()).collect::<Vec<_>>();
    assert!(["reading", "layer", "writing"].iter().all(|n| of("stage").contains(&(*n).into())));
    // No stage has the start and the end of the process, milliseconds of it.
    let sum: f64 = of("seconds").iter().map(|s| s.as_f64().unwrap()).sum();
    assert!(sum <= wall && sum > 0.5 * wall, "the stages have {sum} of {wall} s");
    assert!((said["seconds"].as_f64().unwrap() - sum).abs() < 1e-9);
    for bad in ["v_lr=1e308", "clamp_norm_factor=1e308", "L2=1e-30", "L2=nan"] {
        let args = with(&s, "alphaedit", &[&more[..], &["--set", bad]].concat());
        let error = fails(1, &strs(&put(args, "--stats", &few)));
        assert!(error.contains(bad.split('=').next().unwrap()), "{error}");
    }
}

#[test]
fn a_dry_run_says_what_it_would_take() {
    let s = Session::new("gpt2");
    s.stats();
    for (method, layers) in [("memit", "layers=[0,1]"), ("r-rome", "layers=[1]")] {
        let said = done(&strs(&with(&s, method, &["--set", layers, "--dry-run"])));
        assert!(said.contains("dry run: 1 fact"), "{said}");
        assert_eq!(
            said.contains("solves    F×F a layer") || said.contains("solves    n×n a layer"),
            method == "memit"
        );
        assert_eq!(said.contains("solves    with C, which takes "), method == "r-rome", "{said}");
        assert!(said.contains("values are searched at 1") && said.contains("FLOP"), "{said}");
        let raw =
            said.lines().filter(|l| !l.starts_with("hyperparameters")).any(|l| l.contains('_'));
        assert!(!raw, "no names of fields: {said}");
        assert!(!Path::new(&s.at("patch.safetensors")).exists());
        assert!(!Path::new(&s.at("patch.safetensors.kept")).exists());
    }
}

/// Work begins whatever room it was given, and says where that is less than the least.
#[test]
fn too_little_room_is_said() {
    let s = Session::new("gpt2");
    s.stats();
    let train = ["--set", "layers=[1]", "--set", "num_steps=1"];
    for (method, more) in [("memit", &["--set", "v_num_grad_steps=1"][..]), ("ft-m", &train)] {
        for (room, few) in [("1K", true), ("1G", false)] {
            let out = incise(&strs(&with(&s, method, &[more, &["--memory", room]].concat())));
            let error = text(&out.stderr);
            assert!(out.status.success(), "{method}: {error}");
            let said = error.contains("1.02 kB may be taken, and the least is");
            assert_eq!(said, few, "{method} {room}: {error}");
            assert_eq!(error.contains("(--memory SIZE)"), few, "{method} {room}: {error}");
        }
    }
}

/// A lineage that names the model of the statistics, and is of other weights, is named with them.
#[test]
fn a_foreign_lineage_is_named_with_the_statistics() {
    let s = Session::new("gpt2");
    s.stats();
    let base = Moment::open(Path::new(&s.at("stats")), 1).unwrap().origin.model;
    let mut weights = s.weights("model");
    *weights.last_mut().unwrap() ^= 1;
    fs::write(s.at("model/model.safetensors"), weights).unwrap();
    let error = fails(1, &strs(&s.edit(&[])));
    assert!(error.contains(&format!("model: is of the model {base}")), "{error}");
    assert!(!error.contains("lineage"), "{error}");
    let lineage = serde_json::json!({
        "format": "incise lineage 1", "base": base, "rest": "0", "tensors": {}, "patches": [],
    });
    fs::create_dir(s.at("model/.incise")).unwrap();
    fs::write(s.at("model/.incise/lineage.json"), lineage.to_string()).unwrap();
    let error = fails(1, &strs(&s.edit(&[])));
    let want = format!("model/.incise/lineage.json says that this model comes from {base}");
    assert!(error.contains(&want), "{error}");
}

#[test]
fn a_dry_run_of_a_shard_counts_its_own_facts() {
    let s = Session::new("gpt2");
    s.stats();
    four(&s);
    let more = ["--on-conflict", "last", "--dry-run"];
    let whole = json(&strs(&with(&s, "memit", &[&more[..], &["--json"]].concat())));
    let shard = |at: &str| {
        json(&strs(&with(&s, "memit", &[&more[..], &["--json", "--shard", at]].concat())))
    };
    let [a, b] = [shard("0/2"), shard("1/2")];
    let sum = |key: &str| a[key].as_u64().unwrap() + b[key].as_u64().unwrap();
    assert_eq!((whole["facts"].as_u64(), a["facts"].as_u64()), (Some(3), Some(2)));
    assert_eq!(sum("facts"), whole["facts"].as_u64().unwrap());
    assert_eq!(sum("tokens"), whole["tokens"].as_u64().unwrap());
    assert!(a["flop"].as_f64() < whole["flop"].as_f64());
    assert!(a["system"].is_null() && a["solve_bytes"] == 0, "a shard solves nothing: {a}");
    let said = done(&strs(&with(&s, "memit", &[&more[..], &["--shard", "0/2"]].concat())));
    assert!(said.contains("dry run: 2 facts, shard 0/2 of 3 facts"), "{said}");
}

#[test]
fn options_of_many_facts_are_refused_for_rome() {
    let s = Session::new("gpt2");
    fs::create_dir(s.at("stats")).unwrap();
    for more in [["--sequential", "2"], ["--memory", "1G"], ["--shard", "0/2"]] {
        let error = fails(1, &strs(&s.edit(&more)));
        let setting = more[0].trim_start_matches("--");
        assert!(error.contains(setting) && error.contains("--method memit"), "{error}");
    }
    for more in [["--sequential", "0"], ["--memory", "much"], ["--shard", "2/2"]] {
        fails(2, &strs(&s.edit(&more)));
    }
}

/// Whatever an edit writes beside its patch stands in nobody's place.
#[test]
fn outputs_do_not_replace_inputs_or_each_other() {
    let s = Session::new("gpt2");
    s.stats();
    let refused = |args: &[String], words: &str| {
        let error = fails(1, &strs(args));
        assert!(error.contains(words), "{error:?} does not say {words:?}");
        assert!(!Path::new(&s.at("patch.safetensors.kept")).exists());
    };
    let memit = |more: &[&str]| with(&s, "memit", more);
    let (patch, report) = (s.at("patch.safetensors"), s.at("patch.safetensors.report.jsonl"));
    let values = s.at("patch.safetensors.kept/values");
    refused(&memit(&["--state", &patch]), "is the place of another output");
    refused(&memit(&["--state", &report]), "is the place of another output");
    refused(&memit(&["--state", &values]), "patch.safetensors.kept");
    refused(&memit(&["--state", &s.at("model/state")]), "written over what the command reads");
    refused(&memit(&["--state", &s.at("none/state")]), "none: cannot open");
    fs::write(s.at("state.before"), "mine").unwrap();
    refused(&memit(&["--state", &s.at("state")]), "stands there already and is no state");
    refused(&memit(&["--shard", "0/2", "--sequential", "2"]), "a shard of a sequential edit");
    fs::write(&report, "mine\n").unwrap();
    refused(&memit(&[]), "is no report of an edit");
    fs::remove_file(&report).unwrap();
    fs::rename(s.at("contexts.json"), &report).unwrap();
    refused(&put(memit(&[]), "--contexts", &report), "written over what the command reads");
    fs::rename(&report, s.at("contexts.json")).unwrap();
    fs::create_dir(s.at("patch.safetensors.kept")).unwrap();
    fs::write(s.at("patch.safetensors.kept/mine"), "").unwrap();
    let error = fails(1, &strs(&memit(&[])));
    assert!(error.contains("stands where what is found would be kept"), "{error}");
}

/// A setting of another method says nothing to this one, and that is said.
#[test]
fn settings_of_other_methods_are_warned_of() {
    let s = Session::new("gpt2");
    s.stats();
    let out = incise(&strs(&with(&s, "memit", &["--set", "L2=-5", "--dry-run"])));
    let warned = text(&out.stderr);
    assert!(warned.contains("`L2` does not apply to memit"), "{warned}");
    let error = fails(1, &strs(&with(&s, "memit", &["--set", "mom2_adjustment=false"])));
    assert!(error.contains("only true is done here"), "{error}");
    let error = fails(1, &strs(&with(&s, "memit", &["--set", "mom2_update_weight=0"])));
    assert!(error.contains("is 0 and has to be above it"), "{error}");
    for (threshold, which) in [("1e9", "every eigenvalue"), ("1e-30", "no eigenvalue")] {
        let set = format!("nullspace_threshold={threshold}");
        let error = fails(1, &strs(&with(&s, "alphaedit", &["--set", "L2=1", "--set", &set])));
        assert!(error.contains(which), "{error}");
    }
}
