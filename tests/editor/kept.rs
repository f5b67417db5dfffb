//! What is kept beside an edit's output: named where it is, and removed once it has served.

use std::fs;
use std::path::{Path, PathBuf};

use incise::base::Error;
use incise::tensor::Device;
use incise::{Editor, Fact};

use super::{Copy, rome, violin};
use crate::support::cancel::CancelAt;

/// A short training beside `out`.
fn editor(copy: &Copy, out: &Path) -> Editor {
    let editor = copy.editor(&Device::Cpu).method("ft-m").unwrap().output(out);
    editor.set("num_steps", 2).unwrap()
}

fn trainings(out: &Path) -> Vec<PathBuf> {
    let folder = PathBuf::from(format!("{}.kept", out.display()));
    let Ok(files) = fs::read_dir(folder) else { return vec![] };
    let files = files.map(|file| file.unwrap().path());
    files.filter(|path| path.to_string_lossy().contains("training-")).collect()
}

/// At whichever question it is cut off, it says that something is kept where a file is, and then
/// the same edit goes on from there.
#[test]
fn an_interruption_names_the_folder_where_something_is_in_it() {
    let copy = Copy::new();
    let facts: [Fact; 2] = [violin(), rome()];
    let (mut named, mut empty, mut after) = (0, 0, false);
    for question in 1.. {
        let out = copy.beside(&format!("{question}.patch"));
        let editor = editor(&copy, &out).progress(CancelAt::question(question));
        match editor.plan(&facts) {
            Ok(_) => break,
            Err(Error::Interrupted { kept }) => {
                let there = !trainings(&out).is_empty();
                assert_eq!(kept.contains("what was found is in"), there, "{question}: {kept}");
                (named, empty) = (named + usize::from(there), empty + usize::from(!there));
                after = there;
            }
            Err(e) => panic!("{question}: {e}"),
        }
    }
    assert!(named > 0 && empty > 0 && after, "{named} times it was named, {empty} not");
}

/// A training that served goes, another's stays, and the folder with the last of them.
#[test]
fn a_training_that_served_is_removed_alone() {
    let copy = Copy::new();
    let out = copy.beside("a.patch");
    let folder = copy.beside("a.patch.kept");
    let other = folder.join("training-another.safetensors");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("lock"), "").unwrap();
    fs::write(&other, "of another edit").unwrap();
    let edit = editor(&copy, &out).plan(&[violin()]).unwrap();
    assert_eq!(trainings(&out).len(), 2);
    edit.write(&out).unwrap();
    assert_eq!(trainings(&out), [&*other]);
    assert!(folder.join("lock").exists());
    fs::remove_file(&other).unwrap();
    edit.write(&out).unwrap();
    assert!(!folder.exists());
    edit.write(&out).unwrap();
}
