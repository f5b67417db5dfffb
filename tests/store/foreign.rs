//! J7: journals that came with a folder from elsewhere. Opening it writes nowhere else.

use std::fs;
use std::path::Path;

use incise::base::DType;
use incise::store::Checkpoint;
use incise::store::disk::Os;
use incise::store::record::{FileIdentity, FileRange, Head, LogEntry, Record, checksum};

use super::journal::apply;
use super::toy::{Toy, refusal};

const SHARD: &str = "model-00001-of-00002.safetensors";

/// What the journal says of a file, as it is.
fn known(dir: &Path, file: &str) -> FileIdentity {
    let bytes = fs::read(dir.join(file)).unwrap();
    let n = u64::from_le_bytes(*bytes.first_chunk().unwrap()).min(bytes.len() as u64 - 8);
    let header = blake3_hex(&bytes[8..][..n as usize]);
    FileIdentity { file: file.into(), len: bytes.len() as u64, header }
}

fn blake3_hex(bytes: &[u8]) -> String {
    checksum(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A record of a change that was cut off after four bytes of the first shard, whose old bytes are
/// said to be 9s.
fn head(toy: &Toy) -> Head {
    let len = fs::metadata(toy.dir.join(SHARD)).unwrap().len();
    let entry =
        LogEntry { number: 1, time: 0, method: "rome".into(), facts: 1, tensors: vec!["a".into()] };
    let range = FileRange { file: SHARD.into(), offset: len - 4, len: 4 };
    Head { entry, files: vec![known(&toy.dir, SHARD)], ranges: vec![range] }
}

/// Lays the record into the model's folder and opens the model.
fn opened(toy: &Toy, head: &Head, name: &str) -> incise::Result<Checkpoint> {
    let folder = toy.dir.join(".incise");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("lock"), "").unwrap();
    let nines = &mut |place: &FileRange| Ok(vec![9; place.len.min(100) as usize]);
    Record::write(&Os, &folder.join(name), head, nines).unwrap();
    Checkpoint::open(&toy.dir)
}

/// The model is not opened, in these words, and nothing is written anywhere.
#[track_caller]
fn refused(spoil: impl FnOnce(&Toy, &mut Head), words: &str) {
    let toy = Toy::sharded(DType::F32);
    fs::write(toy.beside("victim"), [7; 64]).unwrap();
    let mut head = head(&toy);
    spoil(&toy, &mut head);
    let before = toy.bytes();
    let why = refusal(opened(&toy, &head, "0001.journal"));
    assert!(why.contains("0001.journal") && why.contains(words), "{why}");
    assert!(why.contains("restore the model's files"), "{why}");
    assert_eq!(toy.bytes(), before);
    assert_eq!(fs::read(toy.beside("victim")).unwrap(), [7; 64]);
}

/// The case the others are spoilt from does what it says.
#[test]
fn a_record_that_fits_is_put_back() {
    let toy = Toy::sharded(DType::F32);
    let before = toy.bytes();
    opened(&toy, &head(&toy), "0001.journal").unwrap();
    let after = fs::read(toy.dir.join(SHARD)).unwrap();
    assert!(after != before[SHARD] && after.ends_with(&[9; 4]));
}

#[test]
fn a_file_outside_the_folder() {
    let outside = |file: &str| {
        let file = file.to_owned();
        move |toy: &Toy, head: &mut Head| {
            let file = file.replace("BESIDE", toy.temp.path().to_str().unwrap());
            head.ranges[0] = FileRange { file: file.clone(), offset: 8, len: 4 };
            head.files = vec![FileIdentity { file, ..known(toy.temp.path(), "victim") }];
        }
    };
    for file in ["../victim", "BESIDE/victim", "sub/../../victim", "", "..", "./x"] {
        refused(outside(file), "is no file of this folder");
    }
}

#[test]
fn a_place_outside_its_file() {
    refused(|_, head| head.ranges[0].file = "config.json".into(), "is in no file");
    refused(|_, head| head.ranges[0].offset += 1, "is in no file");
    refused(|_, head| head.ranges[0].offset = u64::MAX - 1, "is in no file");
    refused(|_, head| head.ranges[0].offset = 4, "is in no file");
    refused(|_, head| head.files.clear(), "is in no file");
    refused(|_, head| head.ranges[0].offset = 8, "begins inside the header");
    refused(|_, head| head.ranges.push(head.ranges[0].clone()), "share bytes");
}

#[test]
fn numbers_beyond_every_count() {
    refused(|_, head| head.entry.time = u64::MAX, "out of range");
    refused(|_, head| head.entry.number = 7, "under another's name");
    let toy = Toy::sharded(DType::F32);
    let mut head = head(&toy);
    head.entry.number = u32::MAX;
    let why = refusal(opened(&toy, &head, "4294967295.journal"));
    assert!(why.contains("out of range"), "{why}");
}

/// A record under another name would be taken for a leftover, and the way back removed.
#[test]
fn a_record_renamed() {
    let toy = Toy::sharded(DType::F32);
    apply(&Os, &toy, 1).unwrap();
    let folder = toy.dir.join(".incise");
    fs::rename(folder.join("0001.journal"), folder.join("0002.journal")).unwrap();
    let (changed, record) = (toy.bytes(), fs::read(folder.join("0002.journal")).unwrap());
    assert!(refusal(apply_to(&toy)).contains("under another's name"));
    assert_eq!(fs::read(folder.join("0002.journal")).unwrap(), record);
    assert_eq!(toy.bytes(), changed);
}

fn apply_to(toy: &Toy) -> incise::Result<()> {
    incise::store::journal::Journal::open(&Os, &toy.dir).map(drop)
}
