//! Files we write, read by us and by the format's own library.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use incise::store::header::{Entry, Header, size};
use incise::store::write::{Item, write};
use incise::store::{Change, Delta, Patch, RowBlocks, Shard};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde_json::json;

use super::toy::{metadata, refusal};

const TYPES: [Dtype; 5] = [Dtype::F64, Dtype::F32, Dtype::BF16, Dtype::I64, Dtype::U8];

/// Writes items whose bytes count up, and gives the file back.
fn written(items: &[Item], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write(&path, metadata, items, &mut |i, out| out.write_all(&content(&items[i]))).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files are left");
    Shard::open(&path).unwrap();
    fs::read(&path).unwrap()
}

fn content(item: &Item) -> Vec<u8> {
    let n = size(item.dtype, &item.shape).unwrap();
    (0..n).map(|i| (i * 7 + item.name.len()) as u8).collect()
}

proptest! {
    // Each case writes and syncs two files.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn round_trip(
        tensors in proptest::collection::btree_map(
            "[a-z\"\\\\é.]{1,12}", (0usize..5, proptest::collection::vec(0usize..4, 0..3)), 0..6),
        metadata in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..3),
    ) {
        let item = |(name, (t, shape)): (&String, &(usize, Vec<usize>))|
            Item { name: name.clone(), dtype: TYPES[*t], shape: shape.clone() };
        let mut items: Vec<Item> = tensors.iter().map(item).collect();
        let bytes = written(&items, &metadata);
        let ours = Header::parse(Path::new("x"), &bytes).unwrap();
        prop_assert_eq!((&ours.metadata, ours.tensors.len()), (&metadata, items.len()));
        for item in &items {
            let t = &ours.tensors[&item.name];
            prop_assert_eq!((&t.dtype, &t.shape), (&item.dtype.to_string(), &item.shape));
            let range = t.range.start as usize..t.range.end as usize;
            prop_assert_eq!(&bytes[range], content(item));
        }
        let file = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(file.len(), items.len());
        for item in &items {
            let t = file.tensor(&item.name).unwrap();
            prop_assert_eq!(t.shape(), &item.shape[..]);
            prop_assert_eq!(t.data(), &content(item)[..]);
            let begin = t.data().as_ptr() as usize - bytes.as_ptr() as usize;
            let aligned = t.data().is_empty() || begin.is_multiple_of(item.dtype.bitsize() / 8);
            prop_assert!(aligned, "{} is not aligned", item.name);
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let read = header.metadata().clone().unwrap_or_default();
        prop_assert_eq!(&read.into_iter().collect::<BTreeMap<_, _>>(), &metadata);
        items.reverse();
        prop_assert_eq!(written(&items, &metadata), bytes, "the order of the items shows");
    }
}

#[test]
fn two_tensors_of_one_name() {
    let item = Item { name: "a".into(), dtype: Dtype::U8, shape: vec![1] };
    let path = tempfile::tempdir().unwrap().path().join("x");
    let done = write(&path, &BTreeMap::new(), &[item.clone(), item], &mut |_, _| Ok(()));
    assert!(refusal(done).contains("a: two tensors of this name"));
}

/// The safetensors files in a folder and the folders in it.
fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_under(&path));
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            found.push(path);
        }
    }
    found
}

/// What others wrote, read by our reader and written by our writer, is the same file: golden files
/// come from the format's own library, the demo's model too. All of them are laid out as it lays
/// them out, so there is no exception; one that gets several keys of metadata from it (in the order
/// of a hash map) would be the first.
#[test]
fn golden_files_are_rewritten_byte_for_byte() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [files_under(&root.join("tests/golden")), files_under(&root.join("demo"))].concat();
    assert!(files.len() > 100, "{} files", files.len());
    let folder = tempfile::tempdir().unwrap();
    for path in files {
        let shard = Shard::open(&path).unwrap();
        let Header { metadata, tensors, .. } = shard.header();
        let item = |(name, entry): (&String, &Entry)| Item {
            name: name.clone(),
            dtype: Dtype::deserialize(json!(entry.dtype)).unwrap(),
            shape: entry.shape.clone(),
        };
        let items: Vec<Item> = tensors.iter().map(item).collect();
        let again = folder.path().join("again.safetensors");
        write(&again, metadata, &items, &mut |i, out| {
            out.write_all(&shard.bytes(&tensors[&items[i].name].range))
        })
        .unwrap();
        assert!(fs::read(&again).unwrap() == fs::read(&path).unwrap(), "{}", path.display());
    }
}

/// A reader of the old file keeps it; a writer that fails leaves it.
#[test]
fn a_failed_write_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, "old").unwrap();
    let item = Item { name: "a".into(), dtype: Dtype::U8, shape: vec![1] };
    let failed =
        write(&path, &BTreeMap::new(), &[item], &mut |_, _| Err(std::io::Error::other("no more")));
    assert!(refusal(failed).contains("cannot write"));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn patch() -> Patch {
    let change = |tensor: &str, delta| Change {
        tensor: tensor.into(),
        module: format!("transformer.{tensor}"),
        rows: None,
        out: 3,
        inner: 2,
        fan_in_fan_out: tensor == "w",
        fingerprint: "89ab".into(),
        keys: None,
        delta,
    };
    let left = (0..6).map(|i| i as f32 / 3.0).collect();
    let right = vec![-0.0, f32::MIN_POSITIVE / 2.0, 1e30, -7.0];
    let low = change("w", Delta::LowRank { left, right, r: 2 });
    let dense = change("w2", Delta::Dense((0..6).map(|i| (i as f32).sin()).collect()));
    Patch { changes: vec![low, dense], metadata: metadata(), file: None }
}

#[test]
fn patch_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.safetensors");
    patch().write(&path).unwrap();
    assert_eq!(Patch::read(&path).unwrap(), patch());
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("w.left").unwrap().shape(), [3, 2]);
    assert_eq!(file.tensor("w2.delta").unwrap().shape(), [3, 2]);
    patch().write(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "the same patch gives the same bytes");
}

#[track_caller]
fn bad(spoil: impl FnOnce(&mut Patch), why: &str) {
    let mut patch = patch();
    spoil(&mut patch);
    let path = tempfile::tempdir().unwrap().path().join("p.safetensors");
    let message = refusal(patch.write(&path));
    assert!(message.contains(why), "{message:?} does not say {why:?}");
}

/// left, right and r of the first change.
fn low(patch: &mut Patch) -> (&mut Vec<f32>, &mut Vec<f32>, &mut usize) {
    match &mut patch.changes[0].delta {
        Delta::LowRank { left, right, r } => (left, right, r),
        Delta::Dense(_) => panic!("the first change is of low rank"),
    }
}

#[test]
fn patches_that_mean_nothing() {
    bad(|p| low(p).0[4] = f32::NAN, "w.left: value 4 is NaN");
    bad(|p| low(p).1[1] = f32::INFINITY, "w.right: value 1 is inf");
    bad(|p| *low(p).2 = 3, "w: rank 3 is not in 1 ..= min(3, 2)");
    bad(|p| *low(p).2 = 0, "w: rank 0");
    bad(|p| low(p).0.truncate(5), "w.left: 5 values for the shape [3, 2]");
    bad(|p| p.changes[1].tensor = "w".into(), "w: is changed twice");
    bad(|p| p.changes.clear(), "changes nothing");
}

/// A patch of rows of one tensor.
fn rows() -> Patch {
    let change = |start, len| Change {
        rows: Some(RowBlocks { start, len, period: 5, count: 2 }),
        out: 2 * len,
        keys: None,
        delta: Delta::Dense((0..4 * len).map(|i| i as f32).collect()),
        ..patch().changes[0].clone()
    };
    Patch {
        changes: vec![change(0, 1), change(1, 2), change(3, 2)],
        metadata: metadata(),
        file: None,
    }
}

#[test]
fn rows_of_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.safetensors");
    rows().write(&path).unwrap();
    assert_eq!(Patch::read(&path).unwrap(), rows());
    assert_eq!(rows().tensors().collect::<Vec<_>>(), ["w"]);
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("w:1.delta").unwrap().shape(), [4, 2]);
    let bad = |spoil: &dyn Fn(&mut Patch), why: &str| {
        let mut patch = rows();
        spoil(&mut patch);
        let message = refusal(patch.write(&path));
        assert!(message.contains(why), "{message:?} does not say {why:?}");
    };
    let at = |p: &mut Patch, start, len| {
        p.changes[1].rows = Some(RowBlocks { start, len, period: 5, count: 2 });
    };
    bad(&|p| at(p, 2, 2), "w:3: has rows that w:2 changes too");
    bad(&|p| at(p, 0, 2), "w:0: has rows that w:0 changes too");
    bad(&|p| at(p, 4, 2), "w:4: 2 rows from row 4 on are not in 2 × 5");
    bad(&|p| at(p, usize::MAX, 2), "are not in 2 × 5");
    bad(&|p| at(p, 1, 1), "w:1: 2 rows are named, and 4 changed");
    bad(&|p| p.changes[1].rows = None, "w: is changed twice");
    // What a file claims costs nothing.
    let huge = |p: &mut Patch, len, period, count| {
        p.changes[1].rows = Some(RowBlocks { start: 0, len, period, count });
    };
    bad(&|p| huge(p, 1, 2, 1 << 40), "w:0: 1 rows from row 0 on are not in 1099511627776 × 2");
    bad(&|p| huge(p, 4, 1 << 60, 1), "w:0: 4 rows from row 0 on are not in 1 × ");
    bad(
        &|p| {
            (p.changes[1].inner, p.changes[1].delta) = (0, Delta::Dense(Vec::new()));
        },
        "w:1: is 4 by 0",
    );
    bad(&|p| p.changes[2].fingerprint.clear(), "w:3: is of another tensor than w:0");
    bad(&|p| p.changes[2].fan_in_fan_out = false, "w:3: is of another tensor than w:0");
    let mut other = rows();
    other.changes[1].tensor = "v".into();
    other.changes[2].rows = Some(RowBlocks { start: 1, len: 4, period: 11, count: 1 });
    let why = refusal(other.write(&path));
    assert!(why.contains("w:1: is of another tensor than w:0"), "other blocks, other rows: {why}");
    other.changes[2].rows = Some(RowBlocks { start: 5, len: 4, period: 10, count: 1 });
    let why = refusal(other.write(&path));
    assert!(why.contains("w:5: has rows that w:0 changes too"), "other blocks, same row: {why}");
}

/// A patch of whole tensors differs from one of format 1 in the number alone, and one of format 1
/// is read.
#[test]
fn format_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.safetensors");
    let older = |patch: Patch| {
        patch.write(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let [old, new] = ["incise patch 1", "incise patch 2"].map(str::as_bytes);
        let at = bytes.windows(new.len()).position(|part| part == new).unwrap();
        bytes[at..at + old.len()].copy_from_slice(old);
        fs::write(&path, bytes).unwrap();
        Patch::read(&path)
    };
    assert_eq!(older(patch()).unwrap(), patch());
    patch().write(&path).unwrap();
    let about = Shard::open(&path).unwrap().header().metadata["tensors"].clone();
    let want = r#"{"w":{"module":"transformer.w","fan_in_fan_out":true,"fingerprint":"89ab"},"#;
    assert!(about.starts_with(want), "{about}");
    assert!(refusal(older(rows())).contains("w:0: names rows"));
}

/// Patches as another program might write them.
#[test]
fn files_that_are_no_patch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.safetensors");
    patch().write(&path).unwrap();
    let good = Shard::open(&path).unwrap();
    let metadata = good.header().metadata.clone();
    let names = |names: &[(&str, [usize; 2])]| -> Vec<Item> {
        let item = |(n, s): &(&str, [usize; 2])| (n.to_string(), s.to_vec());
        let items = names.iter().map(item);
        items.map(|(name, shape)| Item { name, dtype: Dtype::F32, shape }).collect()
    };
    let whole = [("w.left", [3, 2]), ("w.right", [2, 2]), ("w2.delta", [3, 2])];
    let try_it = |metadata: &BTreeMap<String, String>, items: Vec<Item>| {
        let zeros = |item: &Item| vec![0; item.shape.iter().product::<usize>() * 4];
        write(&path, metadata, &items, &mut |i, out| out.write_all(&zeros(&items[i]))).unwrap();
        Patch::read(&path)
    };
    assert!(try_it(&metadata, names(&whole)).is_ok());
    assert!(refusal(try_it(&BTreeMap::new(), names(&whole))).contains("format: is missing"));
    for key in metadata.keys() {
        let mut less = metadata.clone();
        less.remove(key);
        assert!(refusal(try_it(&less, names(&whole))).contains(&format!("{key}: is missing")));
    }
    let mut newer = metadata.clone();
    for (format, remedy) in [("incise patch 4", "the version of incise"), ("pt", "name a patch")] {
        newer.insert("format".into(), format.into());
        let why = refusal(try_it(&newer, names(&whole)));
        assert!(why.contains("format: is not incise patch 1 or") && why.contains(remedy), "{why}");
    }
    let ranks = [("w.left", [3, 2]), ("w.right", [2, 1]), ("w2.delta", [3, 2])];
    assert!(refusal(try_it(&metadata, names(&ranks))).contains("w: needs"));
    assert!(refusal(try_it(&metadata, names(&whole[1..]))).contains("w: needs"));
    let more = [&whole[..], &[("x.left", [1, 1])]].concat();
    assert!(refusal(try_it(&metadata, names(&more))).contains("x.left: belongs to no change"));
    let keyed = |shape| [&whole[..], &[("w.keys", shape)]].concat();
    let why = refusal(try_it(&metadata, names(&keyed([2, 5]))));
    assert!(why.contains("w: has keys, as no patch of 1 or 2 does"), "{why}");
    let mut third = metadata.clone();
    third.insert("format".into(), "incise patch 3".into());
    assert!(try_it(&third, names(&keyed([2, 5]))).is_ok());
    let why = refusal(try_it(&third, names(&keyed([3, 5]))));
    assert!(why.contains("w: has keys of 3 elements for a matrix that reads 2"), "{why}");
    let why = refusal(try_it(&third, names(&keyed([2, 0]))));
    assert!(why.contains("w.keys: are of no fact"), "{why}");
    let mut half = names(&whole);
    half[0].shape = vec![6];
    assert!(refusal(try_it(&metadata, half)).contains("w.left: is F32 [6]"));
}
