//! Broken headers: a test each, and garbage.

use std::path::Path;

use incise::store::header::Header;
use proptest::prelude::*;

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
    refused(&file(r#"{"a":"#, 0), "header: a: EOF");
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
    refused(&file(&format!(r#"{{"a":{entry},"a":{entry}}}"#), 0), "a is named twice");
}

#[test]
fn a_field_named_twice() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}"#;
    refused(&file(header, 1), "shape is named twice");
}

#[test]
fn a_metadata_key_named_twice() {
    refused(&file(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0), "k is named twice");
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

proptest! {
    /// Nothing panics, whatever the bytes.
    #[test]
    fn garbage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    /// Nor where a good file has a byte changed; and what is accepted stays inside the file.
    #[test]
    fn a_byte_changed(at in 0usize..200, to: u8) {
        let mut bytes = file(&two([0, 4], [4, 6]), 6);
        let n = bytes.len();
        bytes[at % n] = to;
        if let Ok(header) = parse(&bytes) {
            prop_assert!(header.tensors.values().all(|t| t.range.end <= n as u64));
        }
    }
}
