//! A model with a codebook beside one of its matrices.
//!
//! ```text
//! at a prompt's last token    c ← the entry whose key is nearest to what the matrix reads, if that
//!                                 is within its radius: decided once, for the sequence
//! at the tokens replaced      what the matrix gives ← v_c
//! ```

use std::sync::Arc;

use super::Memory;
use super::codebook::{Codebook, Replacement};
use crate::base::{Error, Result};
use crate::model::cache::Choice;
use crate::model::{Arch, At, Batch, Hook, KvCache, LanguageModel, MatrixId, Model, Past, Site};
use crate::ops::codebook::{Chosen, nearest, replace};
use crate::ops::rows::Index;
use crate::tensor::{Compute, Tensor};

/// A model and a codebook.
struct CodebookModel {
    base: Arc<dyn LanguageModel>,
    book: Arc<Codebook>,
    keys: Tensor,   // (n, F)
    radii: Tensor,  // (n, 1)
    values: Tensor, // (n, D)
    own: Arc<()>,   // whose choices are whose
}

impl Memory for Codebook {
    fn kind(&self) -> &'static str {
        super::codebook_file::KIND
    }

    fn on(self: Arc<Self>, base: Arc<dyn LanguageModel>) -> Result<Arc<dyn LanguageModel>> {
        let sizes = self.sizes;
        let there = base.matrix_sizes(self.id);
        if there != Some(sizes) {
            let (id, wide) = (self.id, |[f, d]: [usize; 2]| format!("{f} to {d} wide"));
            let there = there.map_or("none".to_owned(), |sizes| format!("one {}", wide(sizes)));
            let what = format!("a codebook at {id}, {}: the model has {there} there", wide(sizes));
            return Err(Error::refused(what, "use the codebook with the model it was made for"));
        }
        let compute = base.compute().clone();
        if self.entries.is_empty() {
            return Ok(base);
        }
        let [f, d] = sizes;
        let n = self.entries.len();
        let all = |numbers: Vec<f32>, width: usize| {
            let numbers: Vec<f64> = numbers.into_iter().map(f64::from).collect();
            Tensor::of(&compute, &[n, width], &numbers)
        };
        let entries = &self.entries;
        let [keys, radii, values] = compute.run(|| {
            Ok([
                all(entries.iter().flat_map(|e| e.key.clone()).collect(), f),
                all(entries.iter().map(|e| e.radius).collect(), 1),
                all(entries.iter().flat_map(|e| e.value.clone()).collect(), d),
            ])
        })?;
        let own = Arc::default();
        Ok(Arc::new(CodebookModel { base, keys, radii, values, own, book: self }))
    }
}

/// Rows that get a value, by the choices of sequences.
struct Replaced {
    rows: Index,
    of: Index, // the choice of each
    chosen: Chosen,
}

/// What a pass looks up and replaces, around the hook of whoever runs it.
struct CodebookHook<'a> {
    model: &'a CodebookModel,
    inner: &'a mut dyn Hook,
    sites: Vec<Site>,
    queries: Index, // the rows of prompts' last tokens
    here: Replaced,
    earlier: Replaced, // by choices of passes before
}

impl CodebookModel {
    fn site(&self, at: At) -> Site {
        Site { layer: self.book.id.layer, at }
    }

    fn own_sites(&self) -> [Site; 2] {
        let matrix = self.book.id.matrix;
        [At::Input(matrix), At::Output(matrix)].map(|at| self.site(at))
    }

    /// The hook of a pass. Unwinds where the device is out of memory.
    ///
    /// # Errors
    ///
    /// A prompt that began in a pass before this one, whose first tokens would be replaced: what
    /// they get is chosen at its end.
    fn hook<'a>(
        &'a self,
        batch: &Batch,
        past: Option<&KvCache>,
        inner: &'a mut dyn Hook,
    ) -> Result<CodebookHook<'a>> {
        let compute = self.base.compute();
        let mut queries = Vec::new();
        let mut earlier = Vec::new();
        let [mut here_rows, mut here_of, mut earlier_rows, mut earlier_of] =
            [(); 4].map(|()| vec![]);
        for (s, seq) in batch.seqs.iter().enumerate() {
            if let Some(end) = batch.prompt_end(s) {
                let begun = seq.past.iter().any(|rows| !rows.is_empty());
                if begun && self.book.replacement != Replacement::Last {
                    let what = "a prompt in several passes, beside a memory that replaces what its \
                                first tokens give";
                    return Err(Error::refused(what, "run the prompt in one pass"));
                }
                let rows = self.book.replacement.rows(seq.rows.clone(), end);
                here_of.extend(rows.clone().map(|_| queries.len()));
                here_rows.extend(rows);
                queries.push(end);
            } else if let Some(cache) = past
                && self.book.replacement == Replacement::All
                && let Some(choice) = cache.decided(&self.own, &seq.past)
            {
                earlier_of.extend(seq.rows.clone().map(|_| earlier.len()));
                earlier_rows.extend(seq.rows.clone());
                earlier.push(choice.entry);
            }
        }
        let index = |rows: Vec<usize>| Index::new(compute, rows);
        let mut sites = inner.sites().to_vec();
        sites.extend(self.own_sites());
        Ok(CodebookHook {
            model: self,
            inner,
            sites,
            here: Replaced {
                rows: index(here_rows),
                of: index(here_of),
                chosen: Chosen::new(compute, queries.len()),
            },
            earlier: Replaced {
                rows: index(earlier_rows),
                of: index(earlier_of),
                chosen: Chosen::of(compute, &earlier),
            },
            queries: index(queries),
        })
    }
}

impl Hook for CodebookHook<'_> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, batch: &Batch, shown: &mut Tensor) {
        let CodebookModel { keys, radii, values, .. } = self.model;
        let [input, output] = self.model.own_sites();
        if site == input && !self.queries.is_empty() {
            nearest(shown, &self.queries, keys, radii, &mut self.here.chosen);
        }
        if site == output {
            for Replaced { rows, of, chosen } in [&self.here, &self.earlier] {
                if !rows.is_empty() {
                    replace(shown, rows, of, chosen, values);
                }
            }
        }
        if self.inner.sites().contains(&site) {
            self.inner.forward(site, batch, shown);
        }
    }

    fn backward(&mut self, site: Site, batch: &Batch, gradient: &Tensor) {
        if self.inner.sites().contains(&site) {
            self.inner.backward(site, batch, gradient);
        }
    }
}

impl LanguageModel for CodebookModel {
    fn arch(&self) -> &Arch {
        self.base.arch()
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
        self.book.replacement != Replacement::Last || self.base.whole_prompts()
    }

    fn run_in_chunks(
        &self,
        batch: &Batch,
        past: &mut Past,
        read: (&[usize], usize),
        hook: &mut dyn Hook,
        each: &mut dyn FnMut(Tensor) -> Result<bool>,
    ) -> Result<()> {
        let compute = self.base.compute();
        let before = past.cache().map_or(0, KvCache::rows);
        let cache = past.cache();
        let mut hook = compute.run(move || self.hook(batch, cache, hook))?;
        self.base.run_in_chunks(batch, past, read, &mut hook, each)?;
        if let Past::Grow(cache) = past {
            let chosen = compute.run(|| Ok(hook.here.chosen.read()))?;
            for (&row, entry) in hook.queries.iter().zip(chosen) {
                cache.decide(Choice { by: self.own.clone(), row: before + row, entry });
            }
        }
        Ok(())
    }
}
