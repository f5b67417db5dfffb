//! Every step of apply, undo and recovery fails, is the last before a kill, or before a power cut;
//! afterwards every tensor is all old or all new, and undo still gives back every byte. J1 to J5
//! are invariants of `src/store/journal.rs`; `journal.rs` here holds J6, `foreign.rs` J7.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use incise::base::DType;
use incise::store::Lineage;
use incise::store::disk::{Disk, Os};
use incise::store::history::{FOLDER, History};
use incise::store::journal::{self, Undone};

use super::faulty::{FAULTS, Fault, Faulty};
use super::journal::{apply, ranges};
use super::toy::Toy;

type Bytes = BTreeMap<String, Vec<u8>>;

/// A copy of the model after `changes` changes, and its bytes after each number of them.
fn changed(model: &Toy, changes: u8) -> (Toy, Vec<Bytes>) {
    let toy = model.again();
    let mut states = vec![toy.bytes()];
    for by in 1..=changes {
        apply(&Faulty::sound(), &toy, by).unwrap();
        states.push(toy.bytes());
    }
    (toy, states)
}

/// J2, J5: the model opens and is in one of `allowed` of its states, as its log and its lineage
/// say; returns
/// which. Then all changes are undone.
fn holds(toy: &Toy, states: &[Bytes], allowed: &[usize], case: &str) -> usize {
    journal::recover(&Faulty::sound(), &toy.dir).unwrap_or_else(|e| panic!("{case}: {e}"));
    toy.open();
    let now = toy.bytes();
    let log = journal::log(&toy.dir).unwrap().len();
    assert!(allowed.contains(&log), "{case}: {log} changes");
    assert!(now == states[log], "{case}: the log has {log} changes, the files do not");
    let lineage = Lineage::read(&toy.dir).unwrap_or_else(|e| panic!("{case}: {e}"));
    let newest = (log > 0).then(|| log.to_string());
    assert_eq!(lineage.map(|l| l.base), newest, "{case}: the lineage is of another change");
    if log > 0 {
        journal::undo(&Faulty::sound(), &toy.dir, Some(0)).unwrap();
    }
    assert!(toy.bytes() == states[0], "{case}: undo gave other bytes");
    if toy.dir.join(".incise").exists() {
        apply(&Faulty::sound(), toy, 9).unwrap(); // nothing is in the way of the next change
        journal::undo(&Faulty::sound(), &toy.dir, None).unwrap();
        assert_eq!(toy.journal(), ["lock"], "{case}: something was left lying about");
    }
    log
}

/// What the system said.
fn cause(e: &incise::Error) -> Option<io::ErrorKind> {
    Some(std::error::Error::source(e)?.downcast_ref::<io::Error>()?.kind())
}

/// Runs `act` on a model after `before` changes with a fault at every step; it makes `after` of
/// them. Returns how many steps there are.
fn every_step(
    (before, after): (u8, u8),
    fault: Fault,
    act: &dyn Fn(&dyn Disk, &Toy) -> incise::Result<()>,
) -> usize {
    let model = Toy::sharded(DType::BF16);
    let (_, states) = changed(&model, before.max(after));
    let (before, after) = (usize::from(before), usize::from(after));
    for n in 0.. {
        let (toy, _) = changed(&model, before as u8);
        let disk = Faulty::new(n, fault);
        let done = act(&disk, &toy);
        disk.aftermath();
        let case = format!("{before} → {after} changes, {fault:?} at step {n}");
        let allowed = match (&done, fault) {
            (Ok(()), _) => vec![after], // J3: what was reported as done is done
            (Err(_), Fault::Fail | Fault::Full) => {
                assert!(toy.bytes() == states[before], "{case}: not put back at once");
                vec![before]
            }
            (Err(_), _) => vec![before, after],
        };
        if let (Err(e), Fault::Full) = (&done, fault) {
            assert_eq!(cause(e), Some(io::ErrorKind::StorageFull), "{case}: {e}");
        }
        holds(&toy, &states, &allowed, &case);
        if !disk.hit() {
            assert!(done.is_ok(), "{case}: {}", done.unwrap_err());
            return n;
        }
    }
    unreachable!("a finite number of steps")
}

#[test]
fn j2_j3_apply_fails_at_every_step() {
    for fault in FAULTS {
        for before in [0, 1] {
            let steps =
                every_step((before, before + 1), fault, &|disk, toy| apply(disk, toy, before + 1));
            assert!(steps > 10, "{steps} steps: the faults do not reach the journal");
        }
    }
}

#[test]
fn j5_undo_fails_at_every_step() {
    for fault in FAULTS {
        let undo = |disk: &dyn Disk, toy: &Toy| journal::undo(disk, &toy.dir, None).map(drop);
        let steps = every_step((2, 1), fault, &undo);
        assert!(steps > 8, "{steps} steps: the faults do not reach the journal");
    }
}

/// New bytes of the model reach the disk at once, those of the journal when they are synced.
struct Eager<'a>(&'a Faulty);

impl Disk for Eager<'_> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.0.create(path)
    }

    fn write(&self, path: &Path, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write(path, file, bytes, at)?;
        if path.parent().unwrap().ends_with(FOLDER) { Ok(()) } else { self.0.sync(path, file) }
    }

    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        self.0.sync(path, file)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
}

/// The machine goes off at every step and loses of the journal what is not synced: where a byte of
/// the model is new by then, its old one and the patch are there.
#[test]
fn j1_old_bytes_are_synced_before_new_ones_are_written() {
    let model = Toy::sharded(DType::BF16);
    let before = model.bytes();
    let mut overwritten = 0;
    for n in 0.. {
        let toy = model.again();
        let ranges = ranges(&toy);
        let disk = Faulty::new(n, Fault::PowerCut(0));
        let _ = apply(&Eager(&disk), &toy, 1); // its end does not matter here
        disk.aftermath();
        if toy.bytes() != before {
            overwritten += 1;
            let history = History::read(&toy.dir).unwrap();
            history.patch(1).unwrap();
            for range in &ranges {
                let old = &before[&range.file][range.offset as usize..range.end() as usize];
                assert!(history.original(range).unwrap() == old, "step {n}");
            }
        }
        if !disk.hit() {
            break;
        }
    }
    assert!(overwritten > 4, "{overwritten} steps: the faults do not reach the model");
}

/// A process killed while it puts back what another left half done when it was killed.
#[test]
fn j4_recovery_fails_at_every_step() {
    let model = Toy::sharded(DType::BF16);
    let (_, states) = changed(&model, 1);
    for fault in &FAULTS[..6] {
        for n in 0.. {
            let mut killed = false;
            for m in 0.. {
                let toy = model.again();
                let first = Faulty::new(n, Fault::Kill);
                killed = apply(&first, &toy, 1).is_err();
                let second = Faulty::new(m, *fault);
                let recovered = journal::recover(&second, &toy.dir).is_ok();
                second.aftermath();
                let case = format!("killed at step {n}, recovery {fault:?} at step {m}");
                let last = !second.hit();
                let needless = matches!(fault, Fault::Full); // old bytes need no free space
                assert!(recovered || !(last || needless), "{case}");
                holds(&toy, &states, &[0, 1], &case);
                if last {
                    break;
                }
            }
            if !killed {
                break;
            }
        }
    }
}

/// Undo after a killed apply takes back that change alone, whichever step it was killed at, and
/// says so.
#[test]
fn an_undo_of_a_change_that_was_cut_off() {
    let model = Toy::sharded(DType::BF16);
    let (_, states) = changed(&model, 1);
    for n in 0.. {
        let (toy, _) = changed(&model, 1);
        let disk = Faulty::new(n, Fault::Kill);
        let killed = apply(&disk, &toy, 2).is_err();
        let left = toy.journal().len() > 5; // lock, lineage, and the first change's three
        let Undone { changes, rolled_back } = journal::undo(&Os, &toy.dir, None).unwrap();
        // At the last step the change is done, and is undone.
        assert_eq!(changes.len(), usize::from(!rolled_back), "step {n}");
        let there = journal::log(&toy.dir).unwrap().len();
        assert_eq!(there, usize::from(left), "step {n}");
        assert!(toy.bytes() == states[there], "step {n}");
        if !killed {
            assert!(!rolled_back && n > 10, "step {n}");
            break;
        }
    }
}

/// A folder that cannot be written is not opened half changed.
#[test]
fn j2_an_unfinished_change_in_read_only_files() {
    use std::os::unix::fs::PermissionsExt;
    let model = Toy::sharded(DType::BF16);
    let before = model.bytes();
    for n in 0.. {
        let toy = model.again();
        let disk = Faulty::new(n, Fault::Kill);
        let done = apply(&disk, &toy, 1);
        if toy.bytes() == before {
            continue; // before the first new byte
        }
        assert!(done.is_err(), "no step left half a change");
        let shard = toy.dir.join("model-00001-of-00002.safetensors");
        let mode =
            |mode| std::fs::set_permissions(&shard, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o444);
        let why = super::toy::refusal(journal::recover(&Os, &toy.dir));
        assert!(why.contains("interrupted change") && why.contains("read-only"), "{why}");
        mode(0o644);
        journal::recover(&Os, &toy.dir).unwrap();
        assert!(toy.bytes() == before);
        return;
    }
}
