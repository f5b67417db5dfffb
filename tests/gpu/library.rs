//! NVIDIA's libraries are found where they are, and missed without harm.

use std::fs;
use std::path::Path;
use std::process::Command;

use incise::gpu::library::{BLASLT, CUSOLVER, SWITCH, find, find_in};

use crate::support::session::text;

/// A library that says it is version 12.3.4 through a function of some name.
fn plant(dir: &Path, file: &str, function: &str) -> Option<()> {
    let source = dir.join("planted.cpp");
    let code = format!("extern \"C\" int {function}(int which, int* to) {{ *to = 12 * !which + ");
    fs::write(&source, code + "(which ? which + 2 : 0); return 0; }").unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(dir.join(file)).arg(&source);
    compiler.status().ok().filter(|status| status.success()).map(drop)
}

#[test]
fn a_library_that_is_missing_is_an_answer() {
    for wanted in [BLASLT, CUSOLVER] {
        for serves in [0, 11_080, 12_080, 13_000, i32::MAX] {
            match find(&wanted, serves) {
                Ok(found) => assert!(found.title.starts_with(wanted.name), "{}", found.title),
                Err(why) => {
                    let old = why.starts_with("the driver serves");
                    assert!(!why.is_empty() && old == (serves < 12_000), "{serves}: {why}");
                }
            }
        }
    }
}

#[test]
fn what_is_found_is_what_the_driver_serves() {
    let test = "gpu::library::what_is_found_is_what_the_driver_serves";
    if find_in(&BLASLT, i32::MAX, &[]).is_ok() {
        eprintln!("skipped: {test}: the loader has a library that comes before planted ones");
        return;
    }
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = dirs.each_ref().map(|dir| dir.path().to_owned());
    let places = [first.clone(), second.clone()];
    if plant(&second, "libcublasLt.so.12", "cublasLtGetProperty").is_none() {
        eprintln!("skipped: {test}: no C++ compiler (c++)");
        return;
    }
    let found = |serves| find_in(&BLASLT, serves, &places).map(|f| (f.title, f.path));
    let file = second.join("libcublasLt.so.12").display().to_string();
    for serves in [12_000, 12_080, 13_000] {
        assert_eq!(found(serves).unwrap(), ("cuBLASLt 12.3.4".to_owned(), file.clone()));
    }
    found(11_080).unwrap_err();
    // What is broken is named, and does not hide what is not.
    fs::write(first.join("libcublasLt.so.12"), "no library").unwrap();
    assert_eq!(found(12_080).unwrap().1, file);
    fs::write(first.join("libcublasLt.so.13"), "no library").unwrap();
    assert_eq!(found(13_000).unwrap().1, file);
    plant(&first, "libcusolver.so.12", "another").unwrap();
    fs::write(second.join("libcusolver.so.11"), "no library").unwrap();
    let why = find_in(&CUSOLVER, 13_000, &places).err().unwrap();
    assert!(why.contains("cusolverGetProperty") && why.contains("libcusolver.so.11"), "{why}");
}

#[test]
fn doctor_tells_of_libraries() {
    let doctor = |value: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
        command.env_remove(SWITCH).envs(value.map(|value| (SWITCH, value)));
        let out = command.arg("doctor").output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).to_owned()
    };
    let found = doctor(None);
    assert!(found.contains("cuBLASLt") && found.contains("cuSOLVER"), "{found}");
    for (value, said) in [("off", "disabled by INCISE_LIBRARIES=off"), ("no", "set it to off")] {
        let all = doctor(Some(value));
        assert_eq!(all.matches(said).count(), 2, "{all}");
    }
}
