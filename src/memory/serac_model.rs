//! A model beside which another answers prompts about facts (`serac.rs` says which).
//!
//! ```text
//! a pass that begins sequences     each prompt is compared with the facts: decided once, for the
//!                                  sequence
//! sequences about a fact           run in the counterfactual model too, behind the fact, by keys
//!                                  and values of its own (`KvCache::side`); its logits take the
//!                                  place of the base's
//! all sequences                    run in the base, so its rows are those that callers count, and
//!                                  what is about no fact is answered to the same bytes
//! ```
//!
//! Hooks see the base. Comparing a prompt costs half a pass of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::Memory;
use super::serac::SeracMemory;
use crate::base::{Error, Result};
use crate::model::cache::{SideCache, SideRows};
use crate::model::{Arch, Batch, Hook, KvCache, LanguageModel, MatrixId, Model, NoHook, Past};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::rows;
use crate::tensor::{Compute, Tensor};

struct SeracModel {
    base: Arc<dyn LanguageModel>,
    counterfactual: Model,
    memory: Arc<SeracMemory>,
    arch: Arch, // with the positions that facts leave
    own: Arc<()>,
}

/// How a sequence goes on in the counterfactual model.
enum SideText {
    /// It begins, behind a fact.
    Begins(usize),
    /// Behind its fact and the rows of its own that are there.
    GoesOn([Range<usize>; 2]),
}

/// Sequences of a batch as the counterfactual model runs them.
#[derive(Default)]
struct SideBatch {
    batch: Batch,
    parts: Vec<SideRows>, // by rows of the caller's batch and of this one
}

impl Memory for SeracMemory {
    fn kind(&self) -> &'static str {
        super::serac_file::KIND
    }

    fn on(self: Arc<Self>, base: Arc<dyn LanguageModel>) -> Result<Arc<dyn LanguageModel>> {
        if self.facts.entries.is_empty() {
            return Ok(base);
        }
        let model = base.weights();
        let fits = |(&id, (sizes, _)): (&MatrixId, &([usize; 2], Vec<f32>))| {
            base.matrix_sizes(id) == Some([sizes[1], sizes[0]])
        };
        let wide = self.scope.len() / super::serac::SCOPE_WIDTH;
        if wide != model.arch.width || !self.matrices.iter().all(fits) {
            let what = "facts whose matrices are not of this model's sizes";
            return Err(Error::refused(what, "use them with the model they were made for"));
        }
        let facts = self.facts.entries.iter();
        let longest = facts.map(|fact| fact.context.len()).max().unwrap_or(0);
        if longest >= model.arch.max_positions {
            let most = model.arch.max_positions;
            let what = format!("a fact of {longest} tokens: the model has {most} positions");
            return Err(Error::refused(what, "edit with shorter prompts and targets"));
        }
        let most = base.arch().max_positions.min(model.arch.max_positions - longest);
        let arch = Arch { max_positions: most, ..base.arch().clone() };
        let mut counterfactual = model.clone();
        for (&id, (_, values)) in &self.matrices {
            let values = values.iter().map(|&w| w.into()).collect();
            counterfactual = counterfactual.with_values(id, values);
        }
        Ok(Arc::new(SeracModel { base, counterfactual, memory: self, arch, own: Arc::default() }))
    }
}

/// The error of a sequence in pieces, which only a caller of the library meets.
fn apart() -> Error {
    let what = "a sequence that another model answers for, in pieces";
    Error::refused(what, "continue a sequence from its first row on, in one piece")
}

impl SeracModel {
    /// How the sequences of a batch that are about a fact go on; the others have none. Those of
    /// which no row is read need none either, where nothing comes after this pass.
    fn side_texts(
        &self,
        batch: &Batch,
        past: &Past,
        read: &[usize],
    ) -> Result<BTreeMap<usize, SideText>> {
        let side = past.cache().and_then(|cache| cache.side(&self.own));
        let mut begun: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new(); // sequences by prompt
        let mut texts = BTreeMap::new();
        for (s, seq) in batch.seqs.iter().enumerate() {
            let is_read = read.iter().any(|row| seq.rows.contains(row));
            if !is_read && !matches!(past, Past::Grow(_)) {
                continue;
            }
            let before: Vec<&Range<usize>> = seq.past.iter().filter(|p| !p.is_empty()).collect();
            match (&before[..], batch.prompt_end(s)) {
                ([], Some(end)) => {
                    begun.entry(&batch.ids[seq.rows.start..=end]).or_default().push(s);
                }
                ([], None) => {}
                (_, Some(_)) => {
                    let what = "a prompt in several passes, beside a memory that reads it whole";
                    let remedy = "run the prompt in one pass, and attach this memory last";
                    return Err(Error::refused(what, remedy));
                }
                (before, None) => {
                    if let Some(past) = side.map_or(Ok(None), |side| goes_on(side, before))? {
                        texts.insert(s, SideText::GoesOn(past));
                    }
                }
            }
        }
        let prompts: Vec<&[u32]> = begun.keys().copied().collect();
        let points = self.memory.points(self.base.weights(), &prompts)?;
        for (point, sequences) in points.iter().zip(begun.values()) {
            if let Some(fact) = self.memory.about(point) {
                texts.extend(sequences.iter().map(|&s| (s, SideText::Begins(fact))));
            }
        }
        Ok(texts)
    }

    /// These sequences as the counterfactual model runs them.
    fn side_batch(&self, batch: &Batch, texts: &BTreeMap<usize, SideText>) -> Result<SideBatch> {
        let mut side = SideBatch::default();
        let facts = &self.memory.facts;
        for (&s, text) in texts {
            let rows = batch.seqs[s].rows.clone();
            let ids = &batch.ids[rows.clone()];
            let (at, context) = match text {
                SideText::Begins(fact) => {
                    let placed = facts.place(*fact, ids);
                    let context = &facts.entries[*fact].context[..placed.context];
                    let own = side.batch.push(&[context, &placed.ids].concat(), 0..0);
                    (own.start + context.len(), context.len())
                }
                SideText::GoesOn(past) => (side.batch.push_after(ids, past.clone()).start, 0),
            };
            side.parts.push(SideRows { rows, at, context });
        }
        let longest = side.batch.positions.iter().max().map_or(0, |last| last + 1);
        let most = self.counterfactual.arch.max_positions;
        if longest > most {
            let what = format!("{longest} tokens behind a fact: the model has {most} positions");
            return Err(Error::refused(what, "use a shorter prompt"));
        }
        // Where the caller's numbers do not depend on how many sequences there are, nor do these.
        if batch.len() >= BATCH_INVARIANT_ROWS {
            side.batch.fill(BATCH_INVARIANT_ROWS);
        }
        Ok(side)
    }

    /// Runs them: logits, and which of their rows each row of the caller's gets.
    fn answers(
        &self,
        side: &SideBatch,
        past: &mut Past,
        read: &[usize],
    ) -> Result<(Tensor, BTreeMap<usize, usize>)> {
        let mut chosen = Vec::new();
        let mut of = BTreeMap::new();
        for &row in read {
            if let Some(part) = side.parts.iter().find(|part| part.rows.contains(&row)) {
                of.entry(row).or_insert_with(|| {
                    chosen.push(part.at + row - part.rows.start);
                    chosen.len() - 1
                });
            }
        }
        if let Some(&last) = chosen.last()
            && side.batch.len() >= BATCH_INVARIANT_ROWS
        {
            chosen.resize(chosen.len().max(BATCH_INVARIANT_ROWS), last);
        }
        let model = &self.counterfactual;
        let z = model.compute.run(|| model.run(&side.batch, past, &chosen, &mut NoHook))?;
        Ok((z, of))
    }
}

/// Where the past of a sequence is among the rows of the other model; nothing where the base
/// answers for it.
fn goes_on(side: &SideCache, before: &[&Range<usize>]) -> Result<Option<[Range<usize>; 2]>> {
    let part = |row: usize| side.parts.iter().find(|part| part.rows.contains(&row));
    let Some(first) = part(before[0].start) else { return Ok(None) };
    let [past] = before else { return Err(apart()) };
    let last = part(past.end - 1).ok_or_else(apart)?;
    let end = last.at + past.end - last.rows.start;
    if first.rows.start != past.start || end - first.at != past.len() {
        return Err(apart());
    }
    Ok(Some([first.at - first.context..first.at, first.at..end]))
}

impl LanguageModel for SeracModel {
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
        true
    }

    fn run_in_chunks(
        &self,
        batch: &Batch,
        past: &mut Past,
        read: (&[usize], usize),
        hook: &mut dyn Hook,
        each: &mut dyn FnMut(Tensor) -> Result<bool>,
    ) -> Result<()> {
        let texts = self.side_texts(batch, past, read.0)?;
        if texts.is_empty() {
            return self.base.run_in_chunks(batch, past, read, hook, each);
        }
        let side = self.side_batch(batch, &texts)?;
        let compute = self.compute();
        // What the counterfactual model leaves, if anything goes on from it.
        let mut left = None;
        let (z, of) = match past {
            Past::None => self.answers(&side, &mut Past::None, read.0)?,
            Past::Read(cache) => {
                let own = cache.side(&self.own).map(|side| &side.cache);
                self.answers(&side, &mut own.map_or(Past::None, Past::Read), read.0)?
            }
            Past::Grow(cache) => {
                let empty = || KvCache::new(&self.counterfactual.arch, compute);
                let mut own = match cache.take_side(&self.own) {
                    Some(own) => own,
                    None => SideCache {
                        by: self.own.clone(),
                        cache: compute.run(|| Ok(empty()))?,
                        parts: Vec::new(),
                    },
                };
                let [before, there] = [cache.rows(), own.cache.rows()];
                let answers = self.answers(&side, &mut Past::Grow(&mut own.cache), read.0)?;
                own.parts.extend(side.parts.iter().map(|part| SideRows {
                    rows: before + part.rows.start..before + part.rows.end,
                    at: there + part.at,
                    context: part.context,
                }));
                left = Some(own);
                answers
            }
        };
        let mut rows_read = read.0.iter();
        self.base.run_in_chunks(batch, past, read, hook, &mut |mut logits| {
            let n = logits.shape()[0];
            let others = rows_read.by_ref().take(n).map(|row| of.get(row)).enumerate();
            let others: Vec<(usize, usize)> =
                others.filter_map(|(i, other)| Some((i, *other?))).collect();
            compute.run(|| {
                for (i, other) in others {
                    rows::put(&z, other..other + 1, &mut logits, i);
                }
                Ok(())
            })?;
            each(logits)
        })?;
        if let (Past::Grow(cache), Some(left)) = (past, left) {
            cache.put_side(left); // a memory inside may have begun the cache anew
        }
        Ok(())
    }
}
