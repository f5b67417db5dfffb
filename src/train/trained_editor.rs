//! A trained editor as a folder.
//!
//! ```text
//! editor.safetensors   the method's own tensors, F32; metadata: format, method, model (the
//!                      fingerprint of what it was trained for), hyperparameters (JSON), version,
//!                      training (a hash of all that it depended on)
//! training.json        what the training came to, for people
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::parameters::Parameters;
use crate::base::file::make_folder;
use crate::base::{DType, Error, Result};
use crate::store::write::{self, Item};
use crate::store::{Shard, tensor_fingerprint};
use crate::tensor::Tensor;

const FORMAT: &str = "incise editor 1";
const FILE: &str = "editor.safetensors";
const RECORD: &str = "training.json";
const REMEDY: &str = "train the editor again, or name the folder of another";

/// What a training left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainedEditor {
    /// The folder it was read from.
    pub folder: PathBuf,
    /// The method's name.
    pub method: String,
    /// The fingerprint of the model that it edits, which edits of its matrices leave as it is.
    pub model: String,
    /// What it was trained with, by the field's names.
    pub hyperparameters: Map<String, Value>,
    /// Names all that its training depended on; empty where that was another program's.
    pub training: String,
    /// Its tensors by name: sizes and numbers.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TrainedEditor {
    /// The file that holds it.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// The file that says what the training came to.
    pub fn record(folder: &Path) -> PathBuf {
        folder.join(RECORD)
    }

    /// Takes the values of all parameters.
    pub fn take(&mut self, parameters: &Parameters) {
        self.tensors = parameters
            .all()
            .iter()
            .map(|p| {
                let values = p.value().to_f64().into_iter().map(|x| x as f32).collect();
                (p.name.clone(), (p.shape.clone(), values))
            })
            .collect();
    }

    /// Gives parameters their values.
    ///
    /// # Errors
    ///
    /// A tensor that is missing, of another shape, or of no parameter.
    pub fn give(&self, parameters: &mut Parameters) -> Result<()> {
        let file = TrainedEditor::file(&self.folder);
        let bad = |name: &str, what: String| Err(Error::input(&file, name, what, REMEDY));
        let precision = parameters.precision();
        for p in parameters.all_mut() {
            let Some((shape, values)) = self.tensors.get(&p.name) else {
                return bad(&p.name, "is missing".to_owned());
            };
            if *shape != p.shape {
                return bad(&p.name, format!("is {shape:?}, not {:?}", p.shape));
            }
            if values.iter().any(|x| !x.is_finite()) {
                return bad(&p.name, "holds a number that is not finite".to_owned());
            }
            let values: Vec<f64> = values.iter().map(|&x| x.into()).collect();
            let sizes = p.value().shape().to_vec();
            *p.value_mut() = Tensor::of(precision, &sizes, &values);
        }
        let known = |name: &str| parameters.all().iter().any(|p| p.name == name);
        match self.tensors.keys().find(|name| !known(name)) {
            Some(name) => bad(name, format!("is no tensor of {}", self.method)),
            None => Ok(()),
        }
    }

    /// Writes it into a folder, which is made; `training` is for people.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn write(&self, folder: &Path, training: &Value) -> Result<()> {
        make_folder(folder)?;
        let metadata = BTreeMap::from(
            [
                ("format", FORMAT.to_owned()),
                ("method", self.method.clone()),
                ("model", self.model.clone()),
                ("hyperparameters", json!(self.hyperparameters).to_string()),
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("training", self.training.clone()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let item = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| Item {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.clone(),
        };
        let items: Vec<Item> = self.tensors.iter().map(item).collect();
        write::write(&TrainedEditor::file(folder), &metadata, &items, &mut |i, out| {
            out.write_all(bytemuck::cast_slice(&self.tensors[&items[i].name].1))
        })?;
        let text = serde_json::to_string_pretty(training).expect("texts and numbers") + "\n";
        write::whole(&TrainedEditor::record(folder), text.as_bytes())
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// No such folder; a file of another format, damaged or of another version.
    pub fn read(folder: &Path) -> Result<TrainedEditor> {
        let file = TrainedEditor::file(folder);
        if !file.is_file() {
            let what = format!("has no {FILE}");
            return Err(Error::input(folder, "trained editor", what, REMEDY));
        }
        let shard = Shard::open(&file)?;
        let metadata = &shard.header().metadata;
        let bad = |field: &str, what: String| Error::input(&file, field, what, REMEDY);
        let text = |field: &str| {
            let missing = || bad(field, "is missing".to_owned());
            metadata.get(field).cloned().ok_or_else(missing)
        };
        let format = text("format")?;
        if format != FORMAT {
            return Err(bad("format", format!("is {format}, not {FORMAT}")));
        }
        let hyperparameters = serde_json::from_str(&text("hyperparameters")?);
        let hyperparameters = hyperparameters
            .map_err(|e| bad("hyperparameters", format!("are no names with values: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, entry) in &shard.header().tensors {
            if entry.dtype != DType::F32.name() {
                return Err(bad(name, format!("is {}, not F32", entry.dtype)));
            }
            let mut values = vec![0.0f32; entry.shape.iter().product()];
            DType::F32.widen(&shard.bytes(&entry.range), &mut values);
            tensors.insert(name.clone(), (entry.shape.clone(), values));
        }
        Ok(TrainedEditor {
            folder: folder.to_owned(),
            method: text("method")?,
            model: text("model")?,
            hyperparameters,
            training: metadata.get("training").cloned().unwrap_or_default(),
            tensors,
        })
    }

    /// A hash of all that it does by.
    pub fn fingerprint(&self) -> String {
        let mut bytes = json!([self.method, self.hyperparameters]).to_string().into_bytes();
        for (name, (_, values)) in &self.tensors {
            bytes.extend(name.as_bytes());
            bytes.extend(bytemuck::cast_slice::<f32, u8>(values));
        }
        tensor_fingerprint(&bytes)
    }
}
