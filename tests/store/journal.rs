//! The journal when nothing dies: what it writes, keeps, gives back and refuses.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use incise::base::DType;
use incise::store::disk::Os;
use incise::store::history::History;
use incise::store::journal::{self, Journal};
use incise::store::record::FileRange;
use incise::store::{Change, Checkpoint, Delta, Lineage, Patch};

use super::toy::{A, B, Toy, metadata, refusal};

/// A patch to file away; the journal does not look into it.
pub fn patch() -> Patch {
    let change = |tensor: &str| Change {
        tensor: tensor.into(),
        module: tensor.into(),
        rows: None,
        out: 7,
        inner: 5,
        fan_in_fan_out: false,
        fingerprint: String::new(),
        keys: None,
        delta: Delta::LowRank { left: vec![1.0; 7], right: vec![2.0; 5], r: 1 },
    };
    Patch { changes: vec![change(A), change(B)], metadata: metadata(), file: None }
}

/// A and B in two pieces each.
pub fn ranges(toy: &Toy) -> Vec<FileRange> {
    let checkpoint = toy.open();
    let of = |name| {
        let (shard, entry) = checkpoint.entry(name).unwrap();
        let file = shard.path().file_name().unwrap().to_str().unwrap().to_owned();
        let (start, end, cut) = (entry.range.start, entry.range.end, entry.range.start + 10);
        let range = move |offset, end| FileRange { file: file.clone(), offset, len: end - offset };
        [range(start, cut), range(cut, end)]
    };
    [of(A), of(B)].concat()
}

/// Applies a change that adds `by` to every original byte, and whose lineage begins with `by`.
pub fn apply(disk: &dyn incise::store::disk::Disk, toy: &Toy, by: u8) -> incise::Result<()> {
    let ranges = ranges(toy);
    let mut journal = Journal::open(disk, &toy.dir)?;
    let mut fill = |_, old: &[u8]| Ok(old.iter().map(|b| b.wrapping_add(by)).collect());
    let mut lineage = || Lineage::begin(by.to_string());
    journal.apply(&patch(), ranges, &mut fill, Some(&mut lineage)).map(drop)
}

#[test]
fn apply_log_undo() {
    let toy = Toy::sharded(DType::BF16);
    let original = toy.bytes();
    assert!(journal::log(&toy.dir).unwrap().is_empty());
    apply(&Os, &toy, 1).unwrap();
    let first = toy.bytes();
    apply(&Os, &toy, 7).unwrap(); // adds to the original bytes, not to those of the first
    let second = toy.bytes();
    assert!(original != first && first != second);
    for range in ranges(&toy) {
        let at = range.offset as usize..range.end() as usize;
        let [old, new] = [&original, &second].map(|b| b[&range.file][at.clone()].to_vec());
        assert!(old.iter().zip(&new).all(|(old, new)| old.wrapping_add(7) == *new));
        assert_eq!(History::read(&toy.dir).unwrap().original(&range).unwrap(), old);
    }
    let log = journal::log(&toy.dir).unwrap();
    assert_eq!(log.iter().map(|e| e.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((&log[0].method[..], log[0].facts), ("rome", 3));
    assert_eq!(log[0].tensors, [A, B]);
    assert_eq!(History::read(&toy.dir).unwrap().patch(2).unwrap(), patch());
    assert!(refusal(journal::undo(&Os, &toy.dir, Some(2))).contains("2 changes are applied"));
    assert_eq!(journal::undo(&Os, &toy.dir, None).unwrap().changes[0].number, 2);
    assert_eq!(toy.bytes(), first);
    apply(&Os, &toy, 7).unwrap();
    let undone = journal::undo(&Os, &toy.dir, Some(0)).unwrap().changes;
    assert_eq!(undone.iter().map(|e| e.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(toy.bytes(), original);
    assert_eq!(toy.journal(), ["lock"]);
    assert!(refusal(journal::undo(&Os, &toy.dir, None)).contains("no change is applied"));
}

/// A range is found whole in a record that cut the tensor elsewhere; half a range is not made up.
#[test]
fn originals_across_cuts() {
    let toy = Toy::sharded(DType::BF16);
    let ranges = ranges(&toy);
    let whole = FileRange { len: ranges[0].len + ranges[1].len, ..ranges[0].clone() };
    let original = History::read(&toy.dir).unwrap().original(&whole).unwrap();
    apply(&Os, &toy, 1).unwrap();
    let history = History::read(&toy.dir).unwrap();
    assert_ne!(history.current(&whole).unwrap(), original);
    assert_eq!(history.original(&whole).unwrap(), original);
    let inner = FileRange { offset: whole.offset + 8, len: 5, ..whole.clone() };
    assert_eq!(history.original(&inner).unwrap(), original[8..13]);
    let over = FileRange { offset: whole.offset - 1, ..whole };
    assert!(refusal(history.original(&over)).contains("69 of 70 bytes"));
}

#[test]
fn a_live_writer() {
    let toy = Toy::sharded(DType::F32);
    let writer = Journal::open(&Os, &toy.dir).unwrap();
    for why in [
        refusal(Checkpoint::open(&toy.dir)),
        refusal(journal::log(&toy.dir)),
        refusal(journal::undo(&Os, &toy.dir, None)),
        refusal(Journal::open(&Os, &toy.dir)),
    ] {
        assert!(why.contains("another process is") && why.contains(".incise/lock"), "{why}");
    }
    drop(writer);
    toy.open();
}

/// A process that another thread is starting shares our open files for a moment, not the lock.
#[test]
fn a_writer_beside_processes_that_start() {
    let toy = Toy::sharded(DType::F32);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let refused = (0..2000).find_map(|_| Journal::open(&Os, &toy.dir).map(drop).err());
        done.store(true, Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

/// J6: what happens to the first shard before a change is refused, and the words.
#[track_caller]
fn refused(spoil: impl FnOnce(&std::path::Path, &Toy), words: &str) {
    let toy = Toy::sharded(DType::F32);
    let path = toy.dir.join("model-00001-of-00002.safetensors");
    spoil(&path, &toy);
    let before = toy.bytes();
    let why = refusal(apply(&Os, &toy, 1));
    assert!(why.contains("model-00001-of-00002.safetensors") && why.contains(words), "{why}");
    assert_eq!(toy.bytes(), before);
    assert_eq!(toy.journal(), ["lock"]);
}

#[test]
fn a_symbolic_link() {
    refused(
        |path, toy| {
            fs::rename(path, toy.beside("elsewhere")).unwrap();
            symlink(toy.beside("elsewhere"), path).unwrap();
        },
        "is a symbolic link",
    );
}

#[test]
fn a_hard_link() {
    refused(|path, toy| fs::hard_link(path, toy.beside("twin")).unwrap(), "has several names");
}

#[test]
fn a_read_only_file() {
    let read_only = fs::Permissions::from_mode(0o444);
    refused(|path, _| fs::set_permissions(path, read_only).unwrap(), "is read-only");
}

/// J6: undo puts nothing over bytes that something else has written.
#[test]
fn bytes_written_since() {
    let toy = Toy::sharded(DType::F32);
    apply(&Os, &toy, 1).unwrap();
    let range = &ranges(&toy)[1];
    let file = fs::File::options().write(true).open(toy.dir.join(&range.file)).unwrap();
    file.write_all_at(&[9, 9, 9], range.offset + 2).unwrap();
    let now = toy.bytes();
    let why = refusal(journal::undo(&Os, &toy.dir, None));
    assert!(why.contains("is not as change 1 left it"), "{why}");
    assert_eq!(toy.bytes(), now);
    assert_eq!(journal::log(&toy.dir).unwrap().len(), 1);
}

/// Every byte of a record is covered by a checksum or leaves the meaning alone.
#[test]
fn a_damaged_record() {
    let toy = Toy::sharded(DType::F32);
    let original = toy.bytes();
    apply(&Os, &toy, 1).unwrap();
    let changed = toy.bytes();
    let path = toy.dir.join(".incise/0001.journal");
    let record = fs::read(&path).unwrap();
    let (marks, mut refused) = (record.len() - 6 * 32, 0);
    for at in 0..record.len() {
        let mut damaged = record.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        let opened = Checkpoint::open(&toy.dir).map(drop);
        let undone = opened.and_then(|()| journal::undo(&Os, &toy.dir, None));
        let now = toy.bytes();
        assert!(now == changed || now == original, "byte {at} of {}", record.len());
        if undone.is_err() && now == changed {
            refused += 1;
        } else {
            assert!(at >= marks, "byte {at} of {} was not seen", record.len());
        }
        // Back to the start: the change applied, its record whole.
        for (name, bytes) in &changed {
            fs::write(toy.dir.join(name), bytes).unwrap();
        }
        fs::write(toy.dir.join(".incise/0001.patch.safetensors"), "").unwrap();
    }
    assert!(refused >= marks);
    for len in [0, 7, 20, 100, record.len() / 2, record.len() - 1] {
        fs::write(&path, &record[..len]).unwrap();
        assert!(Checkpoint::open(&toy.dir).is_err(), "{len} bytes");
        assert_eq!(toy.bytes(), changed);
    }
}
