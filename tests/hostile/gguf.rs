//! GGUF files with bytes changed: refused, or read to the end, and no panic.

use std::fs;
use std::path::Path;

use incise::base::Quiet;
use incise::base::rng::Rng;
use incise::model::gguf::{GgufModel, import};
use incise::store::gguf::GgufHeader;

use crate::model::gguf::small;
use crate::store::toy::refusal;
use crate::support::gguf::GgufWriter;
use crate::support::session::fails;

/// One or two bytes of the header are others, or a word of it is extreme. The model is then
/// refused, or can be written.
#[test]
fn headers_with_bytes_changed() {
    let temp = tempfile::tempdir().unwrap();
    let (path, out) = (temp.path().join("x.gguf"), temp.path().join("out"));
    let good = small().bytes();
    let header = GgufHeader::parse(Path::new("x.gguf"), &good).unwrap().data;
    let mut rng = Rng::new(1, "hostile gguf");
    let (mut refused, mut written) = (0, 0);
    for round in 0..3000 {
        let mut bytes = good.clone();
        let at = (rng.bits() % (header - 8)) as usize;
        match round % 3 {
            0 => bytes[at] = rng.bits() as u8,
            1 => bytes[at] ^= 1 << (rng.bits() % 8),
            _ => {
                let extreme = [0, 1, u64::MAX, 1 << 31, 1 << 62][(rng.bits() % 5) as usize];
                bytes[at..at + 8].copy_from_slice(&extreme.to_le_bytes());
            }
        }
        fs::write(&path, &bytes).unwrap();
        match GgufModel::open(&path) {
            Err(e) => {
                let line = e.to_string();
                assert!(line.contains("x.gguf: "), "{line}");
                refused += 1;
            }
            Ok(_) if written < 20 => {
                written += 1;
                if import(&path, &out, None, &Quiet).is_ok() {
                    fs::remove_dir_all(&out).unwrap();
                }
            }
            Ok(_) => {}
        }
    }
    assert!(refused > 1000, "{refused}: the header is hardly looked at");
    assert_eq!(written, 20, "nothing is read any more");
}

/// Files that end too early; nothing is left behind.
#[test]
fn truncated_files() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let (file, out) = (at("x.gguf"), at("out"));
    let good = small().bytes();
    for n in [4, 5, 23, 24, 100, 1000, good.len() / 2, good.len() - 100] {
        fs::write(&file, &good[..n]).unwrap();
        let why = fails(1, &["import", &file, "-o", &out]);
        assert!(why.starts_with("incise: ") && why.contains("x.gguf: "), "{why}");
        assert!(why.contains("fetch or write it again"), "{why}");
    }
    fs::write(&file, "not one").unwrap();
    let why = fails(1, &["import", &file, "-o", &out]);
    assert!(why.contains("x.gguf: magic: does not begin with GGUF"), "{why}");
    let why = fails(1, &["import", &at("none.gguf"), "-o", &out]);
    assert!(why.contains("none.gguf: cannot open"), "{why}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "only the file");
}

/// A file that ends where its data would begin: an empty tensor has no bytes, and no place either.
#[test]
fn headers_without_data() {
    let mut file = GgufWriter::new();
    file.text("general.architecture", "llama").tensor("rope_freqs.weight", &[0], "F32", &[]);
    let why = refusal(GgufHeader::parse(Path::new("x.gguf"), &file.bytes()).map(drop));
    assert!(why.contains("rope_freqs.weight: a size is 0"), "{why}");
    let mut file = GgufWriter::new();
    file.text("general.architecture", "llama").tensor("a", &[1], "F32", &[0; 4]);
    let mut bytes = file.bytes();
    let data = GgufHeader::parse(Path::new("x.gguf"), &bytes).unwrap().data;
    for len in data - 31..data {
        bytes.truncate(len as usize);
        assert!(GgufHeader::parse(Path::new("x.gguf"), &bytes).is_err());
    }
}
