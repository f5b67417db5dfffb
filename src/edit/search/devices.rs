//! The searches of many facts on several devices.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::run::{Each, SearchFact, find_on_device};
use super::settings::Search;
use crate::base::{Progress, Result, Stage};
use crate::model::Model;

/// Searches v* for many facts, as many at a time as fit in `room` bytes of each device, or in what
/// one of several has to spare where that is less; `each` gets the number of a fact and its value
/// as soon as it is found. What is found does not depend on `room`, nor on which other facts there
/// are.
///
/// # Errors
///
/// Numbers that are not finite, naming the fact; cancellation; what `each` returns.
pub fn find_all(
    model: &Model,
    facts: &[SearchFact],
    search: &Search,
    room: u64,
    progress: &dyn Progress,
    each: Each,
) -> Result<()> {
    let models = model.everywhere()?;
    let n = models.len();
    if n == 1 {
        return find_on_device(model, facts, search, room, progress, each);
    }
    // Every n-th fact on each device. What a fact gets does not depend on the others.
    let each = Mutex::new(each);
    let done = AtomicU64::new(0);
    let one = |i: usize, model: &Model| {
        let numbers: Vec<usize> = (i..facts.len()).step_by(n).collect();
        let own: Vec<SearchFact> = numbers.iter().map(|&fact| facts[fact]).collect();
        let room = model.spare().map_or(room, |spare| room.min(spare));
        find_on_device(model, &own, search, room, &FactsOnly(progress), &mut |j, value| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress.at(Stage::Fact, done, facts.len() as u64);
            each.lock().unwrap_or_else(PoisonError::into_inner)(numbers[j], value)
        })
    };
    std::thread::scope(|scope| {
        let one = &one;
        let started = |(i, model)| scope.spawn(move || one(i, model));
        let threads: Vec<_> = models.iter().enumerate().map(started).collect();
        let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| resume_unwind(p)));
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

/// The progress of one of several devices: facts are counted over all of them.
struct FactsOnly<'a>(&'a dyn Progress);

impl Progress for FactsOnly<'_> {
    fn at(&self, _: Stage, _: u64, _: u64) {}

    fn warn(&self, sentence: &str) {
        self.0.warn(sentence);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
