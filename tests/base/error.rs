//! What a program can tell from an error: its code, what it is about, and what helps.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use incise::Error;
use incise::base::remedy::{Operation, Remedy, SettingKind};

/// One of each.
fn all() -> Vec<Error> {
    let file = Path::new("a.json");
    let remedy = || Box::new(Remedy::from("do that"));
    vec![
        Error::io(file, "open", io::ErrorKind::NotFound.into()),
        Error::input(file, "line 3", "is wrong", "mend it"),
        Error::Conflict { path: file.into(), what: "two of a kind".into(), remedy: remedy() },
        Error::Locked { path: file.into(), holder: "somebody has it".into() },
        Error::refused("it cannot be", "leave it"),
        Error::numeric("it is NaN", "check it"),
        Error::device("cuda:0: no answer", "use another"),
        Error::DeviceMemory { wanted: 3, used: 2, limit: 4 },
        Error::Server {
            url: "http://here".into(),
            what: "it said no".into(),
            state: "it is as it was".into(),
            remedy: remedy(),
        },
        Error::AbortBuild { device: "cuda:0".into() },
        Error::Interrupted { kept: "nothing was written".into() },
    ]
}

#[test]
fn codes_are_distinct() {
    let codes: BTreeSet<&str> = all().iter().map(Error::code).collect();
    assert_eq!(codes.len(), all().len());
    // The list above has every variant: as many as the method has arms.
    let source = include_str!("../../src/base/error.rs");
    let (_, method) = source.split_once("fn code(").unwrap();
    let (method, _) = method.split_once("\n    }\n").unwrap();
    assert_eq!(method.matches("=> \"").count(), codes.len());
}

#[test]
fn all_but_an_interruption_say_what_helps() {
    for error in all() {
        let line = error.line();
        match error.remedy() {
            Some(remedy) => assert!(line.ends_with(&format!("; {}", remedy.text)), "{line}"),
            None => assert_eq!(error.code(), "interrupted"),
        }
    }
    let unknown = Error::io("a", "open", io::ErrorKind::TimedOut.into());
    assert!(unknown.remedy().is_none(), "the system alone knows why");
}

#[test]
fn the_file_and_the_field_are_data() {
    let errors = all();
    let files: Vec<&str> = errors.iter().filter(|e| e.file().is_some()).map(Error::code).collect();
    assert_eq!(files, ["io", "input", "conflict", "locked"]);
    assert_eq!(errors[1].file(), Some(Path::new("a.json")));
    assert_eq!(errors[1].field(), Some("line 3"));
    assert_eq!(errors[1].to_string(), "a.json: line 3: is wrong; mend it");
    let io = errors[0].line();
    assert!(io.starts_with("a.json: cannot open: ") && io.ends_with("; check the name"), "{io}");
}

#[test]
fn settings_are_data_beside_the_words() {
    let remedy = Remedy::from("set L2 to 5, or compute on the CPU")
        .hyperparameter("L2", Some("5"))
        .option("device", Some("cpu"))
        .operation(Operation::Doctor);
    let error = Error::numeric("no solution", remedy.clone());
    assert_eq!(error.to_string(), "no solution; set L2 to 5, or compute on the CPU");
    assert_eq!(error.remedy(), Some(remedy));
    let settings = error.remedy().unwrap().settings;
    let named: Vec<_> =
        settings.iter().map(|s| (s.kind, &s.name[..], s.value.as_deref())).collect();
    let (method, engine) = (SettingKind::Hyperparameter, SettingKind::Option);
    assert_eq!(named, [(method, "L2", Some("5")), (engine, "device", Some("cpu"))]);
}
