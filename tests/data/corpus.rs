use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use incise::data::Corpus;

use crate::support::shared::shared;

fn files(texts: &[(&str, &[u8])]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let write = |&(name, text): &(&str, &[u8])| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let paths = texts.iter().map(write).collect();
    (dir, paths)
}

fn documents(paths: &[PathBuf]) -> Vec<String> {
    Corpus::open(paths).unwrap().documents().map(Result::unwrap).collect()
}

#[test]
fn a_line_that_is_not_blank_is_a_document() {
    let (_dir, paths) = files(&[
        ("a.txt", "\u{feff}one\r\n\r\n  two \n \t\nthree".as_bytes()),
        ("empty.txt", b""),
        ("b.txt", "四\n\n".as_bytes()),
    ]);
    assert_eq!(documents(&paths), ["one", "  two ", "three", "四"]);
    let back = [paths[2].clone(), paths[0].clone()];
    assert_eq!(documents(&back)[..2], ["四", "one"]);
}

#[test]
fn json_lines_hold_their_document_in_text() {
    let text = "{\"text\": \"one\\ntwo\", \"id\": 1}\n\n{\"text\": \" \"}\n{\"text\": \"three\"}\n";
    let (_dir, paths) = files(&[("a.jsonl", text.as_bytes())]);
    assert_eq!(documents(&paths), ["one\ntwo", "three"]);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Read as prose, each of these would give statistics of braces or of nothing, without a word.
#[test]
fn a_file_is_what_its_content_says() {
    let lines = "\n{\"text\": \"one\"}\n{\"text\": \"two\", \"id\": 2}\n".as_bytes();
    let array = "\u{feff}[\n  {\"text\": \"one\"},\n  \"two\"\n]\n".as_bytes();
    let flat = br#"[{"text": "one"}, {"text": "two"}]"#;
    let (first, second) = (gzip(b"one\n"), gzip(b"two\n"));
    for (name, bytes) in [
        ("a.txt", lines.to_vec()),
        ("a", lines.to_vec()),
        ("a.json", lines.to_vec()),
        ("a.json", array.to_vec()),
        ("a.txt", array.to_vec()),
        ("a.txt", b"\n [ \n\n  \"one\",\n  \"two\"\n]".to_vec()),
        ("a", gzip(array)),
        ("a.txt", flat.to_vec()),
        ("a.JSON.gz", gzip(array)),
        ("a.jsonl.gz", gzip(lines)),
        ("a.jsonl", gzip(lines)),
        ("a.txt.gz", gzip(b"one\r\n\ntwo")),
        ("a.txt", [first, second].concat()),
    ] {
        let (_dir, paths) = files(&[(name, &bytes)]);
        assert_eq!(documents(&paths), ["one", "two"], "{name}");
    }
    for prose in
        ["[1] a note\n[{ not JSON", "{ braces } in prose\n", "[\na note\n", "{\n{\n", "\"text\"\n"]
    {
        let (_dir, paths) = files(&[("a.txt", prose.as_bytes())]);
        assert_eq!(documents(&paths), prose.lines().collect::<Vec<_>>());
    }
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n";

#[test]
fn what_is_no_text_is_refused_by_name() {
    let cut = &gzip(&b"some text, and more of it\n".repeat(50))[..40];
    for (name, bytes, words) in [
        ("a.txt", &b"\x28\xb5\x2f\xfd...."[..], "a.txt: corpus: is compressed with zstd"),
        ("a.jsonl.xz", b"\xfd7zXZ\0....", "is compressed with xz"),
        ("a.parquet", b"PAR1....", "is a Parquet table"),
        ("a.zip", b"PK\x03\x04....", "is a zip archive"),
        ("a.txt", &gzip(b"name\0\0\0\0ustar"), "has zero bytes"),
        ("a.txt", b"t\0e\0x\0t\0", "has zero bytes"),
        ("a.txt.gz", cut, "cannot be read to its end"),
        ("a.json", b"{\n\"text\": \"one\"\n}\n", "is neither a JSON array nor JSON Lines"),
        ("a.json", b"prose\n", "is not JSON"),
        ("a.txt", b"{\n  \"text\": \"one\"\n}\n", "is neither a JSON array nor JSON Lines"),
        ("a.txt", b"{\n\"text\": \"one\"\n}\n{\n\"text\": \"two\"\n}\n", "is not JSON"),
        ("a.txt", b"[\n[\n\"one\"\n]\n]", "item 1: has no string \"text\""),
        ("a.txt", b"[\n{\n", "is not JSON"),
        ("a.txt", POINTER, "a.txt: file: is a Git LFS pointer"),
        ("a.jsonl.gz", POINTER, "git lfs pull"),
        ("a.json", b"[{\"text\": 1}]", "item 1: has no string \"text\""),
        ("a.txt", b"{\"body\": \"one\"}\n", "line 1: has no string \"text\""),
    ] {
        let (_dir, paths) = files(&[(name, bytes)]);
        let opened = Corpus::open(&paths);
        let error = opened.and_then(|c| c.documents().collect::<Result<Vec<_>, _>>()).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

#[test]
fn errors_name_file_and_line_and_end_the_reading() {
    for (name, text, words) in [
        ("a.txt", &b"one\n\ntw\xff\nthree\n"[..], "a.txt: line 3: is not UTF-8 from byte 2 on"),
        ("b.txt", b"\none\n\n\xff\n", "b.txt: line 4: is not UTF-8 from byte 0 on"),
        ("a.jsonl", b"{\"text\": \"one\"}\n{\"txt\": \"two\"}\n", "line 2: has no string \"text\""),
        ("b.jsonl", b"{\"text\": \"one\"}\ntwo\n", "line 2: is not JSON"),
    ] {
        let (_dir, paths) = files(&[(name, text)]);
        let results: Vec<_> = Corpus::open(&paths).unwrap().documents().collect();
        assert_eq!(results.len(), 2, "{name}");
        assert_eq!(results[0].as_ref().unwrap(), "one");
        let error = results[1].as_ref().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let says = |files: &[PathBuf], words: &str| {
        let error = Corpus::open(files).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    says(&[], "no file");
    says(&["/no/such/file".into()], "/no/such/file: cannot read");
    says(&[std::env::temp_dir()], "is a folder");
}

#[test]
fn the_hash_is_that_of_the_joined_lines() {
    let hash = |texts: &[(&str, &[u8])]| {
        let (_dir, paths) = files(texts);
        Corpus::open(&paths).unwrap().hash().unwrap()
    };
    let whole = hash(&[("a", b"one\ntwo\n")]);
    assert_eq!(whole, blake3::hash(b"one\ntwo\n").to_hex().to_string());
    assert_eq!(whole, hash(&[("a", b"one\n"), ("b", b"two\n")]));
    assert_eq!(whole, hash(&[("a", b"one"), ("empty", b""), ("b", b"two\n")]));
    assert_ne!(whole, hash(&[("a", b"onetwo\n")]));
    assert_ne!(whole, hash(&[("a", b"two\n"), ("b", b"one\n")]));
}

#[test]
fn real_text_is_read_whole() {
    for (name, lines) in [("factlm-gpt2/text.txt", 6900), ("wikipedia/shard_0001.txt", 9115)] {
        let Some(path) = shared("real_text_is_read_whole", name) else { continue };
        let corpus = Corpus::open(&[&path]).unwrap();
        assert_eq!(corpus.documents().map(Result::unwrap).count(), lines, "{name}");
        let whole = blake3::hash(&fs::read(path).unwrap()).to_hex().to_string();
        assert_eq!(corpus.hash().unwrap(), whole);
    }
}
