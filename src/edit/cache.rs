//! What a long edit has found so far, in a folder beside the patch that anyone may delete.
//!
//! ```text
//! PATCH.kept/
//!     lock                        held by the run that uses it
//!     values                      a record a fact                            edit/value_store.rs
//!     layer-<key>.safetensors     the change of a finished layer
//!     training-<key>.safetensors  where a training is, or another work
//!                                 edit/training/kept.rs, kept_work.rs
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::solve::layers::{MatrixChange, SolvedLayer};
use super::value_store::ValueStore;
use crate::base::file::make_folder;
use crate::base::{DType, Error, Result};
use crate::store::lock::Lock;
use crate::store::write::{self, Item};
use crate::store::{Delta, FactKeys, Fingerprint, Shard};

const RIDGE: &str = "ridge";
const S: &str = "s";
const CHECK: &str = "blake3";

/// The folder.
pub struct Cache {
    dir: PathBuf,
    weights: String,
    values: Option<ValueStore>, // none of a method that searches none
    trainings: Vec<PathBuf>,    // files of those at work
    _lock: Lock,
}

impl Cache {
    /// Opens the folder with its values, which are made where they are missing. `weights` names the
    /// weights of the model that is edited ([`model_fingerprint`](crate::store::model_fingerprint)
    /// of all of them): values of another model are never handed back.
    ///
    /// # Errors
    ///
    /// Another run that uses it; one that cannot be written; a damaged file of values.
    pub fn open(dir: &Path, weights: &str) -> Result<Cache> {
        let mut cache = Cache::open_for_training(dir, weights)?;
        cache.values = Some(ValueStore::open(&dir.join("values"))?);
        Ok(cache)
    }

    /// The same for a method that searches no values: a file of them is neither made nor read.
    ///
    /// # Errors
    ///
    /// Another run that uses it; one that cannot be written.
    pub fn open_for_training(dir: &Path, weights: &str) -> Result<Cache> {
        let ours = ["lock", "values"].map(|name| dir.join(name).exists()).contains(&true);
        let stranger = |mut files: fs::ReadDir| files.next().is_some() && !ours;
        if dir.exists() && (!dir.is_dir() || fs::read_dir(dir).is_ok_and(stranger)) {
            let what = "stands where what is found would be kept";
            return Err(Error::input(dir, "kept", what, "name another patch, or move it"));
        }
        make_folder(dir)?;
        let path = dir.join("lock");
        if fs::symlink_metadata(&path).is_ok_and(|there| !there.is_file()) {
            let what = "is a link, a pipe or a folder";
            return Err(Error::input(&path, "lock", what, "remove it"));
        }
        let lock = Lock::alone(&path, "another run uses this folder")?;
        let (dir, weights) = (dir.to_owned(), weights.to_owned());
        Ok(Cache { dir, weights, values: None, trainings: Vec::new(), _lock: lock })
    }

    /// The file of the training of that key, which is at work from now on.
    pub fn begin_training(&mut self, key: &str) -> PathBuf {
        let file = self.dir.join(format!("training-{key}.safetensors"));
        self.trainings.push(file.clone());
        file
    }

    /// The files of the trainings at work, there or not: in rounds there are several.
    pub fn trainings(&self) -> &[PathBuf] {
        &self.trainings
    }

    /// Whether anything of the work is in it.
    pub fn holds_work(&self) -> bool {
        let values = self.values.as_ref().is_some_and(|values| !values.is_empty());
        values || self.trainings.iter().any(|file| file.exists())
    }

    /// Removes a training that has served, and its folder where nothing else is in it. A folder
    /// that another run uses stays as it is.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    ///
    /// # Panics
    ///
    /// Where the file is in no folder.
    pub fn remove_training(file: &Path) -> io::Result<()> {
        let dir = file.parent().expect("a file in a cache's folder");
        let lock = dir.join("lock");
        let Ok(_held) = Lock::alone(&lock, "another run uses this folder") else { return Ok(()) };
        let unless = |done: io::Result<()>, kind| match done {
            Err(e) if e.kind() == kind => Ok(()),
            done => done,
        };
        unless(fs::remove_file(file), io::ErrorKind::NotFound)?;
        if fs::read_dir(dir)?.count() > 1 {
            return Ok(());
        }
        // From here on another run may have the folder, with a lock of its own in it.
        fs::remove_file(lock)?;
        unless(fs::remove_dir(dir), io::ErrorKind::DirectoryNotEmpty)
    }

    /// Its values.
    ///
    /// # Panics
    ///
    /// Where it was opened for training.
    pub fn values(&self) -> &ValueStore {
        self.values.as_ref().expect("opened with its values")
    }

    /// The same, to add some.
    ///
    /// # Panics
    ///
    /// Where it was opened for training.
    pub fn values_mut(&mut self) -> &mut ValueStore {
        self.values.as_mut().expect("opened with its values")
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name for the weights of the model that is edited.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// From now on the weights have these changes, and their name is another.
    pub fn change_weights(&mut self, changes: &[MatrixChange]) {
        let mut all = Fingerprint::default();
        all.field(self.weights.as_bytes());
        for MatrixChange { id, delta, .. } in changes {
            all.field(id.to_string().as_bytes());
            all.field(check(delta, None).as_bytes());
        }
        self.weights = all.hex();
    }

    fn layer(&self, key: &str) -> PathBuf {
        self.dir.join(format!("layer-{key}.safetensors"))
    }

    /// A finished layer of sizes (out, in). One that cannot be read is made again.
    pub fn lookup(&self, key: &str, [out, inner]: [usize; 2]) -> Option<SolvedLayer> {
        let shard = Shard::open(&self.layer(key)).ok()?;
        let header = shard.header();
        let matrix = |name: &str, rows: usize| {
            let entry = header.tensors.get(name).filter(|e| e.dtype == DType::F32.name())?;
            let &[n, columns] = &entry.shape[..] else { return None };
            let mut values = vec![0.0f32; n * columns];
            DType::F32.widen(&shard.bytes(&entry.range), &mut values);
            (n == rows).then_some((values, columns))
        };
        let delta = match (matrix("left", out), matrix("right", inner), matrix("delta", out)) {
            (Some((left, r)), Some((right, s)), None) if r == s => {
                Delta::LowRank { left, right, r }
            }
            (None, None, Some((delta, columns))) if columns == inner => Delta::Dense(delta),
            _ => return None,
        };
        let keys = matrix("keys", inner).map(|(values, n)| FactKeys { values, n });
        let number = |name| header.metadata.get(name).map(|x| x.parse()).transpose().ok();
        let (ridge, s) = (number(RIDGE)?, number(S)?);
        let whole = header.metadata.get(CHECK) == Some(&check(&delta, keys.as_ref()));
        whole.then_some(SolvedLayer { delta, ridge, s, keys })
    }

    /// Stores the change of a layer of sizes (out, in).
    ///
    /// # Errors
    ///
    /// A folder that cannot be written.
    pub fn store(&self, key: &str, [out, inner]: [usize; 2], layer: &SolvedLayer) -> Result<()> {
        let SolvedLayer { delta, ridge, s, keys } = layer;
        let mut parts: Vec<(&str, [usize; 2], &[f32])> = match delta {
            Delta::LowRank { left, right, r } => {
                vec![("left", [out, *r], left), ("right", [inner, *r], right)]
            }
            Delta::Dense(delta) => vec![("delta", [out, inner], delta)],
        };
        parts.extend(keys.as_ref().map(|keys| ("keys", [inner, keys.n], &keys.values[..])));
        let item = |(name, shape, _): &(&str, [usize; 2], &[f32])| Item {
            name: (*name).to_owned(),
            dtype: DType::F32.into(),
            shape: shape.to_vec(),
        };
        let items: Vec<Item> = parts.iter().map(item).collect();
        let mut metadata = BTreeMap::from([(CHECK.to_owned(), check(delta, keys.as_ref()))]);
        let numbers = [(RIDGE, ridge), (S, s)];
        for (name, number) in numbers {
            metadata.extend(number.map(|x| (name.to_owned(), format!("{x:e}"))));
        }
        write::write(&self.layer(key), &metadata, &items, &mut |i, out| {
            out.write_all(bytemuck::cast_slice(parts[i].2))
        })
    }
}

/// A name for the values of a change and of its keys.
fn check(delta: &Delta, keys: Option<&FactKeys>) -> String {
    let mut all = Fingerprint::default();
    match delta {
        Delta::LowRank { left, right, .. } => {
            all.add(bytemuck::cast_slice(left));
            all.add(bytemuck::cast_slice(right));
        }
        Delta::Dense(delta) => all.add(bytemuck::cast_slice(delta)),
    }
    if let Some(keys) = keys {
        all.field(b"keys");
        all.add(bytemuck::cast_slice(&keys.values));
    }
    all.hex()
}
