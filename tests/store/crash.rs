//! Every step of apply, undo and recovery fails, is the last before a kill, or before a power cut;
//! afterwards every tensor is all old or all new, and undo still gives back every byte.

use std::collections::BTreeMap;
use std::io;

use incise::base::DType;
use incise::store::disk::{Disk, Os};
use incise::store::journal;

use super::faulty::{FAULTS, Fault, Faulty};
use super::journal::apply;
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

/// The model opens and is in one of `allowed` of its states, as its log says; returns which. Then
/// all changes are undone.
fn holds(toy: &Toy, states: &[Bytes], allowed: &[usize], case: &str) -> usize {
    journal::settle(&Faulty::sound(), &toy.dir).unwrap_or_else(|e| panic!("{case}: {e}"));
    toy.open();
    let now = toy.bytes();
    let log = journal::log(&toy.dir).unwrap().len();
    assert!(allowed.contains(&log), "{case}: {log} changes");
    assert!(now == states[log], "{case}: the log has {log} changes, the files do not");
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
            (Ok(()), _) => vec![after], // what was reported as done is done, whatever happens
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
fn apply_fails_at_every_step() {
    for fault in FAULTS {
        for before in [0, 1] {
            let steps =
                every_step((before, before + 1), fault, &|disk, toy| apply(disk, toy, before + 1));
            assert!(steps > 10, "{steps} steps: the faults do not reach the journal");
        }
    }
}

#[test]
fn undo_fails_at_every_step() {
    for fault in FAULTS {
        let undo = |disk: &dyn Disk, toy: &Toy| journal::undo(disk, &toy.dir, None).map(drop);
        let steps = every_step((2, 1), fault, &undo);
        assert!(steps > 8, "{steps} steps: the faults do not reach the journal");
    }
}

/// A process killed while it puts back what another left half done when it was killed.
#[test]
fn recovery_fails_at_every_step() {
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
                let settled = journal::settle(&second, &toy.dir).is_ok();
                second.aftermath();
                let case = format!("killed at step {n}, recovery {fault:?} at step {m}");
                let last = !second.hit();
                let needless = matches!(fault, Fault::Full); // old bytes need no new room
                assert!(settled || !(last || needless), "{case}");
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

/// A folder that cannot be written is not opened half changed.
#[test]
fn an_unfinished_change_in_read_only_files() {
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
        let why = super::toy::refusal(journal::settle(&Os, &toy.dir));
        assert!(why.contains("cut off") && why.contains("read-only"), "{why}");
        mode(0o644);
        journal::settle(&Os, &toy.dir).unwrap();
        assert!(toy.bytes() == before);
        return;
    }
}
