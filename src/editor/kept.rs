//! What is kept of an edit's work, so that the same edit goes on after it was cut off.

use super::prepared::Prepared;
use crate::base::{Error, Result};
use crate::edit::cache::Cache;
use crate::edit::method::Batching;
use crate::edit::value_store::ValueStore;
use crate::edit::values;
use crate::model::lineage::weights_name;

impl Prepared {
    /// Opens the cache for this model's weights, and adds the values that are given.
    pub(super) fn open_cache(&self) -> Result<Option<Cache>> {
        let settings = &self.settings;
        let keeps = self.method.batching().keeps();
        let Some(dir) = settings.cache_dir().filter(|_| keeps) else { return Ok(None) };
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

    /// Removes the trainings that were kept beside the output, once it is written. A folder that
    /// was named is its owner's.
    pub(super) fn forget_trainings(&self) {
        let (settings, trains) = (&self.settings, self.method.batching() == Batching::Epochs);
        let Some(dir) = settings.cache_dir().filter(|_| trains && settings.cache.is_none()) else {
            return;
        };
        if dir.exists()
            && let Err(e) = Cache::remove_trainings(&dir)
        {
            let dir = dir.display();
            settings.progress.warn(&format!("{dir}: cannot be removed, and is of no use: {e}"));
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

    /// An interruption, with what is kept of the work.
    pub(super) fn say_where_it_is(&self, e: Error, cached: bool) -> Error {
        match (e, self.settings.cache_dir().filter(|_| cached)) {
            (Error::Interrupted { .. }, Some(dir)) => Error::Interrupted {
                kept: format!("what was found is in {}: run the same again", dir.display()),
            },
            (e, _) => e,
        }
    }
}
