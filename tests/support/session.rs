//! The program with a tiny model: arguments in, text and exit code out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// On the processor, also where a GPU would be chosen.
pub fn incise(args: &[&str]) -> Output {
    with(&[], args)
}

/// The same with further variables of its environment.
pub fn with(variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    command.env("CUDA_VISIBLE_DEVICES", "").envs(variables.iter().copied());
    command.args(args).output().unwrap()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Standard output of a command that succeeds.
pub fn done(args: &[&str]) -> String {
    let out = incise(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout).to_owned()
}

/// Standard error of a command that exits with `code`.
pub fn fails(code: i32, args: &[&str]) -> String {
    let out = incise(args);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", text(&out.stderr));
    text(&out.stderr).to_owned()
}

pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&done(args)).unwrap()
}

/// A copy of a tiny model with statistics of its own, contexts and hyperparameters.
pub struct Session {
    pub folder: tempfile::TempDir,
}

impl Session {
    pub fn new(name: &str) -> Session {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
            }
        }
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("contexts.json", r#"[["{}"], ["The first time. {}", "Because. {}"]]"#);
        put(
            "hparams.json",
            r#"{"layers": [1], "v_num_grad_steps": 8, "v_lr": 0.5, "v_weight_decay": 0.5,
                "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": true}"#,
        );
        put(
            "requests.jsonl",
            "{\"prompt\": \"{} is in\", \"subject\": \"Big Ben\", \"target_new\": \"Paris\"}\n",
        );
        let line = |i: usize| format!("Line {i} says {} of the sea.\n", "nothing ".repeat(i % 7));
        put("corpus.txt", &(0..200).map(line).collect::<String>());
        Session { folder }
    }

    pub fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn weights(&self, model: &str) -> Vec<u8> {
        fs::read(PathBuf::from(self.at(model)).join("model.safetensors")).unwrap()
    }

    pub fn stats(&self) {
        let (model, corpus, out) = (self.at("model"), self.at("corpus.txt"), self.at("stats"));
        done(&["stats", &model, "--layers", "0-1", "--corpus", &corpus, "-o", &out]);
    }

    /// The arguments of an edit, with some replaced or added.
    pub fn edit(&self, more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> =
            vec!["edit".into(), self.at("model"), self.at("requests.jsonl")];
        for (flag, file) in [
            ("--stats", "stats"),
            ("--hparams", "hparams.json"),
            ("--contexts", "contexts.json"),
            ("-o", "patch.safetensors"),
        ] {
            args.extend([flag.to_owned(), self.at(file)]);
        }
        args.extend(["--method".to_owned(), "r-rome".to_owned()]);
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    }
}

pub fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}
