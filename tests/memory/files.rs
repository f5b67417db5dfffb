//! A codebook's file: read as it was written, and refused by the field that is wrong.

use std::path::Path;
use std::sync::Arc;

use incise::base::Error;
use incise::memory::{self, Codebook, CodebookEntry, Memory, Replacement, is_memory};
use incise::model::MatrixId;
use incise::model::lineage::WeightsName;
use incise::tensor::Precision;

use crate::support::golden::Golden;

fn made_for() -> WeightsName {
    WeightsName { model: "a fingerprint".to_owned(), weights: "a name".to_owned() }
}

fn book(golden: &Golden) -> Codebook {
    let arch = golden.model(Precision::F32).arch;
    let entry = |n: usize| CodebookEntry {
        key: (0..arch.inner).map(|i| (i + n) as f32).collect(),
        value: (0..arch.width).map(|i| (i * n) as f32).collect(),
        radius: n as f32,
        label: (0..n as u32).collect(),
    };
    let sizes = [arch.inner, arch.width];
    let book = Codebook::new(MatrixId::down(1), sizes, Replacement::Before);
    Codebook { made_for: made_for(), entries: (1..4).map(entry).collect(), ..book }
}

#[test]
fn a_codebook_is_read_as_it_was_written() {
    let golden = Golden::open("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let book = book(&golden);
    book.write(&path).unwrap();
    let model = golden.model(Precision::F32);
    assert_eq!(Codebook::read(&path, &model, &made_for()).unwrap(), book);
    assert!(is_memory(&path));
    assert_eq!(memory::open(&path, &model, &made_for()).unwrap().kind(), "grace");
    let none = Codebook { entries: vec![], ..book };
    none.write(&path).unwrap();
    assert_eq!(Codebook::read(&path, &model, &made_for()).unwrap(), none);
}

/// Each is refused, and the error names the field.
#[test]
fn a_file_that_does_not_fit_is_refused_by_its_field() {
    let golden = Golden::open("gpt2");
    let model = golden.model(Precision::F32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.memory");
    let refused = |field: &str, book: &Codebook, change: &dyn Fn(&Path)| {
        book.write(&path).unwrap();
        change(&path);
        match Codebook::read(&path, &model, &made_for()) {
            Err(error @ Error::Input { .. }) => {
                assert_eq!(error.field(), Some(field));
                error.to_string()
            }
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
    refused("model", &changed(&|b| b.made_for.model = "another".to_owned()), &nothing);
    let edited = changed(&|b| b.made_for.weights = "another".to_owned());
    let said = refused("weights", &edited, &nothing);
    assert!(said.contains("other edits") && said.contains("make it again"), "{said}");
    refused("matrix", &changed(&|b| b.id.layer = 99), &nothing);
    refused("matrix", &changed(&|b| b.id.expert = Some(0)), &nothing);
    let gate = changed(&|b| b.id = MatrixId::new(1, incise::Matrix::Gate)); // GPT-2 has none
    let said = refused("matrix", &gate, &nothing);
    assert!(said.contains("the model has no layers.1.gate"), "{said}");
    let said = Arc::new(gate).on(Arc::new(model.clone())).err().unwrap().to_string();
    assert!(said.contains("layers.1.gate") && said.contains("has none there"), "{said}");
    refused("keys", &changed(&|b| b.id = MatrixId::new(1, incise::Matrix::Up)), &nothing);
    refused("keys", &changed(&|b| b.entries[1].key[0] = f32::NAN), &nothing);
    refused("values", &changed(&|b| b.entries[2].value[5] = f32::INFINITY), &nothing);
    refused("radii", &changed(&|b| b.entries[0].radius = -1.0), &nothing);
    refused("radii", &changed(&|b| b.entries[0].radius = 1e20), &nothing); // squares are compared
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
    let said = refused("format", &good, &swapped("incise memory 1", "incise memory 9"));
    assert!(said.contains("the version of incise that wrote it"), "{said}");
    let said = refused("format", &good, &swapped("incise memory 1", "incise patch 22"));
    assert!(said.contains("a patch is applied"), "{said}");
    refused("kind", &good, &swapped("\"grace\"", "\"gracy\""));
    refused("matrix", &good, &swapped("layers.1.down", "layers.1.dawn"));
    refused("replacement", &good, &swapped("replace_prompt", "replace_prompd"));
    refused("labels", &good, &swapped("[[0],[0,1]", "[[0],{0,1}"));
    refused("labels", &good, &swapped("\"labels\"", "\"labelz\""));
    refused("radii", &good, &swapped("\"radii\"", "\"radiz\""));
}
