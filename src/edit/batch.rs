//! Many facts at once: values, then layers, batch by batch; for every method that has a closed
//! form.
//!
//! ```text
//! for each batch of facts, on the model as the batches before it left it:
//!     v*  ← the value search of every fact                                    edit/search
//!     Z   ← v*, perhaps anchored, or streams of a window                      edit/anchor.rs
//!     Δ_l ← the method's closed form, layer by layer                          edit/solve/layers.rs
//!     Q_l ← Q_l + KKᵀ with the finished weights, where more is to come
//! ```
//!
//! Values and finished layers are stored as they are found, under a hash of everything they depend
//! on ([`Cache`]), so a run that was cut off goes on and ends with the same bytes.

use std::collections::BTreeMap;

use faer::Mat;

use super::anchor;
use super::cache::Cache;
use super::fact_report::FactPlan;
use super::facts::TokenizedFact;
use super::family::{ANCHOR, NORM_ANCHOR, NORM_ANCHOR_SAMPLES, SAMPLES, c_of, is_anchored};
use super::keys::Reader;
use super::known_facts::{KnownFacts, REPLACE_FACTS, check_batch};
use super::method::{Context, Plan};
use super::params::Params;
use super::prompts::FactRows;
use super::search::{Search, TargetValue};
use super::solve::delta::{join_keys, sum};
use super::solve::layers::{
    ClosedForm, LayerCache, MatrixChange, SolvedLayer, Spread, Target, over_roots,
};
use super::solve::window::streams;
use super::state::State;
use super::values::values;
use crate::base::units::counted;
use crate::base::{Progress, Result, Rng, Stage, catch_device_error};
use crate::data::Contexts;
use crate::linalg::vector::norm;
use crate::model::change::dense;
use crate::model::{At, MatrixId, Model, Site};
use crate::store::{Delta, Fingerprint};

/// Makes a method's closed form, which takes what it carries out of the state.
pub type MakeForm<'f, 'a> = &'f mut dyn FnMut(&mut State) -> Result<Box<dyn ClosedForm + 'a>>;

/// Plans the change of all facts, batch by batch.
///
/// # Errors
///
/// As [`Method::plan`](super::method::Method::plan).
pub fn plan<'a>(
    on: &mut Context<'a>,
    facts: &[TokenizedFact],
    search: &Search,
    by: &Params,
    form: MakeForm<'_, 'a>,
) -> Result<Plan> {
    let weights = on.cache.as_ref().map(|cache| cache.weights().to_owned()).unwrap_or_default();
    catch_device_error(|| Run { on, search, by, weights }.plan(facts, form))
}

/// c of the norm anchor, measured on a sample of facts on the model as it is.
///
/// # Errors
///
/// As [`plan`].
pub fn anchor_of(
    on: &mut Context,
    sample: &[&TokenizedFact],
    search: &Search,
    by: &Params,
) -> Result<f64> {
    let weights = on.cache.as_ref().map(|cache| cache.weights().to_owned()).unwrap_or_default();
    let found = values(on, on.model, &weights, sample, search)?;
    let rows: Vec<&FactRows> = sample.iter().map(|f| &f.rows).collect();
    let v0 = catch_device_error(|| {
        let reader = Reader::new(on.model, &rows, on.contexts, by.layers()[0], on.memory / 2);
        mlp_outputs(on.model, &reader, search.push.site.layer, on.progress)
    })?;
    let length = |(value, v0): (&TargetValue, &Vec<f64>)| {
        norm(&v0.iter().zip(&value.delta).map(|(v, d)| v + d).collect::<Vec<f64>>())
    };
    Ok(anchor::reference(found.iter().zip(&v0).map(length).collect()))
}

/// v₀ of each fact: the MLP's output of a layer at its bare prompt.
fn mlp_outputs(
    model: &Model,
    reader: &Reader,
    layer: usize,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f64>>> {
    let (_, [h]) = reader.look(model, layer, [Site { layer, at: At::VALUE }], progress)?;
    Ok(h.col_iter().map(|c| c.iter().copied().collect()).collect())
}

/// A plan in the making.
struct Run<'r, 'a> {
    on: &'r mut Context<'a>,
    search: &'r Search,
    by: &'r Params,
    /// A name for the weights as the batches so far left them, if there is a cache.
    weights: String,
}

/// What a batch came to: the changed model, each fact's value and z − t₀, and the changes.
struct Batch {
    model: Model,
    values: Vec<(TargetValue, Vec<f64>)>,
    changes: Vec<MatrixChange>,
}

/// A batch among others.
struct Batches {
    /// Whether what it learnt is asked for later.
    learns: bool,
    /// Whether others are added to its changes.
    several: bool,
}

impl<'a> Run<'_, 'a> {
    fn plan(mut self, facts: &[TokenizedFact], form: MakeForm<'_, 'a>) -> Result<Plan> {
        let size = if self.on.sequential == 0 { facts.len() } else { self.on.sequential };
        let replaces = self.by.is_on(&REPLACE_FACTS);
        if replaces && (self.on.carries || size < facts.len()) {
            check_batch(size.min(facts.len()), self.on.model, self.by)?;
        }
        if let Some(c) = self.by.number_of_switch(&NORM_ANCHOR) {
            self.on.state.notes.insert(ANCHOR.to_owned(), c.into());
        } else if self.by.is_on(&NORM_ANCHOR) && !self.on.state.notes.contains_key(ANCHOR) {
            let sample = self.sample(facts);
            let c = anchor_of(self.on, &sample, self.search, self.by)?;
            self.on.state.notes.insert(ANCHOR.to_owned(), c.into());
        }
        let mut state = std::mem::take(&mut self.on.state);
        let carried = state.digest();
        let c = c_of(&state).filter(|_| is_anchored(self.by));
        let mut known = replaces.then(|| KnownFacts::take(&mut state));
        let mut form = form(&mut state)?;
        let batches: Vec<&[TokenizedFact]> = facts.chunks(size.max(1)).collect();
        let mut model = self.on.model.clone();
        let mut found = Vec::new();
        let mut changes = BTreeMap::<MatrixId, Vec<MatrixChange>>::new();
        for (b, batch) in batches.iter().enumerate() {
            let learns = self.on.carries || b + 1 < batches.len();
            if let Some(known) = &mut known {
                let (without, withdrawn) = self.withdraw(known, &model, batch, &mut *form)?;
                model = without;
                for change in withdrawn {
                    changes.entry(change.id).or_default().push(change);
                }
            }
            let several = self.on.adds || batches.len() > 1 || !changes.is_empty();
            let how = Batches { learns, several };
            let known = known.as_mut();
            let done = self.batch(model, batch, (&mut *form, known), c, &carried, how)?;
            model = done.model;
            found.extend(done.values);
            for change in done.changes {
                changes.entry(change.id).or_default().push(change);
            }
        }
        let facts = found.iter().map(|(value, moved)| FactPlan::new(value, moved)).collect();
        form.give_back(&mut state);
        if let Some(known) = known {
            known.put(&mut state);
        }
        let changes = changes.into_values().map(|all| total(self.on.model, all)).collect();
        Ok(Plan { model, facts, changes, memory: None, state })
    }

    /// Takes facts out whose prompts a batch has.
    fn withdraw(
        &mut self,
        known: &mut KnownFacts,
        model: &Model,
        facts: &[TokenizedFact],
        form: &mut dyn ClosedForm,
    ) -> Result<(Model, Vec<MatrixChange>)> {
        let facts: Vec<&TokenizedFact> = facts.iter().collect();
        let before = known.len();
        let (model, changes) = known.withdraw(model, &facts, form)?;
        let out = before - known.len();
        if out > 0 {
            let mut all = Fingerprint::default();
            for name in [&*self.weights, "without"] {
                all.field(name.as_bytes());
            }
            facts.iter().for_each(|fact| all.field(fact.request.id.as_bytes()));
            for change in &changes {
                let sizes = model.matrix(change.id).w.dims();
                dense(&change.delta, sizes).iter().for_each(|x| all.add(&x.to_le_bytes()));
            }
            self.weights = all.hex();
            let facts = counted(out as u64, "fact");
            self.on
                .progress
                .remark(&format!("{facts} known before: another target takes its place"));
        }
        Ok((model, changes))
    }

    /// Changes the model so that it says one batch's facts; `carried` names the state.
    fn batch(
        &mut self,
        model: Model,
        facts: &[TokenizedFact],
        (form, known): (&mut dyn ClosedForm, Option<&mut KnownFacts>),
        c: Option<f64>,
        carried: &str,
        Batches { learns, several }: Batches,
    ) -> Result<Batch> {
        let progress = self.on.progress;
        let facts: Vec<&TokenizedFact> = facts.iter().collect();
        let values = values(self.on, &model, &self.weights, &facts, self.search)?;
        let rows: Vec<&FactRows> = facts.iter().map(|f| &f.rows).collect();
        let layers = self.by.layers();
        progress.at(Stage::Layer, 0, layers.len() as u64);
        let contexts = self.on.contexts;
        let reader = Reader::new(&model, &rows, contexts, layers[0], self.on.memory / 2);
        let moved: Vec<Vec<f64>> = match c {
            None => values.iter().map(|value| value.delta.clone()).collect(),
            Some(c) => {
                let v0 = mlp_outputs(&model, &reader, self.search.push.site.layer, progress)?;
                let anchored =
                    |(value, v0): (&TargetValue, &Vec<f64>)| anchor::anchored(v0, &value.delta, c);
                values.iter().zip(&v0).map(anchored).collect()
            }
        };
        let push = self.search.push;
        let z = if push.above > 0 {
            streams(&model, &reader, &push, &values, progress)?
        } else {
            let z = |i, j: usize| values[j].t0[i] + moved[j][i];
            vec![Mat::from_fn(model.arch.width, values.len(), z)]
        };
        let key = batch_key([&self.weights, carried], self.by, &*form, contexts, &z);
        let mut stored = StoredLayers {
            cache: self.on.cache.as_deref(),
            layers,
            form: &*form,
            sizes: [model.arch.width, model.arch.inner],
            keys: vec![key],
        };
        // The model as it was is let go layer by layer.
        let target = match push.above {
            0 => Target::Site(push.site, &z[0]),
            _ => Target::Streams(&z),
        };
        let spread = Spread { layers, target, keep_keys: several };
        let (model, changes) = spread.run(model, &reader, &*form, &mut stored, progress)?;
        if stored.cache.is_some() {
            self.weights = stored.key(layers.len() - 1)?;
        }
        if learns {
            self.learn(&model, &reader, (form, known), &facts, &changes)?;
        }
        let values = values.into_iter().zip(moved).collect();
        Ok(Batch { model, values, changes })
    }

    /// Hands on what the finished layers read at the facts of a batch, to be left alone later.
    fn learn(
        &self,
        model: &Model,
        reader: &Reader,
        (form, mut known): (&mut dyn ClosedForm, Option<&mut KnownFacts>),
        facts: &[&TokenizedFact],
        changes: &[MatrixChange],
    ) -> Result<()> {
        for &layer in self.by.layers() {
            let value = Site { layer, at: At::VALUE };
            let (mut k, [y]) = reader.look(model, layer, [value], self.on.progress)?;
            if form.normed(layer)? {
                over_roots(model, layer, &y, [&mut k]);
            }
            form.learn(layer, &k)?;
            if let Some(known) = &mut known {
                let change = changes.iter().find(|change| change.id.layer == layer);
                known.add(&k, change.expect("of each layer"), model)?;
            }
        }
        if let Some(known) = known {
            known.name(facts);
        }
        Ok(())
    }

    /// A seeded sample of the facts for the norm anchor.
    fn sample<'f>(&self, facts: &'f [TokenizedFact]) -> Vec<&'f TokenizedFact> {
        let many = self.by.count_if_given(&NORM_ANCHOR_SAMPLES).unwrap_or(SAMPLES);
        let many = many.min(facts.len());
        let mut rng = Rng::new(self.on.seed, "norm anchor");
        let mut order: Vec<usize> = (0..facts.len()).collect();
        for i in 0..many {
            let j = i + (rng.uniform() * (order.len() - i) as f64) as usize;
            order.swap(i, j.min(facts.len() - 1));
        }
        order[..many].iter().map(|&i| &facts[i]).collect()
    }
}

/// The changes of one matrix by all batches as one.
pub fn total(model: &Model, changes: Vec<MatrixChange>) -> MatrixChange {
    let first = changes[0].clone();
    if changes.len() == 1 {
        return first;
    }
    let sizes = model.matrix(first.id).w.dims();
    let ridge = changes.iter().find_map(|c| c.ridge);
    let s = changes.iter().filter_map(|c| c.s).reduce(f64::min);
    let keys = join_keys(changes.iter().map(|c| c.keys.as_ref()), sizes[1]);
    let deltas: Vec<Delta> = changes.into_iter().map(|c| c.delta).collect();
    let delta = sum(&deltas, sizes);
    let norm = norm(&dense(&delta, sizes));
    MatrixChange { delta, norm, ridge, s, keys, keys_follow: false, ..first }
}

/// A name for what makes the layers of a batch; `made_of` are names of the weights and of the state
/// before it.
fn batch_key(
    made_of: [&str; 2],
    by: &Params,
    form: &dyn ClosedForm,
    contexts: &Contexts,
    z: &[Mat<f64>],
) -> String {
    let mut all = Fingerprint::default();
    all.field(b"layer");
    all.field(env!("CARGO_PKG_VERSION").as_bytes());
    made_of.iter().for_each(|name| all.field(name.as_bytes()));
    by.layers().iter().for_each(|&l| all.field(&(l as u64).to_le_bytes()));
    form.digest(&mut all);
    all.field(contexts.to_json().to_string().as_bytes());
    let numbers = z.iter().flat_map(|z| z.col_iter()).flat_map(|c| c.iter());
    numbers.for_each(|x| all.add(&x.to_le_bytes()));
    all.hex()
}

/// The finished layers of one batch, each under a hash of what made it and those before it.
struct StoredLayers<'a> {
    cache: Option<&'a Cache>,
    layers: &'a [usize],
    form: &'a dyn ClosedForm,
    sizes: [usize; 2], // (out, in) of each
    keys: Vec<String>, // the batch's, then one a layer
}

impl StoredLayers<'_> {
    fn key(&mut self, i: usize) -> Result<String> {
        while self.keys.len() <= i + 1 {
            let done = self.keys.len() - 1;
            let mut all = Fingerprint::default();
            all.field(self.keys[done].as_bytes());
            self.form.digest_layer(self.layers[done], &mut all)?;
            self.keys.push(all.hex());
        }
        Ok(self.keys[i + 1].clone())
    }
}

impl LayerCache for StoredLayers<'_> {
    fn lookup(&mut self, i: usize) -> Result<Option<SolvedLayer>> {
        let Some(cache) = self.cache else { return Ok(None) };
        Ok(cache.lookup(&self.key(i)?, self.sizes))
    }

    fn store(&mut self, i: usize, layer: &SolvedLayer) -> Result<()> {
        let Some(cache) = self.cache else { return Ok(()) };
        cache.store(&self.key(i)?, self.sizes, layer)
    }
}
