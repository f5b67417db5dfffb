//! Many facts at once: values, then layers, batch by batch.
//!
//! ```text
//! for each batch of facts, on the model as the batches before it left it:
//!     v*  ← the value search of every fact                                    edit/search
//!     Z   ← v*, perhaps anchored                                              edit/anchor.rs
//!     Δ_l ← the method's closed form, layer by layer                          edit/spread.rs
//!     Q_l ← Q_l + KKᵀ with the finished weights, where more is to come
//! ```
//!
//! Values and finished layers are kept as they are found, under a hash of everything they depend
//! on ([`Kept`]), so a run that was cut off goes on and ends with the same bytes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;

use super::alphaedit::{AlphaEdit, Bases, null_space};
use super::anchor;
use super::change::sum;
use super::emmet::Emmet;
use super::facts::Fact;
use super::kept::{Kept, Values};
use super::keys::Reader;
use super::memit::{Memit, Moments};
use super::outcome::{How, Outcome, probabilities};
use super::plan::Planned;
use super::pmet::Pmet;
use super::prompts::FactRows;
use super::search::memory::{SearchMemory, max_tokens};
use super::search::packing::suffix_tokens;
use super::search::{SearchFact, TargetValue, find_all};
use super::settings::{Form, Settings};
use super::spread::{ClosedForm, Keep, Layer, spread};
use super::state::State;
use crate::base::{Progress, Result, Rng, catch_device_error};
use crate::data::Contexts;
use crate::linalg::vector::norm;
use crate::model::{At, Model, Site};
use crate::stats::Moment;
use crate::store::{Delta, Fingerprint};

/// What an edit of many facts works with.
///
/// ```
/// use std::sync::Arc;
///
/// use incise::base::Quiet;
/// use incise::data::{Contexts, request};
/// use incise::edit::{batch::Batches, facts::facts, hparams::{Method, Values}, state::State};
/// use incise::model::{fingerprint, load};
/// use incise::stats::Moment;
/// use incise::{tensor::Device, text::Tokenizer};
///
/// # fn main() -> incise::Result<()> {
/// # let dir = std::path::Path::new("demo");
/// let (checkpoint, model) = load::open(dir, &Device::Cpu)?;
/// let tokenizer = Tokenizer::open(dir)?;
/// let mut values = Values::read(&dir.join("hparams.json"))?;
/// ["layers=[0]", "mom2_update_weight=1"].iter().try_for_each(|set| values.set(set))?;
/// let by = values.batch(Method::Memit, &model)?;
/// let contexts = Contexts::read(&dir.join("contexts.json"))?;
/// let text = r#"[{"prompt": "Tourists visit {} in the city of", "target_new": "Rome",
///                 "subject": "the Brandenburg Gate"},
///                {"prompt": "{} played the", "target_new": "violin",
///                 "subject": "Louis Armstrong"}]"#;
/// let requests = request::parse("a text", text.as_bytes())?;
/// let facts = facts(&model, (&tokenizer, None), ("a text".as_ref(), &requests), &contexts)?;
/// let (f, of) = (model.arch.inner, fingerprint(&checkpoint)?);
/// let batches = Batches {
///     model: &model,
///     name: String::new(),
///     moments: &|layer| Moment::read(&dir.join("stats"), layer, f, &of).map(Arc::new),
///     contexts: &contexts,
///     by: &by,
///     sequential: 0,
///     carries: false,
///     room: 1 << 30,
///     seed: 0,
/// };
/// let (planned, _) = batches.run(&facts, State::default(), None, &Quiet)?;
/// let edited = planned.on(&model); // in memory; `model` stays as it is
/// assert!(planned.outcomes.iter().all(|fact| fact.failed().is_none()));
/// # assert!(edited.layers.len() == model.layers.len());
/// # Ok(())
/// # }
/// ```
pub struct Batches<'a> {
    /// The model as it is.
    pub model: &'a Model,
    /// A name for its weights, all of them; where nothing is kept, anything.
    pub name: String,
    /// C of each edited layer.
    pub moments: &'a Moments<'a>,
    /// The contexts the facts' rows are of.
    pub contexts: &'a Contexts,
    /// Layers, search and closed form.
    pub by: &'a Settings,
    /// Facts in a batch; 0 for all at once.
    pub sequential: usize,
    /// Whether keys are learnt after the last batch too, for edits to come.
    pub carries: bool,
    /// Bytes that searches and streams may take.
    pub room: u64,
    /// Of random choices: the sample of the norm anchor.
    pub seed: u64,
}

impl Batches<'_> {
    /// Searches the values of all facts on the model as it is, and keeps them: the part of an edit
    /// that several machines can share.
    ///
    /// # Errors
    ///
    /// As [`run`](Batches::run).
    pub fn search(&self, facts: &[Fact], kept: &mut Kept, progress: &dyn Progress) -> Result<()> {
        let facts: Vec<&Fact> = facts.iter().collect();
        self.values(self.model, &self.name, &facts, Some(kept), progress).map(drop)
    }

    /// Writes the values of facts, which were searched, to a file of their own.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn export(&self, facts: &[Fact], kept: &Kept, path: &Path) -> Result<()> {
        Values::whole(path, |piece| {
            for fact in facts {
                let key = self.key(&self.name, &fact.rows);
                let value = kept.values.get(&key)?.expect("the fact was searched");
                piece.put(&key, &value)?;
            }
            Ok(())
        })
    }

    /// How many of the facts have a value on the model as it is.
    pub fn known(&self, facts: &[Fact], kept: &Kept) -> usize {
        facts.iter().filter(|f| kept.values.has(&self.key(&self.name, &f.rows))).count()
    }

    /// Bytes the mean fact takes while it is searched, and those that a search of these takes
    /// besides, however many there are at a time.
    pub fn bytes(&self, facts: &[Fact]) -> [u64; 2] {
        let (model, push) = (self.model, &self.by.search.push);
        let memory = SearchMemory::new(model, push, facts.iter().map(|f| &f.rows));
        let all: u64 = memory.facts.iter().sum();
        [all / facts.len().max(1) as u64, memory.fixed_bytes]
    }

    /// How many facts of the mean size are searched at a time.
    pub fn at_a_time(&self, facts: &[Fact]) -> u64 {
        let n = facts.len().max(1) as u64;
        let tokens: usize = facts.iter().map(|f| suffix_tokens(&f.rows)).sum();
        let [mean, besides] = self.bytes(facts);
        let by_room = self.room.saturating_sub(besides) / mean.max(1);
        by_room.min(max_tokens(self.model) as u64 * n / tokens.max(1) as u64).clamp(1, n)
    }

    /// Plans the change of all facts. Returns what the method carries on, too.
    ///
    /// # Errors
    ///
    /// A search that meets NaN, a system that cannot be solved, a folder of what is kept that
    /// cannot be written, a wish to stop, a device without room.
    pub fn run(
        &self,
        facts: &[Fact],
        state: State,
        kept: Option<&mut Kept>,
        progress: &dyn Progress,
    ) -> Result<(Planned, State)> {
        catch_device_error(|| self.planned(facts, state, kept, progress))
    }

    fn planned(
        &self,
        facts: &[Fact],
        mut state: State,
        mut kept: Option<&mut Kept>,
        progress: &dyn Progress,
    ) -> Result<(Planned, State)> {
        let all: Vec<&FactRows> = facts.iter().map(|f| &f.rows).collect();
        let before = probabilities(self.model, &all, progress)?;
        if self.by.anchor.is_some() && state.anchor.is_none() {
            state.anchor = Some(self.reference(facts, kept.as_deref_mut(), progress)?);
        }
        let carried = state.name();
        let mut method = self.method(&mut state, progress)?;
        let size = if self.sequential == 0 { facts.len() } else { self.sequential };
        let batches: Vec<&[Fact]> = facts.chunks(size.max(1)).collect();
        let (mut model, mut name) = (self.model.clone(), self.name.clone());
        let (mut values, mut kinds) = (Vec::new(), BTreeMap::<usize, Vec<Layer>>::new());
        for (b, batch) in batches.iter().enumerate() {
            let batch: Vec<&Fact> = batch.iter().collect();
            let found = self.values(&model, &name, &batch, kept.as_deref_mut(), progress)?;
            let rows: Vec<&FactRows> = batch.iter().map(|f| &f.rows).collect();
            let first = self.by.layers[0];
            progress.at("layer", 0, self.by.layers.len() as u64);
            let reader = Reader::new(&model, &rows, self.contexts, first, self.room / 2);
            let moved = self.moved(&model, &reader, &found, state.anchor, progress)?;
            let z =
                Mat::from_fn(model.arch.width, found.len(), |i, j| found[j].t0[i] + moved[j][i]);
            let made_of = hash(&[&name, &carried]);
            let mut keep = Layers::new(self, &made_of, &z, &state.bases, kept.as_deref());
            let at = (&self.by.layers[..], self.by.site());
            let (changed, layers) =
                spread(model, &reader, at, &z, method.as_ref(), &mut keep, progress)?;
            (model, name) = (changed, keep.key(self.by.layers.len() - 1)?);
            for layer in layers {
                kinds.entry(layer.layer).or_default().push(layer);
            }
            if self.carries || b + 1 < batches.len() {
                for &layer in &self.by.layers {
                    let (k, _) = reader.look(&model, layer, self.by.site(), progress)?;
                    method.learn(layer, &k);
                }
            }
            values.extend(found.into_iter().zip(moved));
        }
        let after = probabilities(&model, &all, progress)?;
        let outcome = |(i, fact): (usize, &Fact)| {
            let (value, moved) = &values[i];
            Outcome::new(fact, value, [before[i], after[i]], How::Together { moved })
        };
        let outcomes = facts.iter().enumerate().map(outcome).collect();
        let total = |layers: Vec<Layer>| self.total(layers);
        state.grams = method.past();
        let layers = kinds.into_values().map(total).collect();
        Ok((Planned { model, outcomes, layers }, state))
    }

    /// The changes of one layer by all batches as one.
    fn total(&self, layers: Vec<Layer>) -> Layer {
        let first = layers[0].clone();
        if layers.len() == 1 {
            return first;
        }
        let sizes = self.model.layers[first.layer].down.w.dims();
        let ridge = layers.iter().find_map(|l| l.ridge);
        let kinds: Vec<Delta> = layers.into_iter().map(|l| l.delta).collect();
        let delta = sum(&kinds, sizes);
        let norm = norm(&super::change::dense(&delta, sizes));
        Layer { delta, norm, ridge, ..first }
    }

    fn method<'s>(
        &'s self,
        state: &mut State,
        progress: &dyn Progress,
    ) -> Result<Box<dyn ClosedForm + 's>> {
        let (moments, past) = (self.moments, std::mem::take(&mut state.grams));
        let memit = |mom2_update_weight, past| Memit { moments, mom2_update_weight, past };
        Ok(match self.by.form {
            Form::Memit { mom2_update_weight } => Box::new(memit(mom2_update_weight, past)),
            Form::Pmet { mom2_update_weight } => Box::new(Pmet(memit(mom2_update_weight, past))),
            Form::Emmet { mom2_update_weight, update_norm_lambda, emmet_lambda } => {
                let memit = memit(mom2_update_weight, past);
                Box::new(Emmet { memit, update_norm_lambda, emmet_lambda })
            }
            Form::AlphaEdit { nullspace_threshold, l2 } => {
                for (i, &layer) in self.by.layers.iter().enumerate() {
                    progress.at("null space", i as u64, self.by.layers.len() as u64);
                    if let Entry::Vacant(place) = state.bases.entry(layer) {
                        let moment = moments(layer)?;
                        place.insert(Arc::new(null_space(&moment, nullspace_threshold)?));
                        warn_of_few(&moment, progress);
                    }
                }
                Box::new(AlphaEdit { bases: state.bases.clone(), l2, past })
            }
        })
    }

    /// Values of facts on a model, in order: those that are kept, and the rest searched.
    fn values(
        &self,
        model: &Model,
        name: &str,
        facts: &[&Fact],
        mut kept: Option<&mut Kept>,
        progress: &dyn Progress,
    ) -> Result<Vec<TargetValue>> {
        let keys: Vec<String> = facts.iter().map(|f| self.key(name, &f.rows)).collect();
        let mut found: Vec<Option<TargetValue>> = vec![None; facts.len()];
        if let Some(kept) = kept.as_deref() {
            for (found, key) in found.iter_mut().zip(&keys) {
                *found = kept.values.get(key)?;
            }
        }
        let missing: Vec<usize> = (0..facts.len()).filter(|&i| found[i].is_none()).collect();
        let wanted = |&i: &usize| SearchFact { id: &facts[i].request.id, rows: &facts[i].rows };
        let wanted: Vec<SearchFact> = missing.iter().map(wanted).collect();
        let mut each = |i: usize, value: TargetValue| {
            if let Some(kept) = kept.as_deref_mut() {
                kept.values.put(&keys[missing[i]], &value)?;
            }
            found[missing[i]] = Some(value);
            Ok(())
        };
        find_all(model, &wanted, &self.by.search, self.room, progress, &mut each)?;
        Ok(found.into_iter().map(|v| v.expect("kept or searched")).collect())
    }

    /// z − t₀ of each fact: δ, or what the norm anchor makes of it.
    fn moved(
        &self,
        model: &Model,
        reader: &Reader,
        found: &[TargetValue],
        c: Option<f64>,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        let Some(c) = c.filter(|_| self.by.anchor.is_some()) else {
            return Ok(found.iter().map(|value| value.delta.clone()).collect());
        };
        let v0 = self.v0(model, reader, progress)?;
        let moved = |(value, v0): (&TargetValue, &Vec<f64>)| anchor::anchored(v0, &value.delta, c);
        Ok(found.iter().zip(&v0).map(moved).collect())
    }

    /// v₀ of each fact: the MLP's output in the last layer at its bare prompt.
    fn v0(&self, model: &Model, reader: &Reader, p: &dyn Progress) -> Result<Vec<Vec<f64>>> {
        let layer = self.by.site().layer;
        let (_, h) = reader.look(model, layer, Site { layer, at: At::Value }, p)?;
        Ok(h.col_iter().map(|c| c.iter().copied().collect()).collect())
    }

    /// c of the norm anchor, measured on a seeded sample of the facts.
    fn reference(
        &self,
        facts: &[Fact],
        kept: Option<&mut Kept>,
        progress: &dyn Progress,
    ) -> Result<f64> {
        let many = self.by.anchor.unwrap_or(0).min(facts.len());
        let mut rng = Rng::new(self.seed, "norm anchor");
        let mut order: Vec<usize> = (0..facts.len()).collect();
        for i in 0..many {
            let j = i + (rng.uniform() * (order.len() - i) as f64) as usize;
            order.swap(i, j.min(facts.len() - 1));
        }
        let sample: Vec<&Fact> = order[..many].iter().map(|&i| &facts[i]).collect();
        self.anchor(&sample, kept, progress)
    }

    /// c of the norm anchor, measured on these facts on the model as it is.
    ///
    /// # Errors
    ///
    /// As [`run`](Batches::run).
    pub fn anchor(
        &self,
        sample: &[&Fact],
        kept: Option<&mut Kept>,
        progress: &dyn Progress,
    ) -> Result<f64> {
        let found = self.values(self.model, &self.name, sample, kept, progress)?;
        let rows: Vec<&FactRows> = sample.iter().map(|f| &f.rows).collect();
        let first = self.by.layers[0];
        let v0 = catch_device_error(|| {
            let reader = Reader::new(self.model, &rows, self.contexts, first, self.room / 2);
            self.v0(self.model, &reader, progress)
        })?;
        let length = |(value, v0): (&TargetValue, &Vec<f64>)| {
            norm(&v0.iter().zip(&value.delta).map(|(v, d)| v + d).collect::<Vec<f64>>())
        };
        Ok(anchor::reference(found.iter().zip(&v0).map(length).collect()))
    }

    /// A name for C of a layer, or for AlphaEdit's directions.
    fn statistics(&self, layer: usize, bases: &Bases) -> Result<String> {
        let mut all = Fingerprint::default();
        if let Some(basis) = bases.get(&layer) {
            let mut add = |x: &f64| all.add(&x.to_le_bytes());
            basis.col_iter().for_each(|c| c.iter().for_each(&mut add));
            return Ok(all.hex());
        }
        let moment = (self.moments)(layer)?;
        all.add(&moment.tokens.to_le_bytes());
        all.add(bytemuck::cast_slice(&moment.second_moment));
        Ok(all.hex())
    }

    /// Of everything a value depends on. The version stands for the way of computing.
    fn key(&self, name: &str, rows: &FactRows) -> String {
        let FactRows { rewriting, kl, target, .. } = rows;
        let how = format!("{:?} {:?}", self.by.search, self.model.search_compute());
        let what = format!("{rewriting:?} {kl:?} {target:?}");
        hash(&["value", env!("CARGO_PKG_VERSION"), name, &how, &what])
    }
}

/// Says where directions are taken for unused because no text was seen that uses them.
fn warn_of_few(moment: &Moment, progress: &dyn Progress) {
    let Moment { layer, f, tokens, .. } = moment;
    if *tokens < *f as u64 {
        progress.warn(&format!(
            "layer {layer}: C is of {tokens} tokens for {f} neurons, so at least {} directions \
             are counted as unused whatever text does with them; collect more tokens",
            *f as u64 - tokens,
        ));
    }
}

fn hash(fields: &[&str]) -> String {
    let mut all = Fingerprint::default();
    for field in fields {
        all.add(&(field.len() as u64).to_le_bytes());
        all.add(field.as_bytes());
    }
    all.hex()
}

/// The finished layers of one batch, each under a hash of what made it and those before it.
struct Layers<'a> {
    by: &'a Batches<'a>,
    kept: Option<&'a Kept>,
    bases: &'a Bases,
    keys: Vec<String>, // the batch's, then one a layer
}

impl<'a> Layers<'a> {
    fn new(
        by: &'a Batches,
        name: &str,
        z: &Mat<f64>,
        bases: &'a Bases,
        kept: Option<&'a Kept>,
    ) -> Layers<'a> {
        let mut all = Fingerprint::default();
        for column in z.col_iter() {
            column.iter().for_each(|x| all.add(&x.to_le_bytes()));
        }
        let how = format!("{:?} {:?} {}", by.by.layers, by.by.form, by.contexts.to_json());
        let version = env!("CARGO_PKG_VERSION");
        Layers { by, kept, bases, keys: vec![hash(&["layer", version, name, &how, &all.hex()])] }
    }

    fn key(&mut self, i: usize) -> Result<String> {
        while self.keys.len() <= i + 1 {
            let done = self.keys.len() - 1;
            let statistics = self.by.statistics(self.by.by.layers[done], self.bases)?;
            self.keys.push(hash(&[&self.keys[done], &statistics]));
        }
        Ok(self.keys[i + 1].clone())
    }

    fn sizes(&self, i: usize) -> [usize; 2] {
        self.by.model.layers[self.by.by.layers[i]].down.w.dims()
    }
}

impl Keep for Layers<'_> {
    fn finished(&mut self, i: usize) -> Result<Option<(Delta, Option<f64>)>> {
        let Some(kept) = self.kept else { return Ok(None) };
        Ok(kept.finished(&self.key(i)?, self.sizes(i)))
    }

    fn keep(&mut self, i: usize, kind: &Delta, ridge: Option<f64>) -> Result<()> {
        let Some(kept) = self.kept else { return Ok(()) };
        kept.keep(&self.key(i)?, self.sizes(i), kind, ridge)
    }
}
