//! Opening model folders, and refusing what is none.

use std::fs;
use std::path::Path;

use incise::base::DType;
use incise::store::Checkpoint;
use serde_json::{Value, json};

use super::toy::{A, B, NORM, Toy, file, refusal};

#[test]
fn one_file_and_many_hold_the_same() {
    let (one, many) = (Toy::new(DType::BF16, [7, 5]), Toy::sharded(DType::BF16));
    let (one, many) = (one.open(), many.open());
    assert_eq!(one.names().collect::<Vec<_>>(), [A, B, NORM]);
    assert_eq!(many.names().collect::<Vec<_>>(), [A, B, NORM]);
    for name in [A, B, NORM] {
        let [x, y] = [&one, &many].map(|c| c.tensor(name).unwrap().unwrap());
        assert_eq!((x.dtype, &x.shape, &x.bytes[..]), (y.dtype, &y.shape, &y.bytes[..]));
    }
    assert_eq!(one.config()["n_layer"], 2);
    assert!(one.tensor("c.weight").unwrap().is_none());
}

/// The bytes outlive the checkpoint.
#[test]
fn bytes_stay_mapped() {
    let toy = Toy::new(DType::F32, [7, 5]);
    let bytes = toy.open().tensor(A).unwrap().unwrap().bytes.clone();
    fs::remove_file(toy.dir.join("model.safetensors")).unwrap();
    assert_eq!(bytes.len(), 7 * 5 * 4);
}

#[test]
fn a_buffer_of_another_type() {
    let toy = Toy::new(DType::F32, [7, 5]);
    let header = r#"{"mask":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    fs::write(toy.dir.join("model.safetensors"), bytes).unwrap();
    let why = refusal(toy.open().tensor("mask"));
    assert!(why.contains("mask: elements of type I64"), "{why}");
}

#[test]
fn a_shard_is_missing() {
    let toy = Toy::sharded(DType::F32);
    fs::remove_file(toy.dir.join("model-00002-of-00002.safetensors")).unwrap();
    let why = refusal(Checkpoint::open(&toy.dir));
    assert!(why.contains("model-00002-of-00002.safetensors") && why.contains(B), "{why}");
}

#[test]
fn a_shard_lacks_a_tensor() {
    let toy = Toy::sharded(DType::F32);
    file(&toy.dir.join("model-00001-of-00002.safetensors"), DType::F32, &[("z", &[1])], 1);
    let why = refusal(Checkpoint::open(&toy.dir));
    assert!(why.contains("model-00001-of-00002.safetensors: a.weight"), "{why}");
}

#[test]
fn an_index_that_points_outside() {
    for (file, where_it_is) in [
        ("../a.safetensors", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("..", "outside the folder"),
        ("x/../../y.safetensors", "outside the folder"),
        ("", "outside the folder"),
        ("x/y.safetensors", "in a sub-folder"),
        ("x/z/y.safetensors", "in a sub-folder"),
    ] {
        let toy = Toy::sharded(DType::F32);
        let index = json!({"weight_map": {A: file}});
        fs::write(toy.dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
        let why = refusal(Checkpoint::open(&toy.dir));
        assert!(why.contains("index.json: a.weight") && why.contains(where_it_is), "{file}: {why}");
        assert_eq!(why.contains("move the file"), where_it_is == "in a sub-folder");
    }
}

const FIRST: &str = "model-00001-of-00002.safetensors";

/// A tensor that the index lists in the second file is in the first too.
#[test]
fn two_files_hold_a_tensor() {
    let opened = |b: &[usize], dtype, seed| {
        let toy = Toy::sharded(DType::F32);
        // The second file's values of B are drawn with the seed 1.
        file(&toy.dir.join(FIRST), dtype, &[(A, &[7, 5]), (B, b)], seed);
        Checkpoint::open(&toy.dir).map(|checkpoint| checkpoint.tensor(B).unwrap().unwrap().shape)
    };
    assert_eq!(opened(&[7, 5], DType::F32, 1).unwrap(), [7, 5], "the same bytes twice");
    for (shape, dtype, seed) in
        [(&[7, 5][..], DType::F32, 2), (&[5, 7], DType::F32, 1), (&[7, 5], DType::BF16, 1)]
    {
        let why = refusal(opened(shape, dtype, seed));
        assert!(why.contains(&format!("{FIRST}: {B}: ")), "{why}");
        assert!(why.contains("model-00002-of-00002.safetensors"), "{why}");
    }
}

/// Files that the index does not list are not read, nor is an index beside the whole file.
#[test]
fn what_the_index_does_not_list() {
    let toy = Toy::sharded(DType::F32);
    fs::write(toy.dir.join("model-00003-of-00003.safetensors"), "nothing").unwrap();
    assert_eq!(toy.open().names().collect::<Vec<_>>(), [A, B, NORM]);
    file(&toy.dir.join("model.safetensors"), DType::F32, &[(A, &[2, 3])], 1);
    assert_eq!(toy.open().names().collect::<Vec<_>>(), [A]);
    assert_eq!(toy.open().tensor(A).unwrap().unwrap().shape, [2, 3]);
    // What is written would be one of two forms of the weights.
    let why = refusal(toy.open().check_single(A));
    assert!(why.contains("index.json: ") && why.contains("model.safetensors, which is"), "{why}");
    fs::remove_file(toy.dir.join("model.safetensors.index.json")).unwrap();
    toy.open().check_single(A).unwrap();
}

#[test]
fn a_tensor_that_the_index_does_not_list_has_a_file() {
    let toy = Toy::sharded(DType::F32);
    let path = toy.dir.join("model.safetensors.index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let map = index["weight_map"].as_object_mut().unwrap();
    let file = map.remove(NORM).unwrap();
    assert!(map.values().any(|other| *other == file), "the file is still read");
    fs::write(&path, index.to_string()).unwrap();
    let checkpoint = toy.open();
    assert!(checkpoint.tensor(NORM).unwrap().is_none());
    assert!(checkpoint.unlisted(NORM).unwrap().ends_with(file.as_str().unwrap()));
    assert_eq!(checkpoint.unlisted(A), None);
}

/// What stands in a folder that was cloned without its large files.
#[test]
fn pointers_to_large_files_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n";
    for name in [FIRST, "model.safetensors.index.json", "config.json", "model.safetensors"] {
        let toy = Toy::sharded(DType::F32);
        fs::write(toy.dir.join(name), pointer).unwrap();
        let why = refusal(Checkpoint::open(&toy.dir));
        assert!(why.contains(name) && why.contains("git lfs pull"), "{why}");
    }
}

#[test]
fn an_index_that_is_none() {
    for (text, want) in [
        ("{}", "weight_map: is no object"),
        (r#"{"weight_map": {"a": 1}}"#, "a: its file is no string"),
        ("{", "JSON: "),
    ] {
        let toy = Toy::sharded(DType::F32);
        fs::write(toy.dir.join("model.safetensors.index.json"), text).unwrap();
        let why = refusal(Checkpoint::open(&toy.dir));
        assert!(why.contains(want), "{why}");
    }
}

#[test]
fn the_file_changed_since_it_was_opened() {
    let toy = Toy::new(DType::F32, [7, 5]);
    let checkpoint = toy.open();
    checkpoint.unchanged().unwrap();
    let path = toy.dir.join("model.safetensors");
    let late = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
    fs::File::options().append(true).open(&path).unwrap().set_modified(late).unwrap();
    assert!(refusal(checkpoint.unchanged()).contains("changed since it was opened"));
}

/// A folder with these files is refused in these words.
#[track_caller]
fn refused(files: &[(&str, &str)], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let why = refusal(Checkpoint::open(dir.path()));
    for word in words {
        assert!(why.contains(word), "{why:?} does not say {word:?}");
    }
}

#[test]
fn other_formats() {
    let config = ("config.json", "{}");
    refused(&[config, ("pytorch_model.bin", "")], &["pytorch_model.bin", "save_pretrained"]);
    refused(&[config, ("pytorch_model.bin.index.json", "{}")], &["save_pretrained"]);
    refused(&[("x.gguf", "")], &["x.gguf", "import it into a folder first"]);
    refused(&[config], &["neither model.safetensors nor"]);
    refused(&[("model.safetensors", "")], &["config.json"]);
    refused(&[("config.json", "[]")], &["config.json: JSON: is no object"]);
    let quantized =
        |method| format!(r#"{{"quantization_config": {{"quant_method": "{method}"}}}}"#);
    refused(&[("config.json", &quantized("fp8"))], &["(fp8)", "dequantize=True"]);
    refused(&[("config.json", &quantized("gptq"))], &["(gptq)", "quantized from"]);
    refused(&[("config.json", &quantized("awq"))], &["(awq)", "quantized from"]);
}

#[test]
fn no_folder() {
    let why = refusal(Checkpoint::open(Path::new("no-such-owner/no-such-model")));
    let command = "hf download no-such-owner/no-such-model --local-dir no-such-model";
    assert!(why.contains(command), "{why}");
    let why = refusal(Checkpoint::open(Path::new("/no/such/folder")));
    assert!(why.contains("no such folder") && !why.contains("hf download"), "{why}");
    let toy = Toy::new(DType::F32, [7, 5]);
    let why = refusal(Checkpoint::open(&toy.dir.join("model.safetensors")));
    assert!(why.contains("is a file"), "{why}");
    let gguf = toy.beside("y.gguf");
    fs::write(&gguf, "").unwrap();
    assert!(refusal(Checkpoint::open(&gguf)).contains("import it into a folder first"));
}
