//! What is printed, and where it cannot be: no print ends the work or changes it, and no text of
//! others commands the terminal.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::session::{Session, done, fails, incise, strs, text};

/// Where a stream goes that cannot be written.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// A pipe that is read.
    Reader,
    /// A pipe whose reader left.
    Nobody,
    /// A device without room.
    Full,
}

impl To {
    fn stdio(self) -> Stdio {
        match self {
            To::Reader | To::Nobody => Stdio::piped(),
            To::Full => OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
        }
    }
}

/// Runs a command with its output and its words going somewhere.
fn run(args: &[&str], out: To, err: To) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    let mut child = command.args(args).stdout(out.stdio()).stderr(err.stdio()).spawn().unwrap();
    if out == To::Nobody {
        drop(child.stdout.take());
    }
    if err == To::Nobody {
        drop(child.stderr.take());
    }
    child.wait_with_output().unwrap()
}

/// An edit that warns.
fn warning_edit(s: &Session) -> Vec<String> {
    s.stats();
    s.edit(&["--set", "clamp_norm_factor=1e-9", "--set", "learning_rate=1"])
}

#[cfg(target_os = "linux")]
#[test]
fn words_that_cannot_be_written_change_nothing() {
    let s = Session::new("gpt2");
    let edit = warning_edit(&s);
    let patch = || fs::read(s.at("patch.safetensors"));
    let told = incise(&strs(&edit));
    assert!(text(&told.stderr).contains("warning: "), "{}", text(&told.stderr));
    let want = patch().unwrap();
    for err in [To::Full, To::Nobody] {
        fs::remove_file(s.at("patch.safetensors")).unwrap();
        let out = run(&strs(&edit), To::Reader, err);
        assert_eq!(out.status.code(), Some(0));
        assert_eq!(text(&out.stdout).lines().count(), text(&told.stdout).lines().count());
        assert_eq!(patch().unwrap(), want);
    }
    // The program's exit code stays its own.
    let edit = strs(&edit);
    let closed = |args: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" 2>&-", env!("CARGO_BIN_EXE_incise")]).args(args);
        shell.output().unwrap().status.code()
    };
    assert_eq!(closed(&edit), Some(0));
    assert_eq!(closed(&["inspect", "/nowhere"]), Some(1));
    for err in [To::Full, To::Nobody] {
        assert_eq!(run(&["inspect", "/nowhere"], To::Reader, err).status.code(), Some(1));
        assert_eq!(run(&["edit"], To::Reader, err).status.code(), Some(2));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn statistics_are_collected_whoever_reads() {
    let s = Session::new("gpt2");
    let (model, corpus) = (s.at("model"), s.at("corpus.txt"));
    let collect = |to: &str, out, err| {
        let to = s.at(to);
        let args = ["stats", &model, "--layers", "0", "--corpus", &corpus, "-o", &to];
        let code = run(&args, out, err).status.code();
        let written = fs::read(Path::new(&to).join("layer-0.safetensors"));
        (code, written.expect("statistics were written"))
    };
    let (_, want) = collect("a", To::Reader, To::Reader);
    for (to, out, err, code) in [
        ("b", To::Reader, To::Full, 0),
        ("c", To::Reader, To::Nobody, 0),
        ("d", To::Nobody, To::Nobody, 0),
        ("e", To::Full, To::Full, 1),
    ] {
        let (found, written) = collect(to, out, err);
        assert_eq!(found, Some(code), "{to}");
        assert!(written == want, "{to}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_printed_is_said_after_the_work() {
    let s = Session::new("gpt2");
    let edit = warning_edit(&s);
    for (out, code) in [(To::Nobody, 0), (To::Full, 1)] {
        let said = run(&strs(&edit), out, To::Reader);
        assert_eq!(said.status.code(), Some(code), "{}", text(&said.stderr));
        let full = text(&said.stderr).contains("standard output: cannot write");
        assert_eq!(full, out == To::Full, "{}", text(&said.stderr));
        fs::remove_file(s.at("patch.safetensors")).expect("the patch was written");
        fs::remove_file(s.at("patch.safetensors.report.jsonl")).expect("so was its report");
    }
    assert_eq!(run(&["--help"], To::Nobody, To::Reader).status.code(), Some(0));
    assert_eq!(run(&["--help"], To::Full, To::Reader).status.code(), Some(1));
}

/// Characters that a terminal obeys, or that end a line where no line ends.
fn obeyed(printed: &str) -> Vec<char> {
    let is = |c: &char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(c);
    printed.replace('\n', "").chars().filter(is).collect()
}

#[test]
fn no_text_of_others_commands_the_terminal() {
    const SUBJECT: &str = r"\u001b[31mBig\u001b]0;title\u0007\nBen\u2028\u202e\u0085\u007f";
    let s = Session::new("gpt2");
    s.stats();
    let lines = |subject: &str, more: &[&str]| {
        let request = format!(
            "{{\"id\": \"{subject}\", \"prompt\": \"{{}} is in\", \"subject\": \"{subject}\", \
             \"target_new\": \"Paris\"}}\n"
        );
        fs::write(s.at("requests.jsonl"), request).unwrap();
        let set = ["--set", "clamp_norm_factor=1e-9"];
        let out = incise(&strs(&s.edit(&[&set, more].concat())));
        assert!(out.status.success(), "{}", text(&out.stderr));
        for printed in [text(&out.stdout), text(&out.stderr)] {
            assert_eq!(obeyed(printed), [], "{printed:?}");
        }
        [text(&out.stdout), text(&out.stderr)].map(|printed| printed.lines().count())
    };
    assert_eq!(lines(SUBJECT, &[]), lines("Big Ben", &[]));
    assert_eq!(lines(SUBJECT, &["--json"]), lines("Big Ben", &["--json"]));

    // What the files themselves say, where they are broken.
    fs::write(s.at("hparams.json"), "{\"layers\": \"\\u001b[31m\\n\"}").unwrap();
    let error = fails(1, &strs(&s.edit(&[])));
    assert!(obeyed(&error).is_empty() && error.lines().count() == 1, "{error:?}");
    let error = fails(1, &["inspect", "no\u{1b}[31m\nwhere"]);
    assert!(obeyed(&error).is_empty() && error.contains(r"no\u{1b}[31m\nwhere"), "{error:?}");
    let error = fails(2, &["edit\u{1b}[31m"]);
    assert!(obeyed(&error).is_empty() && error.contains(r"edit\u{1b}[31m"), "{error:?}");
}

/// To a file or another program a model's text goes as it is.
#[test]
fn a_text_that_is_the_result_stays_as_it_is() {
    let s = Session::new("gpt2");
    let (model, prompt) = (s.at("model"), "a\tb\u{1b}[31m\r\nc");
    let said = done(&["generate", &model, "--prompt", prompt, "--max-tokens", "0"]);
    assert_eq!(said, format!("{prompt}\n"));
}

/// What other readers take for a line's end, or a terminal obeys, is escaped in files of lines too.
#[test]
fn a_line_of_the_report_is_a_line_for_all_readers() {
    let s = Session::new("gpt2");
    s.stats();
    let id = "a\u{2028}b\u{2029}\u{7f}\u{85}\u{202e}";
    let request = json!({"id": id, "prompt": "{} is in", "subject": "Big Ben",
                         "target_new": "Paris"});
    fs::write(s.at("requests.jsonl"), request.to_string()).unwrap();
    done(&strs(&s.edit(&[])));
    let report = fs::read_to_string(s.at("patch.safetensors.report.jsonl")).unwrap();
    assert!(!report.contains(['\u{2028}', '\u{2029}', '\u{7f}', '\u{85}', '\u{202e}']), "{report}");
    let line: Value = serde_json::from_str(report.trim_end()).unwrap();
    assert_eq!(line["id"], id);
}

/// Where tokenizer.json parts texts in another way than the class that the folder names.
#[test]
fn ids_that_the_framework_does_not_give_are_told() {
    let s = Session::new("gpt2");
    let (model, corpus, out) = (s.at("model"), s.at("corpus.txt"), s.at("out"));
    let path = s.at("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let stats = ["stats", &model, "--layers", "1", "--corpus", &corpus, "-o", &s.at("stats")];
    let logits = ["logits", &model, "--prompts", &corpus, "-o", &out];
    let generate = ["generate", &model, "--prompt", "a", "--max-tokens", "1"];
    for differs in [false, true] {
        if differs {
            tokenizer["normalizer"] = json!({"type": "NFC"});
            fs::write(&path, tokenizer.to_string()).unwrap();
        }
        for args in [&stats[..], &logits, &generate] {
            let ran = incise(args);
            let told = text(&ran.stderr).contains("warning: tokenizer.json parts texts in another");
            assert!(ran.status.success() && told == differs, "{args:?}: {}", text(&ran.stderr));
        }
    }
}
