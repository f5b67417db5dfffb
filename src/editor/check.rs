//! The search's first look on a GPU, checked by the CPU beside the search.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::prepared::Prepared;
use crate::base::{Progress, Remedy, Result, Stage};
use crate::edit::search::first_look::FirstLook;
use crate::model::Model;
use crate::tensor::Precision;

impl Prepared {
    /// Runs a search on the model's device. Where that is a GPU, the CPU computes the first fact's
    /// first look meanwhile, and the search ends as soon as the two differ.
    ///
    /// # Errors
    ///
    /// The search's; two looks that differ by more than the GPU's precision explains.
    pub(super) fn checked<T>(&self, search: impl FnOnce(&dyn Progress) -> Result<T>) -> Result<T> {
        let progress = &*self.settings.progress;
        let (model, by) = (self.model(), self.search());
        let fact = self.own_facts().first().map(|fact| fact.rows.clone());
        let Some(rows) = fact.filter(|_| !self.settings.no_check) else { return search(progress) };
        if model.compute.engine().is_none() {
            return search(progress);
        }
        let look = FirstLook::of(model, &rows, &by)?;
        let on_host = || {
            let host = |precision: Precision| {
                let host = Model::load(&self.opened.checkpoint, precision)?;
                FirstLook::of(&host, &rows, &by)
            };
            let [single, double] = [host(Precision::F32)?, host(Precision::F64)?];
            look.hold(&self.opened.device.title(), model.search_precision, [&single, &double])
        };
        let wrong = AtomicBool::new(false);
        thread::scope(|scope| {
            let check = scope.spawn(|| {
                let held = self.settings.run(on_host);
                wrong.store(held.is_err(), Ordering::Relaxed);
                held
            });
            let done = search(&Watched { progress, wrong: &wrong });
            check.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            done
        })
    }
}

/// Progress of a search that is to end where the GPU is wrong.
struct Watched<'a> {
    progress: &'a dyn Progress,
    wrong: &'a AtomicBool,
}

impl Progress for Watched<'_> {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        self.progress.at(stage, done, total);
    }

    fn detail(&self, words: &str) {
        self.progress.detail(words);
    }

    fn remark(&self, sentence: &str) {
        self.progress.remark(sentence);
    }

    fn warn(&self, sentence: &str) {
        self.progress.warn(sentence);
    }

    fn advise(&self, sentence: &str, remedy: &Remedy) {
        self.progress.advise(sentence, remedy);
    }

    fn cancelled(&self) -> bool {
        self.wrong.load(Ordering::Relaxed) || self.progress.cancelled()
    }
}
