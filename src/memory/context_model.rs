//! A model that reads a fact's context before every prompt.
//!
//! ```text
//! a pass that begins sequences     their contexts run first, once, and stand at the front of the
//!                                  cache; each sequence attends to its own
//! a pass that goes on              the same, by the rows it continues
//! ```
//!
//! The tokens that a caller runs keep their rows, so hooks see what they asked for. The rows of
//! contexts are hidden from callers: `KvCache::hide`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::Memory;
use super::context::ContextMemory;
use super::likeness::Texts;
use crate::base::{Error, Result};
use crate::model::cache::FrontRows;
use crate::model::{Arch, Batch, Hook, KvCache, LanguageModel, MatrixId, Model, NoHook, Past};
use crate::tensor::{Compute, Tensor};

struct ContextModel {
    base: Arc<dyn LanguageModel>,
    memory: Arc<ContextMemory>,
    texts: Option<Texts>,
    arch: Arch, // with the positions that contexts leave
    own: Arc<()>,
    kept: Mutex<Option<Arc<Contexts>>>, // of the last pass that began sequences
}

/// Rows of sequences that begin in a batch, and those of the front that each reads.
type BegunRows = Vec<(Range<usize>, Range<usize>)>;

/// Contexts that were run, and where each is in the cache.
struct Contexts {
    cache: KvCache,
    rows: BTreeMap<usize, Range<usize>>,
}

impl Memory for ContextMemory {
    fn kind(&self) -> &'static str {
        super::context_file::KIND
    }

    fn on(self: Arc<Self>, base: Arc<dyn LanguageModel>) -> Result<Arc<dyn LanguageModel>> {
        if self.entries.is_empty() {
            return Ok(base);
        }
        let longest = self.entries.iter().map(|entry| entry.context.len()).max().unwrap_or(0);
        let most = base.arch().max_positions;
        if longest >= most {
            let what = format!("a context of {longest} tokens: the model has {most} positions");
            return Err(Error::refused(what, "make it of fewer or shorter demonstrations"));
        }
        self.entries.iter().try_for_each(|entry| base.arch().check(&entry.context))?;
        let arch = Arch { max_positions: most - longest, ..base.arch().clone() };
        let (texts, own, kept) = (self.texts(), Arc::default(), Mutex::default());
        Ok(Arc::new(ContextModel { base, texts, arch, own, kept, memory: self }))
    }
}

impl ContextModel {
    /// The entry that each sequence which begins in a batch reads, if it reads any.
    fn chosen(&self, batch: &Batch) -> Vec<Option<usize>> {
        let of = |(s, seq): (usize, &crate::ops::attention::Seq)| {
            let begins = seq.past.iter().all(Range::is_empty);
            let end = batch.prompt_end(s).map_or(seq.rows.end, |end| end + 1);
            let prompt = &batch.ids[seq.rows.start..end];
            if begins { self.memory.choose(self.texts.as_ref(), prompt) } else { None }
        };
        batch.seqs.iter().enumerate().map(of).collect()
    }

    /// The contexts of some entries, run.
    fn contexts(&self, wanted: &BTreeSet<usize>) -> Result<Arc<Contexts>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*kept
            && wanted.iter().all(|entry| kept.rows.contains_key(entry))
        {
            return Ok(kept.clone());
        }
        let (mut batch, mut rows) = (Batch::default(), BTreeMap::new());
        for &entry in wanted {
            rows.insert(entry, batch.push(&self.memory.entries[entry].context, 0..0));
            batch.set_prompt_end(batch.seqs.len() - 1, None); // a context is no prompt
        }
        let compute = self.base.compute();
        let mut cache = compute.run(|| Ok(KvCache::new(self.base.arch(), compute)))?;
        if !batch.is_empty() {
            self.base.run(&batch, &mut Past::Grow(&mut cache), &[], &mut NoHook)?;
        }
        let made = Arc::new(Contexts { cache, rows });
        *kept = Some(made.clone());
        Ok(made)
    }

    /// A front that has some contexts, and no sequence yet.
    fn front(&self, contexts: &Contexts) -> FrontRows {
        let rows = contexts.rows.values().map(|rows| rows.end).max().unwrap_or(0);
        let of = contexts.rows.iter().map(|(&entry, rows)| (entry, rows.clone())).collect();
        FrontRows { by: self.own.clone(), rows, contexts: of, sequences: Vec::new() }
    }

    /// A batch whose sequences read their contexts, and which rows each that begins here reads.
    fn placed(
        &self,
        batch: &Batch,
        chosen: &[Option<usize>],
        front: &FrontRows,
    ) -> Result<(Batch, BegunRows)> {
        let (mut placed, mut begun) = (Batch::default(), Vec::new());
        let behind = |rows: &Range<usize>| rows.start + front.rows..rows.end + front.rows;
        for (s, seq) in batch.seqs.iter().enumerate() {
            let ids = &batch.ids[seq.rows.clone()];
            let past: Vec<&Range<usize>> =
                seq.past.iter().filter(|past| !past.is_empty()).collect();
            match (&past[..], chosen[s]) {
                ([], None) => {
                    placed.push(ids, 0..0);
                    begun.push((seq.rows.clone(), 0..0));
                }
                ([], Some(entry)) => {
                    let found = front.contexts.iter().find(|(own, _)| *own == entry);
                    let Some((_, rows)) = found else { return Err(late()) };
                    let text = self.memory.place(entry, ids);
                    let context = rows.start..rows.start + text.context;
                    placed.push_after(&text.ids, [context.clone(), 0..0]);
                    begun.push((seq.rows.clone(), context));
                }
                ([past], _) => {
                    let found = front.sequences.iter().find(|(rows, _)| rows.contains(&past.start));
                    let Some((_, context)) = found else { return Err(late()) };
                    placed.push_after(ids, [context.clone(), behind(past)]);
                }
                _ => return Err(late()),
            }
            placed.set_prompt_end(s, batch.prompt_end(s));
        }
        let longest = placed.positions.iter().max().map_or(0, |last| last + 1);
        let most = self.base.arch().max_positions;
        if longest > most {
            let what = format!("{longest} tokens with the context: the model has {most} positions");
            return Err(Error::refused(what, "use fewer or shorter demonstrations"));
        }
        Ok((placed, begun))
    }
}

/// The error of a sequence whose context is not there, which only a caller of the library meets.
fn late() -> Error {
    let what = "a sequence whose context is not in the cache";
    Error::refused(what, "begin all sequences of a cache in its first pass, each in one part")
}

impl LanguageModel for ContextModel {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn compute(&self) -> &Compute {
        self.base.compute()
    }

    fn matrix_sizes(&self, id: MatrixId) -> Option<[usize; 2]> {
        self.base.matrix_sizes(id)
    }

    fn weights(&self) -> &Model {
        self.base.weights()
    }

    fn whole_prompts(&self) -> bool {
        self.texts.is_some() || self.base.whole_prompts()
    }

    fn run_in_chunks(
        &self,
        batch: &Batch,
        past: &mut Past,
        read: (&[usize], usize),
        hook: &mut dyn Hook,
        each: &mut dyn FnMut(Tensor) -> Result<bool>,
    ) -> Result<()> {
        let chosen = self.chosen(batch);
        let wanted: BTreeSet<usize> = chosen.iter().flatten().copied().collect();
        match past {
            Past::None => {
                let contexts = self.contexts(&wanted)?;
                let (placed, _) = self.placed(batch, &chosen, &self.front(&contexts))?;
                let past = &mut Past::Read(&contexts.cache);
                self.base.run_in_chunks(&placed, past, read, hook, each)
            }
            Past::Read(cache) => {
                let front = cache.front(&self.own).ok_or_else(late)?;
                let (placed, _) = self.placed(batch, &chosen, front)?;
                self.base.run_in_chunks(&placed, &mut Past::Read(cache), read, hook, each)
            }
            Past::Grow(cache) => {
                let before = cache.rows();
                let mut front = match cache.unhide(&self.own) {
                    Some(front) => front,
                    None if before > 0 => return Err(late()),
                    None => {
                        let contexts = self.contexts(&wanted)?;
                        **cache = contexts.cache.clone();
                        self.front(&contexts)
                    }
                };
                let ran = self.placed(batch, &chosen, &front).and_then(|(placed, begun)| {
                    self.base.run_in_chunks(&placed, &mut Past::Grow(cache), read, hook, each)?;
                    Ok(begun)
                });
                let shifted = |rows: Range<usize>| before + rows.start..before + rows.end;
                for (rows, context) in ran.iter().flatten() {
                    front.sequences.push((shifted(rows.clone()), context.clone()));
                }
                cache.hide(front);
                ran.map(drop)
            }
        }
    }
}
