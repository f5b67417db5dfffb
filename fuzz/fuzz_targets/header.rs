//! A safetensors header is refused, or its tensors cover the data exactly and the format's own
//! library reads the same file the same way.
#![no_main]

use std::path::Path;

use incise::store::header::{Entry, Header};
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(Path::new("x.safetensors"), bytes) else { return };
    let mut ranges: Vec<_> = header.tensors.values().map(|t| t.range.clone()).collect();
    ranges.sort_by_key(|r| (r.start, r.end));
    let end = ranges.iter().fold(header.len, |at, range| {
        assert_eq!(range.start, at);
        range.end
    });
    assert_eq!(end, bytes.len() as u64);
    let is_known = |t: &Entry| Dtype::deserialize(serde_json::json!(t.dtype)).is_ok();
    if !header.tensors.values().all(is_known) {
        return; // the library refuses types that it does not know, we only when they are used
    }
    let theirs = SafeTensors::deserialize(bytes).expect("the format's own library reads it too");
    assert_eq!(theirs.len(), header.tensors.len());
    for (name, t) in &header.tensors {
        let view = theirs.tensor(name).expect("a tensor of this name");
        assert_eq!(view.shape(), t.shape);
        assert_eq!(view.data(), &bytes[t.range.start as usize..t.range.end as usize]);
    }
});
