//! A GGUF header is refused, or its tensors lie one behind the other inside the file, each of the
//! size that its blocks have; and blocks keep their bytes when their own codes are put back. What
//! keys and vocabulary say of a model is refused, or read to the end.
#![no_main]

use std::io::Write;
use std::path::Path;

use incise::model::gguf::GgufModel;
use incise::store::gguf::{GgufHeader, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = GgufHeader::parse(Path::new("x.gguf"), bytes) else { return };
    let mut at = header.data;
    for tensor in &header.tensors {
        let size = tensor.kind.size(&tensor.shape).expect("whole blocks") as u64;
        assert!(tensor.range.start >= at && tensor.range.end <= bytes.len() as u64);
        assert_eq!(tensor.range.end - tensor.range.start, size);
        assert_eq!((tensor.range.start - header.data) % header.alignment, 0);
        at = tensor.range.end;
        let blocks = &bytes[tensor.range.start as usize..tensor.range.end as usize];
        let Some(grid) = tensor.kind.grid() else { continue };
        for block in blocks.chunks_exact(grid.bytes) {
            let mut steps = vec![Step::default(); grid.groups()];
            let mut codes = vec![0; grid.elements];
            grid.read(block, &mut steps, &mut codes);
            let mut same = block.to_vec();
            grid.put_codes(&mut same, &codes);
            assert_eq!(same, block);
        }
    }
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    if let Ok(model) = GgufModel::open(file.path()) {
        _ = model.tokenizer();
    }
});
