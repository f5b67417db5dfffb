//! What a fingerprint sees, and what it does not.

use std::fs;
use std::os::unix::fs::FileExt;

use incise::base::DType;
use incise::store::{Fingerprint, model_fingerprint, tensor_fingerprint};

use super::toy::{A, B, NORM, Toy, file};

fn of(toy: &Toy) -> String {
    model_fingerprint(&toy.open(), &|name| name == A).unwrap()
}

/// Turns over a byte of a tensor.
fn touch(toy: &Toy, name: &str, at: u64) {
    let checkpoint = toy.open();
    let (shard, entry) = checkpoint.entry(name).unwrap();
    let file = fs::File::options().read(true).write(true).open(shard.path()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, entry.range.start + at).unwrap();
    file.write_all_at(&[!byte[0]], entry.range.start + at).unwrap();
}

fn configured(toy: &Toy, config: &str) -> String {
    fs::write(toy.dir.join("config.json"), config).unwrap();
    of(toy)
}

#[test]
fn an_edit_keeps_it_and_another_change_does_not() {
    let toy = Toy::new(DType::F16, [7, 5]);
    let before = of(&toy);
    assert_eq!(before.len(), 32);
    touch(&toy, A, 3);
    assert_eq!(of(&toy), before, "A is editable");
    touch(&toy, B, 3);
    assert_ne!(of(&toy), before);
    touch(&toy, B, 3);
    assert_eq!(of(&toy), before);
    touch(&toy, NORM, 13);
    assert_ne!(of(&toy), before);
}

#[test]
fn shards_do_not_matter_but_shapes_types_and_names_do() {
    let toy = Toy::new(DType::F16, [7, 5]);
    assert_eq!(of(&toy), of(&Toy::sharded(DType::F16)));
    assert_ne!(of(&toy), of(&Toy::new(DType::F16, [5, 7])));
    assert_ne!(of(&toy), of(&Toy::new(DType::BF16, [7, 5])));
    let path = toy.dir.join("model.safetensors");
    file(&path, DType::F16, &[("a.weigh", &[7, 5]), (B, &[7, 5]), (NORM, &[7])], 1);
    assert_ne!(of(&toy), of(&Toy::new(DType::F16, [7, 5])));
}

/// Only the beginning, the middle and the end of a large tensor are read.
#[test]
fn samples() {
    let toy = Toy::new(DType::F32, [7, 5]);
    file(&toy.dir.join("model.safetensors"), DType::F32, &[(A, &[1]), (B, &[250, 250])], 1);
    let before = of(&toy);
    let n = 250 * 250 * 4;
    let third = (64 << 10) / 3;
    let seen = [0, third - 1, (n - third) / 2, (n - third) / 2 + third - 1, n - third, n - 1];
    let unseen = [third, (n - third) / 2 - 1, (n - third) / 2 + third, n - third - 1];
    for (at, is_seen) in seen.map(|at| (at, true)).into_iter().chain(unseen.map(|at| (at, false))) {
        touch(&toy, B, at);
        assert_eq!(of(&toy) != before, is_seen, "byte {at}");
        touch(&toy, B, at);
    }
}

#[test]
fn configuration() {
    let toy = Toy::new(DType::F32, [7, 5]);
    let before = configured(&toy, r#"{"a": 1, "b": {"x": [1, 2], "y": null}, "eps": 1e-5}"#);
    let same = r#"{ "eps":1e-5, "b":{"y":null,"x":[1,2]}, "transformers_version":"4", "a":1,
                   "_name_or_path":"there" }"#;
    assert_eq!(configured(&toy, same), before);
    for other in [
        r#"{"a": 1, "b": {"x": [2, 1], "y": null}, "eps": 1e-5}"#,
        r#"{"a": 1, "b": {"x": [1, 2]}, "eps": 1e-5}"#,
        r#"{"a": 1, "b": {"x": [1, 2], "y": null}, "eps": 1e-6}"#,
        r#"{"a": 1, "b": {"x": [1], "y": null}, "eps": 1e-5}"#,
    ] {
        assert_ne!(configured(&toy, other), before, "{other}");
    }
}

#[test]
fn pieces_do_not_matter() {
    let mut pieces = Fingerprint::default();
    [&b"ab"[..], b"", b"cde"].iter().for_each(|p| pieces.add(p));
    assert_eq!(pieces.hex(), tensor_fingerprint(b"abcde"));
    assert_ne!(pieces.hex(), tensor_fingerprint(b"abcdf"));
}
