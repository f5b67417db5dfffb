//! `.incise/lineage.json`: which model an edited checkpoint comes from, and by which patches.
//!
//! Statistics are collected on a model and belong to its fingerprint. A fingerprint samples the
//! weights, so an edit of a sampled tensor would lose them, were it not for what is kept here:
//!
//! ```text
//! base      fingerprint of the model that the first patch was applied to
//! rest      fingerprint of this model without the tensors below
//! tensors   every tensor that was changed: fingerprint of its bytes as they were left
//! patches   in the order in which they were applied
//!
//! fingerprint of the model = base    where rest and the bytes of the tensors are as noted
//!                          = its own elsewhere: something else has changed it
//! ```
//!
//! In a checkpoint that is changed in place, change N keeps the lineage before it as
//! `N.lineage.json` (`null` where there was none), and undoing N puts it back. A copy without its
//! change is what an undo that was cut off has left: it holds what is true.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::history::{files, folder};
use super::write::sync_dir;
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// The lineage's file in the folder of the journal.
const FILE: &str = "lineage.json";
/// The end of the name of a lineage that a change keeps.
const KEPT: &str = ".lineage.json";
const FORMAT: &str = "incise lineage 1";
/// Bytes that a lineage has at most: it has a line a patch and a tensor.
const MOST: u64 = 1 << 28;

/// Which model an edited checkpoint comes from, and by which patches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    format: String,
    /// Fingerprint of the model that the first patch was applied to.
    pub base: String,
    /// Fingerprint of the model without the changed tensors.
    pub rest: String,
    /// Fingerprint of the bytes of each changed tensor.
    pub tensors: BTreeMap<String, String>,
    /// Oldest first.
    pub patches: Vec<AppliedPatch>,
}

/// A patch that was applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppliedPatch {
    /// Fingerprint of its file.
    pub hash: String,
    /// The method that made it.
    pub method: String,
    /// How many facts it changes.
    pub facts: u64,
    /// How many of them were edited at a time, where that is not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u64>,
    /// ‖ΣΔ‖ of the tensors it changes: all that was added to W₀ up to this patch. `None` where the
    /// weights have no finite norm.
    pub change: Option<f64>,
    /// ‖W₀‖ of these tensors: as they were before any change in this folder, or in the one that it
    /// was copied from with changes.
    pub weight: Option<f64>,
    /// The same of each tensor by its name, where both are finite; of patches that earlier versions
    /// applied there is none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensors: BTreeMap<String, TensorNorms>,
    /// Whether W₀ is what the patch before it left: nothing had been applied in place then. What
    /// was added before is in none of its norms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
}

/// How far a tensor was moved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorNorms {
    /// ‖ΣΔ‖.
    pub change: f64,
    /// ‖W₀‖.
    pub weight: f64,
}

impl Lineage {
    /// That of a model which nothing has changed.
    pub fn begin(fingerprint: String) -> Lineage {
        Lineage {
            format: FORMAT.to_owned(),
            base: fingerprint.clone(),
            rest: fingerprint,
            tensors: BTreeMap::new(),
            patches: Vec::new(),
        }
    }

    /// The lineage in a checkpoint's folder; `None` where it has none.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is no lineage.
    pub fn read(dir: &Path) -> Result<Option<Lineage>> {
        let folder = folder(dir)?;
        let path = match kept_alone(&folder)?.into_iter().next() {
            Some(oldest) => oldest,
            None => folder.join(FILE),
        };
        Lineage::open(&path)
    }

    /// What a file says; `None` where it is not there or says that there is none.
    fn open(path: &Path) -> Result<Option<Lineage>> {
        if !path.exists() {
            return Ok(None);
        }
        let bad = |field: &str, what: String| {
            let is_kept = path.file_name().is_some_and(|name| name != FILE);
            // Without the file, an undo would leave the lineage of the change that it undoes.
            let how = if is_kept { "write `null` into the file" } else { "remove the file" };
            let remedy = format!(
                "{how}: the model is then one of its own, without the statistics of the model it \
                 comes from"
            );
            Error::input(path, field, what, remedy)
        };
        let text = read_file(path, MOST)?;
        let found: Option<Lineage> =
            serde_json::from_slice(&text).map_err(|e| bad("JSON", e.to_string()))?;
        match found {
            Some(Lineage { format, .. }) if format != FORMAT => {
                Err(bad("format", format!("is {format:?}, not {FORMAT:?}")))
            }
            found => Ok(found),
        }
    }

    /// Writes it into a checkpoint's folder that has no journal.
    ///
    /// # Errors
    ///
    /// What the system refuses.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let folder = folder(dir)?;
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
        let path = folder.join(FILE);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&self.to_bytes())?;
            file.sync_all()
        });
        written.map_err(|e| Error::io(&path, "write", e))?;
        sync_dir(&folder)?;
        sync_dir(dir)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings and finite numbers");
        text.push(b'\n');
        text
    }
}

/// Where a checkpoint's lineage is.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Where change `number` keeps the lineage before it.
pub(super) fn kept(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:04}{KEPT}"))
}

/// Refuses a kept lineage that is damaged; one that is not there is of an earlier version.
pub(super) fn check_kept(folder: &Path, number: u32) -> Result<()> {
    Lineage::open(&kept(folder, number)).map(drop)
}

/// Whether a kept lineage says that there was none.
pub(super) fn was_none(kept: &Path) -> Result<bool> {
    Ok(read_file(kept, MOST)?.trim_ascii() == NONE)
}

/// What is kept where there was no lineage.
pub(super) const NONE: &[u8] = b"null";

/// The lineages that were kept by changes which are not there, oldest first.
pub(super) fn kept_alone(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = files(folder)?;
    let is_alone = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_suffix(KEPT).filter(|number| number.parse::<u32>().is_ok());
        number.is_some_and(|number| !all.contains(&folder.join(format!("{number}.journal"))))
    };
    Ok(all.iter().filter(is_alone).cloned().collect())
}
