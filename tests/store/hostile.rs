//! Broken headers: a test each, and garbage.

use std::collections::BTreeMap;
use std::path::Path;

use incise::store::header::{Header, size};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde_json::json;

fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![1; data]].concat()
}

fn parse(bytes: &[u8]) -> Result<Header, String> {
    Header::parse(Path::new("x.safetensors"), bytes).map_err(|e| e.to_string())
}

/// The header is refused with words that say why.
#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let message = parse(bytes).unwrap_err();
    assert!(message.starts_with("x.safetensors: "), "{message}");
    assert!(message.contains(why), "{message:?} does not say {why:?}");
}

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;

#[test]
fn a_good_one() {
    let header = parse(&file(ONE, 8)).unwrap();
    let start = 8 + ONE.len() as u64;
    assert_eq!(header.tensors["a"].range, start..start + 8);
    assert_eq!(header.tensors["a"].shape, [2, 1]);
    assert!(parse(&file(&format!("{ONE}    "), 8)).is_ok(), "padding");
    assert!(parse(&file("{}", 0)).is_ok(), "nothing in it");
}

#[test]
fn empty_file() {
    refused(b"", "0 bytes");
}

#[test]
fn cut_in_the_length() {
    refused(&[1, 0, 0], "3 bytes");
}

#[test]
fn length_beyond_the_file() {
    refused(&file(ONE, 0)[..20], "12 follow");
}

#[test]
fn length_over_the_limit() {
    refused(&(100_000_001u64).to_le_bytes(), "over 100000000");
    refused(&u64::MAX.to_le_bytes(), "over 100000000");
}

#[test]
fn not_an_object() {
    refused(&file("[]", 0), "begin with '{'");
    refused(&file(&format!(" {ONE}"), 8), "begin with '{'");
    refused(&file("", 0), "begin with '{'");
}

#[test]
fn not_json() {
    refused(&file(r#"{"a":"#, 0), "header: EOF");
    refused(&file(&format!("{ONE}x"), 8), "trailing");
}

#[test]
fn not_utf8() {
    let mut bytes = file(ONE, 8);
    bytes[10] = 0xFF;
    refused(&bytes, "header: ");
}

#[test]
fn nested_without_end() {
    refused(&file(&r#"{"a":"#.repeat(100_000), 0), "header: ");
}

#[test]
fn a_tensor_named_twice() {
    let entry = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    refused(&file(&format!(r#"{{"a":{entry},"a":{entry}}}"#), 0), "\"a\" is named twice");
}

#[test]
fn a_field_named_twice() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}"#;
    refused(&file(header, 1), "\"shape\" is named twice");
}

#[test]
fn a_metadata_key_named_twice() {
    refused(&file(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0), "\"k\" is named twice");
}

#[test]
fn metadata_that_is_no_string() {
    refused(&file(r#"{"__metadata__":{"k":1}}"#, 0), "k is not a string");
}

#[test]
fn missing_fields() {
    refused(&file(r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#, 1), "a: missing field `dtype`");
    refused(&file(r#"{"a":{"dtype":"U8","shape":[1]}}"#, 1), "`data_offsets`");
}

/// Forms that the library takes for a type and for a tensor.
#[test]
fn a_type_or_a_tensor_in_another_form() {
    let header = r#"{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}"#;
    refused(&file(header, 1), "a: missing field `dtype`, a string");
    refused(&file(r#"{"a":["U8",[1],[0,1]]}"#, 1), "a: missing field `dtype`, a string");
    refused(&file(r#"{"__metadata__":null}"#, 0), "__metadata__: is no object");
}

#[test]
fn sizes_that_are_no_sizes() {
    let header =
        |shape| format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":[0,1]}}}}"#);
    refused(&file(&header("[-1]"), 1), "a: invalid value");
    refused(&file(&header("[1.5]"), 1), "a: invalid");
    refused(&file(&header("7"), 1), "a: invalid type");
}

#[test]
fn offsets_outside_the_data() {
    refused(&file(ONE, 7), "[0, 8) lie outside the 7");
}

#[test]
fn offsets_backwards() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}}"#;
    refused(&file(header, 2), "[2, 1) lie outside");
}

#[test]
fn offsets_that_overflow() {
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,{}]}}}}"#, u64::MAX);
    refused(&file(&header, 1), "lie outside");
}

#[test]
fn shape_and_bytes_disagree() {
    let header = r#"{"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,8]}}"#;
    refused(&file(header, 8), "8 bytes do not hold BF16 of the shape [3]");
}

#[test]
fn a_shape_that_overflows() {
    let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}"#;
    refused(&file(header, 0), "0 bytes do not hold");
}

fn two(first: [u64; 2], second: [u64; 2]) -> String {
    let entry = |[b, e]: [u64; 2]| {
        format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{b},{e}]}}"#, e - b)
    };
    format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second))
}

#[test]
fn tensors_that_share_bytes() {
    refused(&file(&two([0, 4], [3, 6]), 6), "b: shares bytes with a");
}

#[test]
fn a_hole_between_tensors() {
    refused(&file(&two([0, 4], [5, 6]), 6), "b: 1 bytes before it belong to no tensor");
}

#[test]
fn bytes_nobody_owns() {
    refused(&file(&two([1, 4], [4, 6]), 6), "a: 1 bytes before it");
    refused(&file(ONE, 11), "a: 3 bytes after it");
    refused(&file("{}", 5), "5 bytes after it");
}

/// A type we never heard of may be in a file; whoever uses the tensor finds out.
#[test]
fn an_unknown_type_is_kept() {
    let header = r#"{"a":{"dtype":"Q9","shape":[3],"data_offsets":[0,5]}}"#;
    assert_eq!(parse(&file(header, 5)).unwrap().tensors["a"].dtype, "Q9");
}

#[test]
fn types_of_less_than_a_byte() {
    let header = r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#;
    assert!(parse(&file(header, 2)).is_ok());
    let header = r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#;
    refused(&file(header, 2), "2 bytes do not hold F4");
}

/// The type of that name, if the format's library knows it.
fn known(dtype: &str) -> Option<Dtype> {
    Dtype::deserialize(json!(dtype)).ok()
}

/// What every header that is read promises about the file it heads.
#[track_caller]
fn holds(header: &Header, file: &[u8]) {
    let mut entries: Vec<_> = header.tensors.values().collect();
    entries.sort_by_key(|t| (t.range.start, t.range.end));
    let mut at = header.len;
    for t in entries {
        assert_eq!(t.range.start, at, "the tensors lie end to end");
        at = t.range.end;
        if let Some(dtype) = known(&t.dtype) {
            assert_eq!(size(dtype, &t.shape), Some((t.range.end - t.range.start) as usize));
        }
    }
    assert_eq!(at, file.len() as u64, "no byte travels unseen");
}

/// Every byte of a good file becomes every other byte: an error, or a header that holds.
#[test]
fn every_byte_changed() {
    let header = two([0, 4], [4, 6]);
    let header = header.replacen('{', r#"{"__metadata__":{"k":"v"},"#, 1);
    let good = file(&header, 6);
    let mut refused = 0;
    for at in 0..good.len() - 6 {
        for to in 0..=255 {
            let mut bytes = good.clone();
            bytes[at] = to;
            match parse(&bytes) {
                Ok(header) => holds(&header, &bytes),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 200 * good.len() / 2, "{refused}: the header is hardly looked at");
}

/// Sizes and a type for each of a few tensors.
fn layout() -> impl Strategy<Value = Vec<(&'static str, Vec<usize>)>> {
    let dtype = prop::sample::select(vec!["F32", "BF16", "U8", "I64", "F8_E4M3", "Q9"]);
    prop::collection::vec((dtype, prop::collection::vec(0usize..5, 0..3)), 0..5)
}

/// A file of tensors end to end; a type nobody knows has elements of one byte.
fn laid_out(tensors: &[(&str, Vec<usize>)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut at = 0;
    for (i, (dtype, shape)) in tensors.iter().enumerate() {
        let n = shape.iter().product::<usize>();
        let end = at + n * known(dtype).map_or(1, |dtype| dtype.bitsize() / 8);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        header.insert(format!("t{i}"), entry);
        at = end;
    }
    file(&serde_json::Value::Object(header).to_string(), at)
}

/// Pieces of headers, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\"a\"",
        "\"b\"",
        "\"dtype\"",
        "\"F32\"",
        "\"shape\"",
        "\"data_offsets\"",
        "\"__metadata__\"",
        "0",
        "4",
        "-1",
        "1e9",
        "18446744073709551615",
        "null",
        "true",
        r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#,
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Nothing panics, whatever the bytes.
    #[test]
    fn garbage(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    /// Nor where they are pieces of a header, of the length they say.
    #[test]
    fn garbled(text in pieces(), data in 0usize..9) {
        let bytes = file(&format!("{{{text}"), data);
        if let Ok(header) = parse(&bytes) {
            holds(&header, &bytes);
        }
    }

    /// Every layout is read as it was written, and with any byte changed is refused or holds.
    #[test]
    fn layouts(
        tensors in layout(),
        metadata in prop::collection::btree_map(".{0,6}", ".{0,6}", 0..3),
        at: prop::sample::Index,
        to: u8,
    ) {
        let mut bytes = laid_out(&tensors, &metadata);
        let header = parse(&bytes).unwrap();
        holds(&header, &bytes);
        prop_assert_eq!(&header.metadata, &metadata);
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for (i, (dtype, shape)) in tensors.iter().enumerate() {
            let entry = &header.tensors[&format!("t{i}")];
            prop_assert_eq!((&*entry.dtype, &entry.shape), (*dtype, shape));
        }
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(header) = parse(&bytes) {
            holds(&header, &bytes);
        }
    }
}
