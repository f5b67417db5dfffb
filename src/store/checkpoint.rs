//! A model folder: `config.json` and one or many safetensors files, opened without touching a
//! weight.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::disk::Os;
use super::header::Entry;
use super::journal;
use super::mapped::Bytes;
use super::shard::Shard;
use super::write::is_name;
use crate::base::file::read_file;
use crate::base::{DType, Error, Result};

/// The file of a checkpoint that is one file.
const WHOLE: &str = "model.safetensors";
/// Which file of a checkpoint of many holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// A Hugging Face model folder.
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    shards: Vec<Arc<Shard>>,
    tensors: BTreeMap<String, usize>, // name → shard
}

/// A tensor of a checkpoint, in the bytes of its file.
pub struct StoredTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its sizes as stored, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, little-endian, row-major, of any alignment.
    pub bytes: Bytes,
}

impl Checkpoint {
    /// Opens the folder. A change that was interrupted (a killed process, a power failure) is
    /// rolled back first, as [`journal`] describes.
    ///
    /// # Errors
    ///
    /// No folder, or one of another format, with the command that converts it; a broken file,
    /// naming file and field; a change being written by another process right now.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let _reading = journal::recover(&Os, dir)?; // no writer starts while we map
        let checkpoint = Checkpoint::read(dir)?;
        checkpoint.check_twice()?;
        Ok(checkpoint)
    }

    /// Refuses a folder that [`open`](Checkpoint::open) refuses, but for files that hold different
    /// bytes of one tensor: a change of one of them may have made them so, and can be undone.
    /// Nothing is rolled back.
    ///
    /// # Errors
    ///
    /// As [`open`](Checkpoint::open).
    pub fn check(dir: &Path) -> Result<()> {
        Checkpoint::read(dir).map(drop)
    }

    /// Opens the folder as it is. No change touches a header.
    fn read(dir: &Path) -> Result<Checkpoint> {
        is_folder(dir)?;
        let config = read_config(dir)?;
        let mut shards = Vec::new();
        let mut tensors = BTreeMap::new();
        if dir.join(WHOLE).exists() {
            let shard = Shard::open(&dir.join(WHOLE))?;
            tensors.extend(shard.header().tensors.keys().map(|name| (name.clone(), 0)));
            shards.push(shard);
        } else if dir.join(INDEX).exists() {
            for (file, names) in read_index(dir)? {
                let shard = open_part(dir, &file, &names)?;
                tensors.extend(names.into_iter().map(|name| (name, shards.len())));
                shards.push(shard);
            }
        } else {
            return Err(other_format(dir));
        }
        Ok(Checkpoint { dir: dir.to_path_buf(), config, shards, tensors })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Name, file and header entry of every tensor, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Arc<Shard>, &Entry)> {
        self.names().filter_map(|name| self.entry(name).map(|(shard, entry)| (name, shard, entry)))
    }

    /// File and header entry of a tensor.
    pub fn entry(&self, name: &str) -> Option<(&Arc<Shard>, &Entry)> {
        let shard = &self.shards[*self.tensors.get(name)?];
        Some((shard, shard.header().tensors.get(name)?))
    }

    /// Refuses to change a tensor that is stored in two files: readers differ in whose they take.
    ///
    /// # Errors
    ///
    /// Such a tensor; both files are named.
    pub fn check_single(&self, name: &str) -> Result<()> {
        self.check_one_form(name)?;
        let Some(&listed) = self.tensors.get(name) else { return Ok(()) };
        let mut shards = self.shards.iter().enumerate();
        let holds = |shard: &Shard| shard.header().tensors.contains_key(name);
        let Some((_, other)) = shards.find(|(i, shard)| *i != listed && holds(shard)) else {
            return Ok(());
        };
        let file = file_name(&self.shards[listed]);
        let what = format!("is stored in two files, of which one, {file}, would change");
        let remedy = "save the model again, so that each tensor is in one file";
        Err(Error::input(other.path(), name, what, remedy))
    }

    /// Refuses a folder that holds the weights as one file, which is read, and as listed files too.
    fn check_one_form(&self, name: &str) -> Result<()> {
        if !self.dir.join(WHOLE).exists() || !self.dir.join(INDEX).exists() {
            return Ok(());
        }
        let files = read_index(&self.dir)?;
        let holds = |names: &Vec<String>| names.iter().any(|n| n == name);
        let mut other = files.iter().filter(|(_, names)| holds(names)).map(|(file, _)| file);
        let Some(file) = other.find(|file| self.dir.join(file).exists()) else { return Ok(()) };
        let what = format!("lists it in {file}, and {WHOLE}, which is read, is there too");
        let remedy = "remove the form of the weights that is not to be used";
        Err(Error::input(self.dir.join(INDEX), name, what, remedy))
    }

    /// The file that holds a tensor which the index does not list.
    pub fn unlisted(&self, name: &str) -> Option<&Path> {
        let shard = self.shards.iter().find(|shard| shard.header().tensors.contains_key(name))?;
        (!self.tensors.contains_key(name)).then(|| shard.path())
    }

    /// Refuses a tensor of which two files hold different bytes: readers differ in whose they take.
    /// The headers tell which tensors are stored twice; no other bytes are read.
    fn check_twice(&self) -> Result<()> {
        for shard in &self.shards {
            for (name, entry) in &shard.header().tensors {
                let Some((other, theirs)) = self.entry(name) else { continue };
                let same = Arc::ptr_eq(shard, other)
                    || (entry.dtype == theirs.dtype
                        && entry.shape == theirs.shape
                        && *shard.bytes(&entry.range) == *other.bytes(&theirs.range));
                if !same {
                    let file = file_name(other);
                    let what =
                        format!("{file}, where {INDEX} lists this tensor, has other values of it");
                    let remedy = "undo what was changed in place, or fetch all files of the model \
                                  again, from one release of it";
                    return Err(Error::input(shard.path(), name, what, remedy));
                }
            }
        }
        Ok(())
    }

    /// An error if another program has written one of its files since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.unchanged())
    }

    /// The tensor of that name; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Elements of a type we do not compute with.
    pub fn tensor(&self, name: &str) -> Result<Option<StoredTensor>> {
        let Some((shard, entry)) = self.entry(name) else { return Ok(None) };
        let dtype = float(shard, name, entry)?;
        Ok(Some(StoredTensor {
            name: name.to_owned(),
            dtype,
            shape: entry.shape.clone(),
            bytes: shard.bytes(&entry.range),
        }))
    }
}

/// The type of a tensor we compute with.
pub(crate) fn float(shard: &Shard, name: &str, entry: &Entry) -> Result<DType> {
    DType::parse(&entry.dtype).ok_or_else(|| {
        let what = format!("elements of type {}", entry.dtype);
        Error::input(shard.path(), name, what, "use a checkpoint in F32, F16 or BF16")
    })
}

fn is_folder(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let shown = dir.display().to_string();
    let field = "model";
    if dir.is_file() {
        if dir.extension().is_some_and(|e| e == "gguf") {
            return Err(gguf(dir));
        }
        let remedy = "name the folder that holds config.json";
        return Err(Error::input(dir, field, "is a file", remedy));
    }
    let word = |s: &str| {
        !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let remedy = match shown.split_once('/') {
        Some((owner, name)) if word(owner) && word(name) && !owner.starts_with('.') => format!(
            "if it is a model's name on a hub, download it with `hf download {shown} --local-dir \
             {name}` and name the folder {name}"
        ),
        _ => "name a folder that holds config.json and model.safetensors".into(),
    };
    Err(Error::input(dir, field, "there is no such folder", remedy))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = read_file(path, 1 << 26)?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::input(path, "JSON", e.to_string(), "fetch or write the file again"))
}

fn read_config(dir: &Path) -> Result<Value> {
    let path = dir.join("config.json");
    if !path.exists() && has_extension(dir, "gguf").is_some() {
        return Err(other_format(dir));
    }
    let config = read_json(&path)?;
    if !config.is_object() {
        return Err(Error::input(path, "JSON", "is no object", "fetch or write the file again"));
    }
    match config.get("quantization_config") {
        None | Some(Value::Null) => Ok(config),
        Some(quantized) => Err(quantization(dir, &path, quantized)),
    }
}

fn quantization(dir: &Path, path: &Path, config: &Value) -> Error {
    let method = config.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
    let remedy = match method {
        "fp8" => {
            let how = "quantization_config=FineGrainedFP8Config(dequantize=True)";
            format!("widen it first: {}", resave(dir, ", FineGrainedFP8Config", how))
        }
        _ => "edit the checkpoint it was quantized from, and quantize the result".into(),
    };
    let what = format!("the weights are quantized ({method})");
    Error::input(path, "quantization_config", what, remedy)
}

/// What is wrong with a folder without safetensors files.
fn other_format(dir: &Path) -> Error {
    if let Some(file) = has_extension(dir, "gguf") {
        return gguf(&file);
    }
    let bin = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    match bin.iter().find(|name| dir.join(name).exists()) {
        Some(name) => {
            let what = "the weights are pickled, not in safetensors";
            let remedy = format!("convert them: {}", resave(dir, "", "dtype='auto'"));
            Error::input(dir.join(name), "format", what, remedy)
        }
        None => {
            let what = format!("neither {WHOLE} nor {INDEX} is there");
            Error::input(dir, "weights", what, "name a folder that holds one of them")
        }
    }
}

fn gguf(file: &Path) -> Error {
    let remedy = "import it into a folder first, and name that";
    Error::input(file, "format", "the weights are in GGUF, not in safetensors", remedy)
}

/// The command that loads a folder with the reference framework and saves it as safetensors.
fn resave(dir: &Path, import: &str, how: &str) -> String {
    let from = dir.display();
    format!(
        "python -c \"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\
         {import}; d='{from}'; o=d+'-safetensors'; M.from_pretrained(d, {how}).save_pretrained(o); \
         T.from_pretrained(d).save_pretrained(o)\""
    )
}

fn has_extension(dir: &Path, extension: &str) -> Option<PathBuf> {
    let files = fs::read_dir(dir).ok()?.filter_map(|e| Some(e.ok()?.path()));
    files.filter(|p| p.extension().is_some_and(|e| e == extension)).min()
}

/// Files of the index, each with the tensors it should hold.
fn read_index(dir: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let path = dir.join(INDEX);
    let wrong = |field: &str, what: &str| {
        Error::input(&path, field, what, "fetch or write the index again")
    };
    let index = read_json(&path)?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| wrong("weight_map", "is no object"))?;
    let mut files = BTreeMap::<String, Vec<String>>::new();
    for (name, file) in map {
        let file = file.as_str().ok_or_else(|| wrong(name, "its file is no string"))?;
        if !is_name(file) {
            return Err(elsewhere(&path, name, file));
        }
        files.entry(file.to_owned()).or_default().push(name.clone());
    }
    Ok(files)
}

/// What is wrong with a file of the index that is not beside it.
fn elsewhere(index: &Path, tensor: &str, file: &str) -> Error {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    if !file.is_empty() && Path::new(file).components().all(plain) && !file.ends_with('/') {
        let what =
            format!("its file, {file}, is in a sub-folder: only files beside the index are read");
        let remedy = "move the file beside the index and name it there without its folder";
        return Error::input(index, tensor, what, remedy);
    }
    let what = format!("its file, {file:?}, is outside the folder");
    Error::input(index, tensor, what, "fetch or write the index again")
}

fn file_name(shard: &Shard) -> Cow<'_, str> {
    shard.path().file_name().unwrap_or_default().to_string_lossy()
}

fn open_part(dir: &Path, file: &str, names: &[String]) -> Result<Arc<Shard>> {
    let path = dir.join(file);
    if !path.exists() {
        let what = format!("{file}, which should hold {} and others, is not there", names[0]);
        return Err(Error::input(dir.join(INDEX), "weight_map", what, "fetch that file"));
    }
    let shard = Shard::open(&path)?;
    match names.iter().find(|name| !shard.header().tensors.contains_key(*name)) {
        None => Ok(shard),
        Some(name) => {
            let what = format!("{INDEX} lists this tensor in it, and it is not there");
            Err(Error::input(path, name, what, "fetch the file and the index again"))
        }
    }
}
