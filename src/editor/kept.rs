//! What is kept of an edit's work, so that the same edit goes on after it was cut off.

use std::path::{Path, PathBuf};

use super::prepared::Prepared;
use crate::base::{Error, Result};
use crate::edit::cache::Cache;
use crate::edit::value_store::ValueStore;
use crate::edit::values;
use crate::model::lineage::weights_name;

impl Prepared {
    /// Opens the cache for this model's weights, and adds the values that are given.
    pub(super) fn open_cache(&self) -> Result<Option<Cache>> {
        let settings = &self.settings;
        let Some(dir) = settings.cache_dir().filter(|_| self.method.keeps()) else {
            return Ok(None);
        };
        let weights = weights_name(&self.opened.checkpoint)?;
        if self.search().is_none() {
            return Cache::open_for_training(&dir, &weights).map(Some);
        }
        let mut cache = Cache::open(&dir, &weights)?;
        for file in &settings.values {
            cache.values_mut().add_all(&ValueStore::read(file)?)?;
        }
        Ok(Some(cache))
    }

    /// The trainings that were kept beside the output and serve no more once that is written. What
    /// is in a folder that was named is its owner's.
    pub(super) fn trainings_to_forget(&self, cache: Option<&Cache>) -> Vec<PathBuf> {
        let ours = cache.filter(|_| self.settings.cache.is_none());
        ours.map_or(Vec::new(), |cache| cache.trainings().to_vec())
    }

    /// Removes it.
    pub(super) fn forget_training(&self, file: &Path) {
        if let Err(e) = Cache::remove_training(file) {
            let file = file.display();
            let progress = &self.settings.progress;
            progress.warn(&format!("{file}: cannot be removed, and is of no use: {e}"));
        }
    }

    /// Says how many values an earlier run found.
    pub(super) fn remark_known(&self, cache: Option<&Cache>) {
        let (Some(cache), Some(search)) = (cache, self.search()) else { return };
        if cache.values().is_empty() {
            return;
        }
        let first = match self.settings.sequential {
            0 => &self.facts[..],
            n => &self.facts[..n.min(self.facts.len())],
        };
        let known = values::known(self.model(), cache, first, &search);
        let all = first.len();
        let sentence = format!("{known} of {all} values of the first batch were found before");
        self.settings.progress.remark(&sentence);
    }
}

/// An interruption, with where what was found is, if anything was.
pub(super) fn say_where_it_is(e: Error, cache: Option<&Cache>) -> Error {
    match (e, folder(cache)) {
        (Error::Interrupted { .. }, Some(dir)) => Error::Interrupted {
            kept: format!("what was found is in {}: run the same again", dir.display()),
        },
        (Error::Interrupted { .. }, None) => {
            Error::Interrupted { kept: "nothing was written".to_owned() }
        }
        (e, _) => e,
    }
}

/// An error of what comes after the search or the training, with the same.
pub(super) fn say_what_is_kept(e: Error, cache: Option<&Cache>) -> Error {
    match (e, folder(cache)) {
        (Error::Numeric { what, remedy }, Some(dir)) => {
            let what = format!("{what}, and what was found is in {}", dir.display());
            Error::Numeric { what, remedy }
        }
        (e, _) => say_where_it_is(e, cache),
    }
}

/// Where what was found is.
fn folder(cache: Option<&Cache>) -> Option<&Path> {
    cache.filter(|cache| cache.holds_work()).map(Cache::dir)
}
