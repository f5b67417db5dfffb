//! Headers of GGUF files: what a good one says, and a test for each broken one.

use std::path::Path;

use incise::store::gguf::{GgufFile, GgufHeader, MetadataValue};
use proptest::prelude::*;

use crate::support::gguf::{GgufWriter, text};

fn parse(bytes: &[u8]) -> Result<GgufHeader, String> {
    GgufHeader::parse(Path::new("x.gguf"), bytes).map_err(|e| e.to_string())
}

/// The header is refused with words that say why.
#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let message = parse(bytes).unwrap_err();
    assert!(message.starts_with("x.gguf: "), "{message}");
    assert!(message.contains(why), "{message:?} does not say {why:?}");
}

/// One pair and two tensors.
fn good() -> GgufWriter {
    let mut file = GgufWriter::new();
    file.text("general.architecture", "toy");
    file.tensor("a", &[2, 32], "Q4_0", &[1; 36]).tensor("b", &[3], "F32", &[2; 12]);
    file
}

#[test]
fn a_good_one() {
    for version in [2, 3] {
        let mut file = good();
        file.version = version;
        let header = parse(&file.bytes()).unwrap();
        assert_eq!((header.version, header.alignment), (version, 32));
        let [a, b] = &header.tensors[..] else { panic!() };
        assert_eq!((&*a.name, &a.shape[..], a.kind.name), ("a", &[2, 32][..], "Q4_0"));
        assert_eq!(a.range, header.data..header.data + 36);
        assert_eq!((&b.shape[..], b.kind.name), (&[3][..], "F32"));
        assert_eq!(b.range, header.data + 64..header.data + 76);
        let bytes = file.bytes();
        assert!(parse(&bytes[..bytes.len() - 20]).is_ok(), "without the last zeros");
    }
    let empty = GgufWriter::new().bytes();
    assert!(parse(&empty).unwrap().tensors.is_empty());
}

#[test]
fn values_of_every_type() {
    use MetadataValue::*;
    let mut file = GgufWriter::new();
    let numbers: [(u32, &[u8], MetadataValue, MetadataValue); 10] = [
        (0, &[255], Unsigned(255), Unsigneds(vec![255])),
        (1, &[255], Signed(-1), Signeds(vec![-1])),
        (2, &[1, 255], Unsigned(65281), Unsigneds(vec![65281])),
        (3, &[1, 255], Signed(-255), Signeds(vec![-255])),
        (4, &[0, 0, 0, 128], Unsigned(1 << 31), Unsigneds(vec![1 << 31])),
        (5, &[0, 0, 0, 128], Signed(-(1 << 31)), Signeds(vec![-(1 << 31)])),
        (6, &1.5f32.to_le_bytes(), Float(1.5), Floats(vec![1.5])),
        (10, &[255; 8], Unsigned(u64::MAX), Unsigneds(vec![u64::MAX])),
        (11, &[255; 8], Signed(-1), Signeds(vec![-1])),
        (12, &0.1f64.to_le_bytes(), Double(0.1), Doubles(vec![0.1])),
    ];
    for (id, bytes, ..) in &numbers {
        file.pair(&format!("one {id}"), *id, bytes);
        file.array(&format!("all {id}"), *id, 1, bytes);
    }
    file.bool("on", true).array("bools", 7, 2, &[0, 1]);
    file.text("text", "é").texts("texts", &["", "b"]);
    let metadata = parse(&file.bytes()).unwrap().metadata;
    for (id, _, one, all) in numbers {
        assert_eq!(metadata[&format!("one {id}")], one);
        assert_eq!(metadata[&format!("all {id}")], all);
    }
    assert_eq!(metadata["on"], Bool(true));
    assert_eq!(metadata["bools"], Bools(vec![false, true]));
    assert_eq!(metadata["text"], Text("é".into()));
    assert_eq!(metadata["texts"], Texts(vec!["".into(), "b".into()]));
}

#[test]
fn rows_of_a_mapped_file() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    let mut file = GgufWriter::new();
    let values: Vec<f32> = (0..6).map(|x| x as f32).collect();
    file.tensor("a", &[3, 2], "F32", bytemuck::cast_slice(&values));
    file.tensor("b", &[1, 32], "IQ4_NL", &[0; 18]);
    std::fs::write(&path, file.bytes()).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let mut rows = [0.0; 4];
    file.rows(file.header().tensor("a").unwrap(), 1, &mut rows).unwrap();
    assert_eq!(rows, [2.0, 3.0, 4.0, 5.0]);
    let why = file.rows(file.header().tensor("b").unwrap(), 0, &mut [0.0; 32]).unwrap_err();
    let why = why.to_string();
    assert!(why.contains("x.gguf: b: elements of type IQ4_NL; use a file with types"), "{why}");
}

#[test]
fn no_such_file() {
    refused(b"", "magic: 4 bytes are wanted and 0 are left");
    refused(b"GGML\x03\0\0\0", "magic: does not begin with GGUF");
    refused(b"GGUF\x03\0\0\0\x01", "tensor count: 8 bytes are wanted and 1 are left");
}

#[test]
fn versions() {
    let mut file = good();
    for (version, why) in [
        (0, "version: 0 is not known"),
        (1, "version: 1 is no longer read"),
        (4, "version: 4 is not known"),
        (3 << 24, "version: the file is big-endian"),
    ] {
        file.version = version;
        refused(&file.bytes(), why);
    }
}

/// Every beginning of a good file.
#[test]
fn cut_anywhere() {
    let bytes = good().bytes();
    let whole = bytes.len() - 20; // the zeros after the last tensor
    for n in 0..whole {
        assert!(parse(&bytes[..n]).is_err(), "{n} of {whole} bytes");
    }
}

#[test]
fn counts_beyond_the_file() {
    let bytes = good().bytes();
    for at in [8, 16] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        refused(&bytes, " bytes are wanted and ");
    }
    let mut file = GgufWriter::new();
    file.array("k", 8, usize::MAX, b"");
    refused(&file.bytes(), "k: 8 bytes are wanted");
    let mut file = GgufWriter::new();
    file.array("k", 12, usize::MAX, b"");
    refused(&file.bytes(), "k: 18446744073709551615 bytes are wanted");
}

#[test]
fn texts() {
    let mut file = GgufWriter::new();
    file.pair("k", 8, &u64::MAX.to_le_bytes());
    refused(&file.bytes(), "k: 18446744073709551615 bytes are wanted");
    let mut file = GgufWriter::new();
    file.pair("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 255]);
    refused(&file.bytes(), "k: text is not UTF-8");
}

#[test]
fn types_of_values() {
    let mut file = GgufWriter::new();
    refused(&file.pair("k", 13, &[]).bytes(), "k: a value of type 13, which is not known");
    let mut file = GgufWriter::new();
    refused(&file.array("k", 13, 1, &[0]).bytes(), "k: an array of type 13, which is not known");
    let mut file = GgufWriter::new();
    refused(&file.array("k", 9, 1, &[0; 12]).bytes(), "k: is an array of arrays");
    let mut file = GgufWriter::new();
    refused(&file.pair("k", 7, &[2]).bytes(), "k: 2 is neither on (1) nor off (0)");
    let mut file = GgufWriter::new();
    refused(&file.array("k", 7, 1, &[2]).bytes(), "k: holds what is neither");
}

#[test]
fn named_twice() {
    refused(
        &good().text("general.architecture", "b").bytes(),
        "general.architecture: occurs twice",
    );
    refused(&good().tensor("a", &[1], "F32", &[0; 4]).bytes(), "a: occurs twice");
}

#[test]
fn alignments() {
    for wrong in [0, 3, 31] {
        refused(&good().u32("general.alignment", wrong).bytes(), "alignment: is no power of two");
    }
    refused(&good().text("general.alignment", "32").bytes(), "alignment: is no power of two");
    let mut huge = good();
    huge.pair("general.alignment", 10, &(1u64 << 63).to_le_bytes());
    refused(&huge.bytes(), "data: begins at byte 9223372036854775808, and the file has 288");
    let mut wide = good();
    wide.alignment = 256;
    let header = parse(&wide.u32("general.alignment", 256).bytes()).unwrap();
    assert_eq!((header.data % 256, header.tensors[1].range.start % 256), (0, 0));
}

#[test]
fn shapes() {
    let tensor = |shape: &[u64], id| {
        let mut file = GgufWriter::new();
        file.tensor_of("a", shape, id, &[]).bytes()
    };
    refused(&tensor(&[1; 5], 0), "a: 5 dimensions are over 4");
    refused(&tensor(&[1], 99), "a: type 99 is not known");
    refused(&tensor(&[1 << 63], 0), "a: a size overflows");
    refused(&tensor(&[1 << 40, 1 << 40], 0), "is no whole blocks of 1");
    refused(&tensor(&[4, 33], 2), "a: Q4_0 of the shape [4, 33] is no whole blocks of 32");
    refused(&tensor(&[1 << 30], 0), "a: F32 of the shape [1073741824] takes 4294967296 bytes, 0");
    refused(&tensor(&[0, 32], 2), "a: a size is 0");
}

#[test]
fn places() {
    let bytes = good().bytes_with(|i, begin| begin + 32 * i as u64);
    refused(&bytes, "b: begins at 96 and not at 64");
    refused(&good().bytes_with(|_, _| 0), "b: begins at 0 and not at 64");
    refused(&good().bytes_with(|_, _| u64::MAX), "a: begins at 18446744073709551615");
    let longer = [good().bytes(), vec![0; 7]].concat();
    refused(&longer, "b: 7 bytes after it belong to no tensor");
}

/// What every header that is read promises about the file it heads.
fn holds(header: &GgufHeader, file: &[u8]) {
    let mut at = header.data;
    for tensor in &header.tensors {
        let size = tensor.kind.size(&tensor.shape).unwrap() as u64;
        assert!(tensor.range.start >= at && tensor.range.end <= file.len() as u64);
        assert_eq!(tensor.range.end - tensor.range.start, size);
        assert_eq!((tensor.range.start - header.data) % header.alignment, 0);
        at = tensor.range.end;
    }
}

/// Every byte of a good file becomes every other byte: an error, or a header that holds.
#[test]
fn every_byte_changed() {
    let mut file = good();
    file.bool("on", true).floats("floats", &[1.0]).u32("general.alignment", 32);
    let good = file.bytes();
    let len = parse(&good).unwrap().data as usize;
    let mut refused = 0;
    for at in 0..len {
        for to in 0..=255 {
            let mut bytes = good.clone();
            bytes[at] = to;
            match parse(&bytes) {
                Ok(header) => holds(&header, &bytes),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 255 * len / 2, "{refused}: the header is hardly looked at");
}

proptest! {
    /// Nothing panics, whatever the bytes.
    #[test]
    fn garbage(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&[&b"GGUF\x03\0\0\0"[..], &bytes].concat());
    }

    /// Nor where counts are small and the rest is pieces of a header.
    #[test]
    fn garbled(
        pieces in prop::collection::vec(piece(), 0..16),
        tensors in 0u64..3,
        pairs in 0u64..3,
    ) {
        let counts = [tensors.to_le_bytes(), pairs.to_le_bytes()].concat();
        let bytes = [&b"GGUF\x03\0\0\0"[..], &counts, &pieces.concat()].concat();
        if let Ok(header) = parse(&bytes) {
            holds(&header, &bytes);
        }
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let numbers = [0u32, 1, 2, 4, 8, 9, 32].map(|n| n.to_le_bytes().to_vec());
    let longs = [0u64, 1, 2, 32, u64::MAX].map(|n| n.to_le_bytes().to_vec());
    let texts = ["", "a", "general.alignment"].map(text);
    prop::sample::select([&numbers[..], &longs, &texts].concat())
}
