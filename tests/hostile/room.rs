//! Disks that are full and folders that are closed. A file system of its own can be mounted, and
//! another user played, by root alone: elsewhere a test says that it is skipped.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::store::toy::bytes;
use crate::support::session::{Session, done, fails, json, strs, text};

fn skip(test: &str, why: &str) {
    // Not by a print macro: the harness would keep it back from a test that passes.
    let line = format!("skipped: {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A file system of a few megabytes, unmounted with the value.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Small> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(at).output();
        done.is_ok_and(|out| out.status.success()).then(|| Small(at.to_path_buf()))
    }

    /// Leaves so many bytes free.
    fn leave(&self, free: usize) {
        let filler = self.0.join("filler");
        let _ = fs::remove_file(&filler);
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let size = file.metadata().unwrap().len().saturating_sub(free as u64);
        file.set_len(size).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// With more and more room, each command fails with the disk's name for it and leaves everything
/// as it was, until it succeeds.
#[test]
fn a_full_disk() {
    let s = Session::new("gpt2");
    s.stats();
    done(&strs(&s.edit(&[])));
    let Some(small) = Small::mount(&s.folder.path().join("small")) else {
        return skip("a_full_disk", "no file system can be mounted here");
    };
    let model = small.0.join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(s.at(&format!("model/{file}")), model.join(file)).unwrap();
    }
    let old = small.0.join("old.safetensors"); // stands where results are to go
    let (model, old) = (model.display().to_string(), old.display().to_string());
    let (corpus, patch) = (s.at("corpus.txt"), s.at("patch.safetensors"));
    let stats = small.0.join("stats").display().to_string();
    let copy = small.0.join("copy").display().to_string();
    let edit = s.edit(&["--set", "v_num_grad_steps=1"]);
    let edit: Vec<&str> =
        edit.iter().map(|a| if *a == patch { &*old } else { a.as_str() }).collect();
    let commands: [&[&str]; 5] = [
        &["apply", &model, &patch, "--in-place"],
        &["apply", &model, &patch, "-o", &copy],
        &["stats", &model, "--layers", "0-1", "--corpus", &corpus, "-o", &stats],
        &["logits", &model, "--prompts", &corpus, "-o", &old],
        &edit,
    ];
    let before = bytes(Path::new(&model));
    let (line, few) = (s.at("line"), s.at("few"));
    fs::write(&line, "The sea").unwrap();
    done(&["logits", &s.at("model"), "--prompts", &line, "-o", &few]);
    for args in commands {
        small.leave(1 << 18);
        let older = fs::read(if args[0] == "logits" { &few } else { &patch }).unwrap();
        fs::write(&old, &older).unwrap();
        let (mut full, mut succeeded) = (0, false);
        for pages in (0..16).chain((16..400).step_by(48)) {
            small.leave(pages * 4096);
            let out = crate::support::session::incise(args);
            succeeded = out.status.success();
            if succeeded {
                break;
            }
            full += 1;
            let error = text(&out.stderr);
            assert!(error.contains("No space left") && error.contains("free some"), "{error}");
            assert_eq!(bytes(Path::new(&model)), before, "{args:?}");
            assert!(fs::read(&old).unwrap() == older, "{args:?}");
            assert!(!Path::new(&copy).exists(), "{args:?}");
            assert_eq!(json(&["log", &model, "--json"]).as_array().unwrap().len(), 0);
            let hidden = fs::read_dir(&small.0).unwrap().filter(|file| {
                file.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp")
            });
            assert_eq!(hidden.count(), 0, "{args:?}: temporary files are left");
        }
        assert!(succeeded || args[0] == "logits", "{args:?} fails with room enough");
        assert!(full > 0, "{args:?} was never short of room");
        if args.contains(&"--in-place") {
            small.leave(0);
            done(&["undo", &model]); // needs no room
            assert_eq!(bytes(Path::new(&model)), before);
        }
        let _ = fs::remove_dir_all(&copy);
        let _ = fs::remove_dir_all(&stats);
    }
}

/// Nothing can be written, everything can be read.
#[test]
fn a_read_only_folder() {
    let s = Session::new("gpt2");
    s.stats();
    done(&strs(&s.edit(&[])));
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let closed = s.folder.path().join("model");
    let root = fs::metadata(&closed).unwrap().uid() == 0;
    open(s.folder.path(), 0o755);
    open(&closed, 0o555);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
        command.args(args);
        if root {
            command.uid(65534); // root may write everywhere
        }
        command.output()
    };
    if run(&["--version"]).map_or(true, |out| !out.status.success()) {
        return skip("a_read_only_folder", "another user cannot run the program here");
    }
    let (model, patch, corpus) = (s.at("model"), s.at("patch.safetensors"), s.at("corpus.txt"));
    let (out, stats) = (s.at("model/out"), s.at("model/stats"));
    let before = bytes(&closed);
    for (args, named) in [
        (vec!["apply", &*model, &*patch, "--in-place"], ".incise"),
        (vec!["apply", &*model, &*patch, "-o", &*out], "model"),
        (vec!["stats", &*model, "--layers", "0", "--corpus", &*corpus, "-o", &*stats], "stats"),
    ] {
        let result = run(&args).unwrap();
        let error = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains(named) && error.contains("ermission denied"), "{error}");
        assert!(error.contains("change its permissions"), "{error}");
        assert_eq!(bytes(&closed), before);
    }
    for args in [vec!["inspect", &*model], vec!["generate", &*model, "--prompt", "The"]] {
        let result = run(&args).unwrap();
        assert!(result.status.success(), "{args:?}: {}", text(&result.stderr));
    }
    open(&closed, 0o755);
}

/// A folder that a file stands in the way of.
#[test]
fn a_file_where_a_folder_should_be() {
    let s = Session::new("gpt2");
    s.stats();
    done(&strs(&s.edit(&[])));
    fs::write(s.at("model/.incise"), "").unwrap();
    let error = fails(1, &["apply", &s.at("model"), &s.at("patch.safetensors"), "--in-place"]);
    assert!(error.contains(".incise"), "{error}");
    fs::remove_file(s.at("model/.incise")).unwrap();
    let (model, corpus) = (s.at("model"), s.at("corpus.txt"));
    let args = ["stats", &model, "--layers", "0", "--corpus", &corpus, "-o", &corpus];
    assert!(fails(1, &args).contains("corpus.txt"));
}
