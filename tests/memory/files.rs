//! A codebook's file: read as it was written, and refused by the field that is wrong.

use std::path::Path;

use incise::base::Error;
use incise::memory::{self, Codebook, CodebookEntry, Replacement, is_memory};
use incise::model::MatrixId;
use incise::tensor::Precision;

use crate::support::golden::Golden;

fn book(golden: &Golden) -> Codebook {
    let arch = golden.model(Precision::F32).arch;
    let entry = |n: usize| CodebookEntry {
        key: (0..arch.inner).map(|i| (i + n) as f32).collect(),
        value: (0..arch.width).map(|i| (i * n) as f32).collect(),
        radius: n as f32,
        label: (0..n as u32).collect(),
    };
    let sizes = [arch.inner, arch.width];
    let book = Codebook::new(MatrixId::down(1), sizes, Replacement::Before, "a fingerprint");
    Codebook { entries: (1..4).map(entry).collect(), ..book }
}

#[test]
fn a_codebook_is_read_as_it_was_written() {
    let golden = Golden::open("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let book = book(&golden);
    book.write(&path).unwrap();
    let arch = golden.model(Precision::F32).arch;
    assert_eq!(Codebook::read(&path, &arch, "a fingerprint").unwrap(), book);
    assert!(is_memory(&path));
    assert_eq!(memory::open(&path, &arch, "a fingerprint").unwrap().kind(), "grace");
    let none = Codebook { entries: vec![], ..book };
    none.write(&path).unwrap();
    assert_eq!(Codebook::read(&path, &arch, "a fingerprint").unwrap(), none);
}

/// Each is refused, and the error names the field.
#[test]
fn a_file_that_does_not_fit_is_refused_by_its_field() {
    let golden = Golden::open("gpt2");
    let arch = golden.model(Precision::F32).arch;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let refused = |field: &str, book: &Codebook, change: &dyn Fn(&Path)| {
        book.write(&path).unwrap();
        change(&path);
        match Codebook::read(&path, &arch, "a fingerprint") {
            Err(Error::Input { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    };
    let nothing = |_: &Path| {};
    let good = book(&golden);
    let changed = |change: &dyn Fn(&mut Codebook)| {
        let mut book = good.clone();
        change(&mut book);
        book
    };
    refused("model", &changed(&|b| b.model = "another".to_owned()), &nothing);
    refused("matrix", &changed(&|b| b.id.layer = 99), &nothing);
    refused("matrix", &changed(&|b| b.id.expert = Some(0)), &nothing);
    refused("keys", &changed(&|b| b.id = MatrixId::new(1, incise::Matrix::Up)), &nothing);
    refused("keys", &changed(&|b| b.entries[1].key[0] = f32::NAN), &nothing);
    refused("values", &changed(&|b| b.entries[2].value[5] = f32::INFINITY), &nothing);
    refused("radii", &changed(&|b| b.entries[0].radius = -1.0), &nothing);
    refused("labels", &changed(&|b| b.entries[0].label = vec![u32::MAX]), &nothing);
    // Text of the same length in the place of other text.
    let swapped = |from: &'static str, to: &'static str| {
        assert_eq!(from.len(), to.len());
        move |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            std::fs::write(path, bytes).unwrap();
        }
    };
    refused("format", &good, &swapped("incise memory 1", "incise memory 9"));
    refused("kind", &good, &swapped("\"grace\"", "\"gracy\""));
    refused("matrix", &good, &swapped("layers.1.down", "layers.1.dawn"));
    refused("replacement", &good, &swapped("replace_prompt", "replace_prompd"));
    refused("labels", &good, &swapped("[[0],[0,1]", "[[0],{0,1}"));
    refused("labels", &good, &swapped("\"labels\"", "\"labelz\""));
    refused("radii", &good, &swapped("\"radii\"", "\"radiz\""));
}
