//! Small checkpoints in temporary folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use incise::base::{DType, Rng};
use incise::store::write::{self, Item};
use incise::store::{Checkpoint, Metadata};
use serde_json::json;
use tempfile::TempDir;

/// A model folder that goes away with the value.
pub struct Toy {
    pub temp: TempDir,
    pub dir: PathBuf,
}

/// The matrices of a toy, (out, in) = (7, 5) or stored (in, out), and another tensor.
pub const A: &str = "a.weight";
pub const B: &str = "b.weight";
pub const NORM: &str = "norm.weight";

/// Writes random tensors into a file.
pub fn file(path: &Path, dtype: DType, tensors: &[(&str, &[usize])], seed: u64) {
    let item = |(name, shape): &(&str, &[usize])| Item {
        name: (*name).to_owned(),
        dtype: dtype.into(),
        shape: shape.to_vec(),
    };
    let items: Vec<Item> = tensors.iter().map(item).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write::write(path, &metadata, &items, &mut |i, out| {
        let mut rng = Rng::new(seed, tensors[i].0);
        let n = tensors[i].1.iter().product();
        let values: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mut bytes = Vec::new();
        dtype.narrow(&values, &mut bytes);
        out.write_all(&bytes)
    })
    .unwrap();
}

impl Toy {
    fn empty() -> Toy {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("model");
        fs::create_dir(&dir).unwrap();
        let config = json!({"model_type": "toy", "n_layer": 2, "_name_or_path": "somewhere"});
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        Toy { temp, dir }
    }

    /// One file; A and B have the given stored shape.
    pub fn new(dtype: DType, shape: [usize; 2]) -> Toy {
        let toy = Toy::empty();
        let tensors: [(&str, &[usize]); 3] = [(A, &shape), (B, &shape), (NORM, &[7])];
        file(&toy.dir.join("model.safetensors"), dtype, &tensors, 1);
        toy
    }

    /// Two files, one with A and one with B and NORM, and their index; A and B are (7, 5).
    pub fn sharded(dtype: DType) -> Toy {
        let toy = Toy::empty();
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        file(&toy.dir.join(names[0]), dtype, &[(A, &[7, 5])], 1);
        file(&toy.dir.join(names[1]), dtype, &[(B, &[7, 5]), (NORM, &[7])], 1);
        let map = json!({A: names[0], B: names[1], NORM: names[1]});
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(toy.dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
        toy
    }

    /// The same model once more, elsewhere.
    pub fn again(&self) -> Toy {
        let toy = Toy::empty();
        for (name, bytes) in self.bytes() {
            fs::write(toy.dir.join(name), bytes).unwrap();
        }
        toy
    }

    pub fn open(&self) -> Checkpoint {
        Checkpoint::open(&self.dir).unwrap()
    }

    /// A path beside the model.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The bytes of every file of the model but the journal's.
    pub fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        bytes(&self.dir)
    }

    /// What is in the journal's folder.
    pub fn journal(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.join(".incise")).unwrap();
        let mut names: Vec<_> =
            files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The bytes of every file directly in a folder.
pub fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    let files = files.filter(|p| p.is_file());
    files
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(p).unwrap()))
        .collect()
}

/// The bytes of a tensor.
pub fn tensor(dir: &Path, name: &str) -> Vec<u8> {
    Checkpoint::open(dir).unwrap().tensor(name).unwrap().unwrap().bytes.to_vec()
}

/// What a patch of these tests says of itself.
pub fn metadata() -> Metadata {
    Metadata {
        method: "rome".into(),
        hyperparameters: json!({"layer": 5, "v_lr": 0.5}),
        contexts: json!([["{}"], ["Before. {}"]]),
        requests: "0123".into(),
        facts: 3,
        model: "4567".into(),
        version: "0.1.0".into(),
        notes: json!({"why": "a \"test\"\n東京"}),
    }
}

/// The message of an error, which must be one.
pub fn refusal<T>(result: incise::Result<T>) -> String {
    match result {
        Ok(_) => panic!("was not refused"),
        Err(e) => e.to_string(),
    }
}
