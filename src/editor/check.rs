//! The search's first look on a GPU, checked by the CPU beside the search; and what an edit says of
//! who computed it.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::prepared::Prepared;
use crate::base::{Progress, Remedy, Result, Stage};
use crate::edit::facts::TokenizedFact;
use crate::edit::prompts::FactRows;
use crate::edit::search::Search;
use crate::edit::search::first_look::FirstLook;
use crate::gpu::{Engine, Proof};
use crate::model::{Model, SearchPrecision};
use crate::tensor::{Device, Precision};

impl Prepared {
    /// Runs a search on the model's device. Where that is a GPU, the CPU computes the first fact's
    /// first look meanwhile, and the search ends as soon as the two differ.
    ///
    /// # Errors
    ///
    /// The search's; two looks that differ by more than the GPU's precision explains.
    pub(super) fn checked<T>(&self, search: impl FnOnce(&dyn Progress) -> Result<T>) -> Result<T> {
        let progress = &*self.settings.progress;
        if self.first_look_checked() != Some(true) {
            return search(progress);
        }
        let facts = self.own_facts();
        let (fact, by) = (&facts[0], self.search().expect("was looked at"));
        let looks = self.looks(&fact.rows, &by)?;
        let [wrong, over] = [const { AtomicBool::new(false) }; 2];
        let mut held = Ok(());
        // In the pool that the search is in, whose only thread may be this one.
        let done = rayon::in_place_scope(|scope| {
            scope.spawn(|_| {
                let goes_on = || !over.load(Ordering::Relaxed) && !progress.cancelled();
                held = self.hold(&looks, fact, &by, &goes_on);
                wrong.store(held.is_err(), Ordering::Relaxed);
            });
            let done = search(&Watched { progress, wrong: &wrong });
            over.store(done.is_err(), Ordering::Relaxed);
            done
        });
        if held.is_err() {
            self.model().compute.engine().and_then(Engine::proof).map(Proof::forget);
        }
        held.and(done)
    }

    /// Whether the CPU checks the first look; `None` where it computes itself.
    pub(super) fn first_look_checked(&self) -> Option<bool> {
        self.model().compute.engine()?;
        let searches = self.search().is_some();
        Some(searches && !self.settings.no_check && !self.own_facts().is_empty())
    }

    /// What computes, for reports and patches: its name; what it proved before, by its hash, and
    /// whether the CPU checked its search's first look: `null` of the CPU, which is what others are
    /// held to.
    pub(super) fn computed_on(&self) -> Value {
        let proof = self.model().compute.engine().and_then(Engine::proof);
        json!({
            "name": self.opened.device.title(), "proof": proof.map(|proof| &proof.hash),
            "first_look_checked": self.first_look_checked(),
        })
    }

    /// The GPU's: exact, and as the search computes it where that is fast. An exact one shows far
    /// smaller faults.
    fn looks(&self, rows: &FactRows, by: &Search) -> Result<Vec<(SearchPrecision, FirstLook)>> {
        let mut precisions = vec![SearchPrecision::Exact, self.model().search_precision];
        precisions.dedup();
        let look = |precision| {
            let mut model = self.model().clone();
            model.search_precision = precision;
            Ok((precision, FirstLook::of(&model, rows, by)?))
        };
        precisions.into_iter().map(look).collect()
    }

    /// Holds the GPU's looks to the CPU's, as long as the search goes on.
    fn hold(
        &self,
        looks: &[(SearchPrecision, FirstLook)],
        fact: &TokenizedFact,
        by: &Search,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut host = Vec::new();
        for precision in [Precision::F32, Precision::F64] {
            if !goes_on() {
                return Ok(());
            }
            let model = Model::load(&self.opened.checkpoint, precision)?;
            host.push(FirstLook::of(&model, &fact.rows, by)?);
        }
        // Of several devices the first one looked.
        let device = match self.opened.device.now() {
            Device::Cuda(cards) => cards[0].gpu.title(),
            device => device.title(),
        };
        let of = format!("{device}, fact {}", fact.request.id);
        looks
            .iter()
            .try_for_each(|(precision, look)| look.hold(&of, *precision, [&host[0], &host[1]]))
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
