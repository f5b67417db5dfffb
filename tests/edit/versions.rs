//! Versions of a checkpoint as differences of bytes, read by a receiver of our own.

use std::fs;
use std::path::Path;

use incise::base::DType;
use incise::base::progress::Quiet;
use incise::edit::apply::TensorBytes;
use incise::edit::export::versions::{Encoding, publish};
use safetensors::SafeTensors;
use serde_json::{Value, json as value};

use crate::store::toy::refusal;
use crate::support::cancel::CancelAt;
use crate::support::session::{Session, done, fails, json, strs};

fn tensor(name: &str, bytes: &[u8]) -> TensorBytes {
    let (dtype, shape) = (DType::BF16, vec![bytes.len() / 2]);
    TensorBytes { name: name.into(), dtype, shape, bytes: bytes.to_vec() }
}

/// Two tensors: the first differs between the sides in so many of its 600 bytes.
fn sides(changed: usize) -> [Vec<TensorBytes>; 2] {
    let old: Vec<u8> = (0..600).map(|i| (i * 7 % 251) as u8).collect();
    let mut new = old.clone();
    (0..changed).for_each(|i| new[i * 600 / changed] ^= 0x5a);
    let same = tensor("same", &old[..20]);
    [vec![tensor("a", &old), same.clone()], vec![tensor("a", &new), same]]
}

/// What a receiver makes of its tensors by one version.
fn receive(dir: &Path, number: u64, base: u64, have: &mut [TensorBytes]) {
    let dir = dir.join(format!("weight_v{number:06}"));
    let index = fs::read(dir.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let meta = &index["metadata"];
    assert_eq!(meta["version"], value!(format!("{number:06}")));
    assert_eq!(meta["base_version"], value!(format!("{base:06}")));
    let (kind, sum) = (&meta["compression_format"], &meta["checksum_format"]);
    assert_eq!((kind, sum), (&value!("zstd"), &value!("xxh3-128")));
    let bytes = fs::read(dir.join("model-00000-of-00001.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["a"], "only what differs is in it");
    let mine = have.iter_mut().find(|t| t.name == "a").unwrap();
    let difference = zstd::decode_all(file.tensor("a").unwrap().data()).unwrap();
    if meta["delta_encoding"] == "xor" {
        mine.bytes.iter_mut().zip(&difference).for_each(|(byte, d)| *byte ^= d);
    } else {
        assert_eq!(meta["delta_encoding"], "overwrite");
        let word = |i: usize| u32::from_le_bytes(difference[4 * i..][..4].try_into().unwrap());
        let n = word(0) as usize;
        for i in 0..n {
            mine.bytes[word(1 + i) as usize] = difference[4 * (1 + n) + i];
        }
        assert_eq!(difference.len(), 4 + 5 * n);
    }
    let want = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&mine.bytes));
    assert_eq!(header.metadata().as_ref().unwrap()["a"], want);
}

#[test]
fn forward_and_back() {
    for changed in [1, 40, 600] {
        for encoding in [Encoding::Xor, Encoding::Overwrite] {
            let (temp, [old, new]) = (tempfile::tempdir().unwrap(), sides(changed));
            let dir = temp.path().join("versions");
            let first = publish(&dir, &old, &new, encoding, &Quiet).unwrap();
            let second = publish(&dir, &new, &old, Encoding::Xor, &Quiet).unwrap();
            assert_eq!((first.number, second.number), (1, 2));
            let [a] = &first.tensors[..] else { panic!("{first:?}") };
            assert_eq!((a.bytes, a.changed), (600, changed as u64));
            let mut have = old.clone();
            receive(&dir, 1, 0, &mut have);
            assert_eq!(have, new);
            receive(&dir, 2, 1, &mut have);
            assert_eq!(have, old);
        }
    }
}

#[test]
fn steps_have_an_order() {
    let (temp, [old, new]) = (tempfile::tempdir().unwrap(), sides(40));
    let dir = temp.path();
    publish(dir, &old, &new, Encoding::Xor, &Quiet).unwrap();
    let why = refusal(publish(dir, &old, &new, Encoding::Xor, &Quiet));
    assert!(why.contains("weight_v000001: a: was left with other bytes"), "{why}");
    let why = refusal(publish(dir, &new, &new, Encoding::Xor, &Quiet));
    assert!(why.contains("no byte differs"), "{why}");
    // A version of somebody else with other checksums cannot be held to ours.
    let index = dir.join("weight_v000001/model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap().replace("xxh3-128", "adler32");
    fs::write(index, text).unwrap();
    let why = refusal(publish(dir, &new, &old, Encoding::Xor, &Quiet));
    assert!(why.contains("metadata: has no checksums by xxh3-128"), "{why}");
    let stopped = publish(&dir.join("new"), &old, &new, Encoding::Xor, &CancelAt::question(1));
    assert!(matches!(stopped, Err(incise::Error::Interrupted { .. })));
    assert!(!dir.join("new").exists());
}

#[test]
fn a_session_exports_both_sides() {
    let s = Session::new("llama-tied");
    s.stats();
    done(&strs(&s.edit(&[])));
    let (patch, model, copy) = (s.at("patch.safetensors"), s.at("model"), s.at("copy"));
    done(&["apply", &model, &patch, "-o", &copy]);
    let args = |more: &[&str]| -> Vec<String> {
        let all = ["export", &patch, "--model", &model];
        all.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let told =
        json(&strs(&args(&["--delta-dir", &s.at("new"), "--before", &s.at("old"), "--json"])));
    assert_eq!((&told["written"], &told["before"]), (&value!(s.at("new")), &value!(s.at("old"))));
    let name = told["tensors"][0]["name"].as_str().unwrap();
    for (dir, whole) in [("new", &copy), ("old", &model)] {
        let bytes = fs::read(Path::new(&s.at(dir)).join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.names(), [name], "{dir}");
        let want = crate::store::toy::tensor(Path::new(whole), name);
        assert_eq!(file.tensor(name).unwrap().data(), want, "{dir}");
        assert_eq!(fs::read_dir(s.at(dir)).unwrap().count(), 1, "{dir}");
    }
    let why = fails(1, &strs(&args(&["--delta-dir", &s.at("same"), "--before", &s.at("same")])));
    assert!(why.contains("is the place of another output"), "{why}");
    let why = fails(1, &strs(&args(&["--delta-dir", &s.at("new")])));
    assert!(why.contains("is there and not empty"), "{why}");

    let why = fails(1, &strs(&args(&["--disk-delta", &patch])));
    assert!(why.contains("is a file; name a folder"), "{why}");
    let why = fails(1, &strs(&args(&["--disk-delta", &s.at("versions"), "--undo"])));
    assert!(why.contains("nothing to take back"), "{why}");
    let inside = s.at("model/inside");
    for form in ["--delta-dir", "--disk-delta", "--lora"] {
        let why = fails(1, &strs(&args(&[form, &inside])));
        assert!(why.contains("inside what the command reads"), "{form}: {why}");
    }

    let forward = args(&["--disk-delta", &s.at("versions"), "--json"]);
    assert_eq!(json(&strs(&forward))["version"], 1);
    assert!(fails(1, &strs(&forward)).contains("was left with other bytes"));
    let back = ["--disk-delta", &s.at("versions"), "--undo", "--encoding", "overwrite"];
    assert!(done(&strs(&args(&back))).contains("version 2"));
    // What belongs to another form is refused, and nothing is written.
    let of = |form: &str, more: &[&str]| {
        let out = s.at("none");
        let why = fails(2, &strs(&args(&[&[form, &out][..], more].concat())));
        assert!(why.contains("cannot be used with"), "{form} {more:?}: {why}");
        assert!(!Path::new(&out).exists(), "{form} {more:?}");
    };
    let other = s.at("other");
    for form in ["--delta-dir", "--delta", "--lora", "--lora-gguf"] {
        of(form, &["--undo"]);
        of(form, &["--encoding", "xor"]);
    }
    for form in ["--delta", "--disk-delta", "--lora", "--lora-gguf"] {
        of(form, &["--before", &other]);
    }
    for form in ["--delta", "--disk-delta", "--delta-dir", "--lora-gguf"] {
        of(form, &["--base", "name"]);
    }
    let why = fails(2, &["export", &patch, "--disk-delta", &s.at("more")]);
    assert!(why.contains("--model"), "{why}");
}
