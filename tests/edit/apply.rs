//! Patches into weights and back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::slice::from_ref;

use incise::Error;
use incise::base::progress::Quiet;
use incise::base::{DType, Progress, Stage};
use incise::edit::apply::{PatchSide, in_place, log, to_folder, to_memory, undo};
use incise::gpu::Engine;
use incise::ops::update::Stored;
use incise::store::disk::Os;
use incise::store::{Change, Checkpoint, Delta, Patch, tensor_fingerprint};
use incise::tensor::{Device, Layout};

use crate::ops::update::{low_rank, oracle};
use crate::store::journal;
use crate::store::toy::{A, B, NORM, Toy, bytes, file, metadata, refusal, tensor};
use crate::support::cancel::CancelAt;
use crate::support::twin;

const OUT: usize = 7;
const IN: usize = 5;

fn stored(dtype: DType, layout: Layout) -> Stored {
    Stored { dtype, layout, out: OUT, inner: IN }
}

/// A change of `name` for the bytes `before`.
fn change(name: &str, layout: Layout, delta: Delta, before: &[u8]) -> Change {
    Change {
        tensor: name.into(),
        module: name.trim_end_matches(".weight").into(),
        rows: None,
        out: OUT,
        inner: IN,
        fan_in_fan_out: layout == Layout::InOut,
        fingerprint: tensor_fingerprint(before),
        keys: None,
        delta,
    }
}

fn patch(changes: Vec<Change>) -> Patch {
    Patch { changes, metadata: metadata(), file: None }
}

/// A toy, two patches of A that chain and lose much to rounding, and what A is before, between and
/// after.
fn chain(dtype: DType, layout: Layout) -> (Toy, [Patch; 2], [Vec<u8>; 3]) {
    let w = stored(dtype, layout);
    let toy = Toy::new(dtype, w.sides());
    let w0 = tensor(&toy.dir, A);
    let kinds = [low_rank(OUT, IN, 2, 2e-3, 1), low_rank(OUT, IN, 1, 2e-3, 2)];
    let (w1, _) = oracle(&w0, w, &[&kinds[0]]);
    let (w2, _) = oracle(&w0, w, &[&kinds[0], &kinds[1]]);
    let [first, second] = kinds;
    let first = patch(vec![change(A, layout, first, &w0)]);
    let second = patch(vec![change(A, layout, second, &w1)]);
    (toy, [first, second], [w0, w1, w2])
}

fn cases() -> impl Iterator<Item = (DType, Layout)> {
    let types = [DType::F32, DType::F16, DType::BF16].into_iter();
    types.flat_map(|t| [Layout::OutIn, Layout::InOut].map(|l| (t, l)))
}

#[test]
fn in_place_and_undo_byte_for_byte() {
    for (dtype, layout) in cases() {
        let (toy, [first, _], [_, w1, _]) = chain(dtype, layout);
        let before = toy.bytes();
        assert!(log(&toy.dir).unwrap().is_empty());
        in_place(&toy.dir, &[first], &Device::Cpu, &Quiet).unwrap();
        assert_eq!(tensor(&toy.dir, A), w1, "{dtype:?} {layout:?}");
        assert_eq!(log(&toy.dir).unwrap().len(), 1);
        let fresh = Toy::new(dtype, stored(dtype, layout).sides());
        for name in [B, NORM] {
            assert_eq!(tensor(&toy.dir, name), tensor(&fresh.dir, name));
        }
        assert_eq!(undo(&toy.dir, None).unwrap().changes[0].tensors, [A]);
        assert_eq!(toy.bytes(), before, "{dtype:?} {layout:?}");
        assert_eq!(toy.journal(), ["lock"]);
    }
}

/// One rounding from the original weights: one after the other in place, both at once in place, and
/// both at once into a folder are the same, and not what rounding twice would give.
#[test]
fn a_second_patch_costs_no_second_rounding() {
    let mut twice_differs = 0;
    for (dtype, layout) in cases() {
        let w = stored(dtype, layout);
        let (toy, [first, second], [w0, w1, w2]) = chain(dtype, layout);
        let out = toy.beside("out");
        to_folder(&toy.dir, &[first.clone(), second.clone()], &out, &Device::Cpu, &Quiet).unwrap();
        assert_eq!(tensor(&out, A), w2, "{dtype:?} {layout:?}");
        in_place(&toy.dir, &[first.clone(), second.clone()], &Device::Cpu, &Quiet).unwrap();
        assert_eq!(tensor(&toy.dir, A), w2, "{dtype:?} {layout:?}");
        undo(&toy.dir, None).unwrap();
        assert_eq!(tensor(&toy.dir, A), w1, "{dtype:?} {layout:?}");
        in_place(&toy.dir, from_ref(&second), &Device::Cpu, &Quiet).unwrap();
        assert_eq!(tensor(&toy.dir, A), w2, "{dtype:?} {layout:?}");
        let from_edited = toy.beside("from edited");
        undo(&toy.dir, None).unwrap();
        to_folder(&toy.dir, from_ref(&second), &from_edited, &Device::Cpu, &Quiet).unwrap();
        assert_eq!(tensor(&from_edited, A), w2, "{dtype:?} {layout:?}");
        undo(&toy.dir, Some(0)).unwrap();
        assert_eq!(tensor(&toy.dir, A), w0, "{dtype:?} {layout:?}");
        let (twice, _) = oracle(&w1, w, &[&second.changes[0].delta]);
        twice_differs += usize::from(twice != w2);
    }
    assert!(twice_differs >= 4, "the case does not tell one rounding from two");
}

/// A tensor that only the second patch changes, in another file than the first.
#[test]
fn several_tensors_in_several_files() {
    let toy = Toy::sharded(DType::BF16);
    let w = stored(DType::BF16, Layout::OutIn);
    let [a0, b0] = [A, B].map(|name| tensor(&toy.dir, name));
    let kinds = [1, 2, 3].map(|seed| low_rank(OUT, IN, 1, 0.1, seed));
    let a1 = oracle(&a0, w, &[&kinds[0]]).0;
    let first = patch(vec![change(A, w.layout, kinds[0].clone(), &a0)]);
    let second = patch(vec![
        change(B, w.layout, kinds[1].clone(), &b0),
        change(A, w.layout, kinds[2].clone(), &a1),
    ]);
    let report = in_place(&toy.dir, &[first, second], &Device::Cpu, &Quiet).unwrap();
    let (a2, sums) = oracle(&a0, w, &[&kinds[0], &kinds[2]]);
    assert_eq!(tensor(&toy.dir, A), a2);
    assert_eq!(tensor(&toy.dir, B), oracle(&b0, w, &[&kinds[1]]).0);
    let names: Vec<_> = report.tensors.iter().map(|t| &t.name[..]).collect();
    assert_eq!(names, [A, B]);
    let a = &report.tensors[0];
    // Sums of 35 squares in another order, and a root.
    let close = |got: f64, want: f64| (got - want).abs() <= 35.0 * f64::EPSILON * want;
    assert!(close(a.change, sums.wanted.sqrt()), "{a:?}");
    assert!(close(a.weight, sums.weight.sqrt()), "{a:?}");
    assert!(close(a.lost, (sums.lost / sums.wanted).sqrt()), "{a:?}");
    assert!(a.lost > 1e-3 && a.lost < 1.0, "bf16 loses something: {a:?}");
}

const FIRST: &str = "model-00001-of-00002.safetensors";

/// B is in both files, with the same bytes: a change of one of them would leave a folder whose
/// copies differ.
#[test]
fn a_tensor_of_two_files_is_not_changed() {
    let toy = Toy::sharded(DType::F32);
    file(&toy.dir.join(FIRST), DType::F32, &[(A, &[7, 5]), (B, &[7, 5])], 1);
    let (before, [a0, b0]) = (toy.bytes(), [A, B].map(|name| tensor(&toy.dir, name)));
    let delta = || low_rank(OUT, IN, 1, 0.1, 1);
    let of_b = [patch(vec![change(B, Layout::OutIn, delta(), &b0)])];
    let out = toy.beside("out");
    let by = &Device::Cpu.start().unwrap()[0];
    for why in [
        refusal(in_place(&toy.dir, &of_b, &Device::Cpu, &Quiet)),
        refusal(to_folder(&toy.dir, &of_b, &out, &Device::Cpu, &Quiet)),
        refusal(to_memory(&toy.dir, &of_b, PatchSide::After, by, &Quiet)),
    ] {
        assert!(why.contains(&format!("{FIRST}: {B}: is stored in two files")), "{why}");
        assert!(why.contains("model-00002-of-00002.safetensors") && why.contains("save"), "{why}");
    }
    assert_eq!(toy.bytes(), before);
    let of_a = patch(vec![change(A, Layout::OutIn, delta(), &a0)]);
    in_place(&toy.dir, &[of_a], &Device::Cpu, &Quiet).unwrap();
}

/// What an earlier version did to such a folder.
#[test]
fn a_change_of_one_copy_can_be_undone() {
    let toy = Toy::sharded(DType::BF16);
    file(&toy.dir.join(FIRST), DType::BF16, &[(A, &[7, 5]), (B, &[7, 5])], 1);
    let before = toy.bytes();
    journal::apply(&Os, &toy, 1).unwrap(); // of A, and of B where the index lists it
    let why = refusal(Checkpoint::open(&toy.dir));
    assert!(why.contains("has other values of it") && why.contains("undo"), "{why}");
    assert_eq!(log(&toy.dir).unwrap().len(), 1);
    assert_eq!(undo(&toy.dir, None).unwrap().changes[0].tensors, [A, B]);
    assert_eq!(toy.bytes(), before);
    toy.open();
    assert!(refusal(undo(toy.temp.path(), None)).contains("config.json"), "no model");
}

/// A copy has every file, in every folder, but no journal; the model itself stays as it was.
#[test]
fn a_new_folder() {
    let (toy, [first, second], [_, w1, w2]) = chain(DType::F16, Layout::OutIn);
    fs::write(toy.dir.join("tokenizer.json"), "{}").unwrap();
    fs::create_dir(toy.dir.join("sub")).unwrap();
    fs::write(toy.dir.join("sub/.incise"), "not the journal").unwrap();
    fs::rename(toy.dir.join("model.safetensors"), toy.beside("blob")).unwrap();
    symlink(toy.beside("blob"), toy.dir.join("model.safetensors")).unwrap();
    let mut read_only = fs::metadata(toy.beside("blob")).unwrap().permissions();
    read_only.set_readonly(true);
    fs::set_permissions(toy.beside("blob"), read_only).unwrap();
    let before = toy.bytes();
    let out = toy.beside("new/out");
    to_folder(&toy.dir, &[first], &out, &Device::Cpu, &Quiet).unwrap();
    assert_eq!(toy.bytes(), before);
    assert_eq!(tensor(&out, A), w1);
    assert!(!out.join("model.safetensors").is_symlink());
    assert_eq!(fs::read(out.join("sub/.incise")).unwrap(), b"not the journal");
    assert_eq!(bytes(&out).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(fs::read_dir(toy.beside("new")).unwrap().count(), 1, "temporary folders are left");
    // The copy starts anew: the second patch fits it, in place, and is rounded from what it has.
    let delta = second.changes[0].delta.clone();
    in_place(&out, &[second], &Device::Cpu, &Quiet).unwrap();
    let again = oracle(&w1, stored(DType::F16, Layout::OutIn), &[&delta]).0;
    assert_eq!(tensor(&out, A), again);
    assert_ne!(again, w2, "the case does not tell one rounding from two");
    let journal = out.join(".incise");
    assert!(journal.exists());
    let third = toy.beside("third");
    let nothing = patch(vec![change(B, Layout::OutIn, zero(), &tensor(&out, B))]);
    to_folder(&out, &[nothing], &third, &Device::Cpu, &Quiet).unwrap();
    assert!(!third.join(".incise").exists());
}

fn zero() -> Delta {
    Delta::Dense(vec![0.0; OUT * IN])
}

/// Both ways refuse, in these words, and nothing has happened.
#[track_caller]
fn refused(toy: &Toy, patches: &[Patch], words: &str) {
    let (before, out) = (toy.bytes(), toy.beside("out"));
    for why in [
        refusal(to_folder(&toy.dir, patches, &out, &Device::Cpu, &Quiet)),
        refusal(in_place(&toy.dir, patches, &Device::Cpu, &Quiet)),
    ] {
        assert!(why.contains(words), "{why:?} does not say {words:?}");
    }
    assert_eq!(toy.bytes(), before);
    assert!(!out.exists());
    assert_eq!(fs::read_dir(toy.temp.path()).unwrap().count(), 1, "temporary folders are left");
}

#[test]
fn patches_that_do_not_fit() {
    let (toy, [first, second], [w0, ..]) = chain(DType::BF16, Layout::OutIn);
    refused(&toy, from_ref(&second), "patch 1 is for");
    refused(&toy, &[second.clone(), first.clone()], "patch 1 is for");
    refused(&toy, &[first.clone(), first.clone()], "patch 2 is for");
    let other = |spoil: &dyn Fn(&mut Change)| {
        let mut patch = first.clone();
        spoil(&mut patch.changes[0]);
        patch
    };
    refused(&toy, &[other(&|c| c.tensor = "c".into())], "c: no such tensor");
    refused(&toy, &[other(&|c| c.fan_in_fan_out = true)], "has the shape [7, 5]");
    refused(&toy, &[other(&|c| c.fingerprint = "0".into())], "patch 1 is for 0");
    let nan = Delta::Dense(vec![f32::NAN; OUT * IN]);
    refused(&toy, &[patch(vec![change(A, Layout::OutIn, nan, &w0)])], "value 0 is NaN");
    refused(&toy, &[patch(vec![])], "changes nothing");
    in_place(&toy.dir, from_ref(&first), &Device::Cpu, &Quiet).unwrap();
    refused(&toy, &[first], "patch 1 is for");
}

#[test]
fn values_the_type_cannot_hold() {
    let toy = Toy::new(DType::F16, [OUT, IN]);
    let huge = Delta::Dense(vec![1e5; OUT * IN]);
    let patch = patch(vec![change(A, Layout::OutIn, huge, &tensor(&toy.dir, A))]);
    refused(&toy, &[patch], "35 values do not fit F16");
    assert_eq!(toy.journal(), ["lock"]);
}

#[test]
fn folders_that_cannot_be_made() {
    let (toy, [first, _], _) = chain(DType::F32, Layout::OutIn);
    let before = toy.bytes();
    let to = |out: &Path| refusal(to_folder(&toy.dir, from_ref(&first), out, &Device::Cpu, &Quiet));
    assert!(to(&toy.dir).contains("is there and not empty"));
    assert!(to(&toy.dir.join("model.safetensors")).contains("is there and not empty"));
    let inside = to(&toy.dir.join("copy"));
    assert!(inside.contains("cannot be inside it"), "{inside}");
    assert_eq!(toy.bytes(), before);
    assert_eq!(fs::read_dir(&toy.dir).unwrap().count(), 2);
    let empty = toy.beside("empty");
    fs::create_dir(&empty).unwrap();
    to_folder(&toy.dir, from_ref(&first), &empty, &Device::Cpu, &Quiet).unwrap();
}

/// A folder that was begun goes away again, wherever it is cancelled.
#[test]
fn cancellation_while_a_folder_is_made() {
    for n in 1.. {
        let (toy, [first, _], [_, w1, _]) = chain(DType::BF16, Layout::InOut);
        let out = toy.beside("out");
        match to_folder(&toy.dir, from_ref(&first), &out, &Device::Cpu, &CancelAt::question(n)) {
            Ok(_) => {
                assert!(n > 4, "{n}: never asked");
                assert_eq!(tensor(&out, A), w1);
                return;
            }
            Err(Error::Interrupted { .. }) => {
                assert!(!out.exists());
                let left = fs::read_dir(toy.temp.path()).unwrap().count();
                assert_eq!(left, 1, "temporary folders are left");
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn cancellation() {
    for n in 1.. {
        let (toy, [first, second], [w0, w1, _]) = chain(DType::BF16, Layout::InOut);
        let done = in_place(&toy.dir, &[first, second], &Device::Cpu, &CancelAt::question(n));
        let whole = [&w0, &w1][log(&toy.dir).unwrap().len().min(1)];
        match done {
            Ok(_) => {
                assert!(n > 4, "{n}: never asked");
                return;
            }
            Err(Error::Interrupted { .. }) => assert_eq!(tensor(&toy.dir, A), *whole, "{n}"),
            Err(e) => panic!("{e}"),
        }
    }
}

/// Takes all room away once a piece is written.
struct Closes(Engine);

impl Progress for Closes {
    fn at(&self, stage: Stage, done: u64, _: u64) {
        if stage == Stage::WriteWeights && done > 0 {
            self.0.cap(0);
        }
    }
    fn warn(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// A device that fails between two pieces leaves the weights as they were, and says so.
#[test]
fn a_device_that_fails_changes_nothing() {
    let test = "edit::apply::a_device_that_fails_changes_nothing";
    let Some(engine) = twin::fastest(test) else { return };
    let toy = Toy::new(DType::F32, [OUT, IN]);
    let of = |name| {
        let delta = low_rank(OUT, IN, 2, 0.1, 1);
        change(name, Layout::OutIn, delta, &tensor(&toy.dir, name))
    };
    let patch = patch(vec![of(A), of(B)]);
    let before = bytes(&toy.dir);
    let device = Device::from(engine.clone());
    let closes = Closes(engine);
    let failed = in_place(&toy.dir, from_ref(&patch), &device, &closes);
    assert!(matches!(failed, Err(Error::DeviceMemory { .. })), "{failed:?}");
    assert_eq!(bytes(&toy.dir), before);
    assert_eq!(log(&toy.dir).unwrap(), []);
    let out = toy.beside("out");
    let failed = to_folder(&toy.dir, from_ref(&patch), &out, &device, &closes);
    assert!(matches!(failed, Err(Error::DeviceMemory { .. })) && !out.exists(), "{failed:?}");
}
