//! The program with `--device cuda:0`, where the host stands for the card.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use incise::gpu::driver::{POOL, TWIN};

use crate::edit::reference::{off, tensor};
use crate::support::budget;
use crate::support::golden::{COARSER, Golden};
use crate::support::session::{Session, done, strs, text};
use crate::support::twin;

/// What the host proved in a card's place is kept for all tests.
fn cached(twin: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    command.env("INCISE_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.env(TWIN, twin);
    command
}

fn on_card(twin: &Path, args: &[&str]) -> Output {
    cached(twin).args(args).args(["--device", "cuda:0"]).output().unwrap()
}

/// Standard output of a command that succeeds.
fn did(twin: &Path, args: &[&str]) -> String {
    let out = on_card(twin, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout).to_owned()
}

#[test]
fn commands_run_on_a_card() {
    let Some(twin) = twin::program("gpu::commands::commands_run_on_a_card") else { return };
    let s = Session::new("gpt2");
    let [model, corpus, patch] = ["model", "corpus.txt", "patch.safetensors"].map(|f| s.at(f));
    let file = |name: &str, tensor_name: &str| {
        tensor(&fs::read(s.folder.path().join(name)).unwrap(), tensor_name)
    };

    fs::write(s.folder.path().join("prompts.txt"), "Big Ben is in\nthe sea\n").unwrap();
    let prompts = s.at("prompts.txt");
    let logits = |to: &str| {
        [
            "logits".to_owned(),
            model.clone(),
            "--prompts".into(),
            prompts.clone(),
            "-o".into(),
            s.at(to),
        ]
    };
    done(&strs(&logits("here")));
    did(twin, &strs(&logits("there")));
    // Each of the two runs has its own budget: what the model's recorded prompts have.
    let golden = Golden::open("gpt2");
    let recorded = (0..golden.json.prompts.len()).map(|i| format!("logits.{i}"));
    let budget = recorded.map(|name| golden.f32_budget(&name)).fold(0.0, f64::max);
    for line in ["0", "1"] {
        let far = budget::off(&file("there", line), &file("here", line));
        let budget = (1.0 + COARSER) * budget;
        assert!(far < budget, "logits of line {line} are off by {far:e} > {budget:e}");
    }

    let generate = ["generate", &model, "--prompt", "Big Ben is in", "--max-tokens", "3"];
    assert_eq!(did(twin, &generate), done(&generate));

    let stats = |to: &str| {
        ["stats", &model, "--layers", "0-1", "--corpus", &corpus, "--max-tokens", "700", "-o", to]
            .map(str::to_owned)
    };
    done(&strs(&stats(&s.at("by-host"))));
    did(twin, &strs(&stats(&s.at("stats"))));
    for layer in [0, 1] {
        let name = |dir: &str| format!("{dir}/layer-{layer}.safetensors");
        let [here, there] = ["by-host", "stats"].map(|dir| file(&name(dir), "second_moment"));
        let far = budget::off(&there, &here);
        let budget = (1.0 + COARSER) * golden.f32_moment_budget(layer);
        assert!(far < budget, "layer {layer} is off by {far:e} > {budget:e}");
    }

    let report = did(twin, &strs(&s.edit(&["--json"])));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let p = &report["facts"][0]["p_target"];
    assert!(p[1].as_f64() > p[0].as_f64(), "{report}");
    let [here, there] = ["edited-here", "edited-there"].map(|dir| s.at(dir));
    done(&["apply", &model, &patch, "-o", &here]);
    did(twin, &["apply", &model, &patch, "-o", &there]);
    let weights = |dir: &str| fs::read(Path::new(dir).join("model.safetensors")).unwrap();
    assert!(weights(&here) == weights(&there), "apply writes other bytes on a card");
    did(twin, &["apply", &model, &patch, "--in-place"]);
    assert!(weights(&model) == weights(&here), "and in place");
    did(twin, &["undo", &model]);
}

/// The report says what computed, and whether the CPU checked it.
#[test]
fn a_report_names_the_card() {
    let Some(twin) = twin::program("gpu::commands::a_report_names_the_card") else { return };
    let s = Session::new("gpt2");
    let stats = ["stats", &s.at("model"), "--layers", "0-1", "--corpus", &s.at("corpus.txt")];
    done(&[&stats[..], &["--max-tokens", "700", "-o", &s.at("stats")]].concat());
    let device = |more: &[&str]| {
        did(twin, &strs(&s.edit(more)));
        let lines = fs::read_to_string(s.at("patch.safetensors.report.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        line["device"].clone()
    };
    let named = device(&[]);
    assert!(named["first_look_checked"] == true && named["proof"].is_string(), "{named}");
    assert_eq!(device(&["--no-check"])["first_look_checked"], false);
}

/// `--precision` is the value search's, and fine-tuning searches none.
#[test]
fn methods_that_search_no_value_take_no_precision() {
    let test = "gpu::commands::methods_that_search_no_value_take_no_precision";
    let Some(twin) = twin::program(test) else { return };
    let s = Session::new("gpt2");
    let [model, requests, patch] =
        ["model", "requests.jsonl", "patch.safetensors"].map(|file| s.at(file));
    let files = ["edit", &model, &requests, "-o", &patch];
    for method in ["ft-m", "grace"] {
        let precise = ["--method", method, "--set", "layers=[1]", "--precision", "fast"];
        let out = on_card(twin, &[&files[..], &precise].concat());
        assert_eq!(out.status.code(), Some(1));
        let want = format!("precision does not apply to {method}, which ");
        assert!(text(&out.stderr).contains(&want), "{out:?}");
    }
}

/// Two cards share facts and text: the same values, whichever card finds them.
#[test]
fn two_cards_share_the_work() {
    let Some(twin) = twin::program("gpu::commands::two_cards_share_the_work") else { return };
    let s = Session::new("gpt2");
    let fact = |subject: &str| {
        format!(
            "{{\"prompt\": \"{{}} is in\", \"subject\": \"{subject}\", \"target_new\": \"Rome\"}}\n"
        )
    };
    fs::write(s.at("requests.jsonl"), ["Big Ben", "The sea", "Nothing"].map(fact).concat())
        .unwrap();
    let on = |cards: &str, args: &[&str]| {
        let out = cached(twin).args(args).args(["--device", cards]).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    };
    let (model, corpus) = (s.at("model"), s.at("corpus.txt"));
    for (cards, to) in [("cuda:0", "one"), ("cuda:0,1", "stats")] {
        let to = s.at(to);
        let args = ["stats", &model, "--layers", "1", "--corpus", &corpus, "--max-tokens", "2500"];
        on(cards, &[&args[..], &["-o", &to]].concat());
    }
    let moment = |dir: &str| {
        tensor(&fs::read(s.at(&format!("{dir}/layer-1.safetensors"))).unwrap(), "second_moment")
    };
    // Sums in another order, in f32.
    let far = off(&moment("stats"), &moment("one"));
    assert!(far > 0.0 && far < 1e-5, "{far:e}");
    let [one, both] = ["one.safetensors", "both.safetensors"].map(|f| s.at(f));
    for (cards, patch) in [("cuda:0", &one), ("cuda:1,0", &both)] {
        let swap = |arg: String| match &*arg {
            "r-rome" => "memit".to_owned(),
            arg if arg.ends_with("patch.safetensors") => patch.clone(),
            _ => arg,
        };
        on(
            cards,
            &strs(
                &s.edit(&["--set", "mom2_update_weight=10"])
                    .into_iter()
                    .map(swap)
                    .collect::<Vec<_>>(),
            ),
        );
    }
    assert_eq!(fs::read(one).unwrap(), fs::read(both).unwrap());
}

#[test]
fn doctor_tells_what_stands_for_cards() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    let out = command.env(TWIN, "/nowhere").env(POOL, "off").arg("doctor").output().unwrap();
    let said = text(&out.stdout);
    assert!(out.status.success() && said.contains("INCISE_TWIN=/nowhere: "), "{out:?}");
    assert!(said.contains("INCISE_POOL=off: ") && !said.contains("PTX at every start"), "{said}");
}

#[test]
fn a_card_that_is_not_there_is_named() {
    let Some(twin) = twin::program("gpu::commands::a_card_that_is_not_there") else { return };
    let s = Session::new("gpt2");
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    command.env(TWIN, twin).args(["logits", &s.at("model"), "--prompts", "p", "-o", "o"]);
    let out = command.args(["--device", "cuda:3"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("cuda:3: the driver shows 2 GPUs"), "{out:?}");
}
