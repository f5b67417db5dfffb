//! Any sequence of changes and undos, any of which may fail, die or lose power at any step.

use std::collections::BTreeMap;

use incise::base::DType;
use incise::store::disk::Disk;
use incise::store::journal;
use incise::store::record::FileRange;
use proptest::prelude::*;

use super::faulty::{FAULTS, Fault, Faulty};
use super::journal::{apply, ranges};
use super::toy::Toy;

type Bytes = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    /// Add so much to every original byte.
    Apply(u8),
    /// Undo the newest, or (of those there are) all but so many.
    Undo(Option<prop::sample::Index>),
}

fn step() -> impl Strategy<Value = (Step, Option<(usize, Fault)>)> {
    let undo = prop::option::of(any::<prop::sample::Index>());
    let step = prop_oneof![any::<u8>().prop_map(Step::Apply), undo.prop_map(Step::Undo)];
    (step, prop::option::weighted(0.7, (0usize..24, prop::sample::select(FAULTS.to_vec()))))
}

/// The model's bytes with so much added to every original one.
fn changed(original: &Bytes, ranges: &[FileRange], by: u8) -> Bytes {
    let mut bytes = original.clone();
    for range in ranges {
        let changed = range.offset as usize..range.end() as usize;
        let file = bytes.get_mut(&range.file).unwrap();
        file[changed].iter_mut().for_each(|b| *b = b.wrapping_add(by));
    }
    bytes
}

fn run(disk: &dyn Disk, toy: &Toy, step: &Step, applied: usize) -> (incise::Result<()>, usize) {
    match step {
        Step::Apply(by) => (apply(disk, toy, *by), applied + 1),
        Step::Undo(None) => match journal::undo(disk, &toy.dir, None) {
            // What is left of an apply that was cut off is the newest change, and no other goes.
            Ok(undone) => {
                assert_eq!(undone.changes.len(), usize::from(!undone.rolled_back));
                (Ok(()), applied - undone.changes.len())
            }
            Err(e) => (Err(e), applied - 1),
        },
        Step::Undo(Some(keep)) => {
            let keep = keep.index(applied);
            (journal::undo(disk, &toy.dir, Some(keep)).map(drop), keep)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn all_old_or_all_new(steps in prop::collection::vec(step(), 1..7)) {
        let toy = Toy::sharded(DType::BF16);
        let ranges = ranges(&toy);
        let mut states = vec![toy.bytes()]; // after each change that is applied
        for (step, fault) in steps {
            let applied = states.len() - 1;
            if applied == 0 && matches!(step, Step::Undo(_)) {
                continue;
            }
            if let Step::Apply(by) = step {
                states.push(changed(&states[0], &ranges, by));
            }
            let disk = fault.map_or_else(Faulty::sound, |(n, fault)| Faulty::new(n, fault));
            let (done, wanted) = run(&disk, &toy, &step, applied);
            disk.aftermath();
            let now = journal::log(&toy.dir).unwrap();
            prop_assert!(toy.bytes() == states[now.len()], "the log and the files differ");
            let (low, high) = (applied.min(wanted), applied.max(wanted));
            match done {
                Ok(()) => prop_assert_eq!(now.len(), wanted),
                Err(_) => prop_assert!((low..=high).contains(&now.len())),
            }
            let numbers: Vec<u32> = now.iter().map(|e| e.number).collect();
            prop_assert_eq!(numbers, (1..=now.len() as u32).collect::<Vec<_>>());
            states.truncate(now.len() + 1);
        }
        if states.len() > 1 {
            journal::undo(&Faulty::sound(), &toy.dir, Some(0)).unwrap();
        }
        prop_assert!(toy.bytes() == states[0], "undo gives every byte back");
    }
}
