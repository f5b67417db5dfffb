//! Values of facts on a model: those that were found before, and the rest searched.

use std::path::Path;

use super::cache::Cache;
use super::facts::TokenizedFact;
use super::method::Context;
use super::prompts::FactRows;
use super::search::{Search, SearchFact, TargetValue, find_all};
use super::value_store::ValueStore;
use crate::base::Result;
use crate::model::Model;
use crate::store::Fingerprint;
use crate::tensor::Compute;

/// The values of facts on a model with weights of that name, in order. What is searched is stored
/// at once.
///
/// # Errors
///
/// A search that meets NaN, a cache that cannot be written, cancellation.
pub fn values(
    on: &mut Context,
    model: &Model,
    weights: &str,
    facts: &[&TokenizedFact],
    search: &Search,
) -> Result<Vec<TargetValue>> {
    let mut found: Vec<Option<TargetValue>> = vec![None; facts.len()];
    let mut keys = Vec::new();
    if let Some(cache) = on.cache.as_deref() {
        let compute = model.search_compute();
        keys = facts.iter().map(|f| value_key(weights, search, &compute, &f.rows)).collect();
        for (found, key) in found.iter_mut().zip(&keys) {
            *found = cache.values().get(key)?;
        }
    }
    let missing: Vec<usize> = (0..facts.len()).filter(|&i| found[i].is_none()).collect();
    let wanted = |&i: &usize| SearchFact { id: &facts[i].request.id, rows: &facts[i].rows };
    let wanted: Vec<SearchFact> = missing.iter().map(wanted).collect();
    let mut cache = on.cache.as_deref_mut();
    let mut each = |i: usize, value: TargetValue| {
        if let Some(cache) = cache.as_deref_mut() {
            cache.values_mut().put(&keys[missing[i]], &value)?;
        }
        found[missing[i]] = Some(value);
        Ok(())
    };
    find_all(model, &wanted, search, on.memory, on.progress, &mut each)?;
    Ok(found.into_iter().map(|v| v.expect("found before or searched")).collect())
}

/// Searches the values of all facts on the model as it is, and stores them: the part of an edit
/// that several machines can share.
///
/// # Errors
///
/// As [`values`].
///
/// # Panics
///
/// Without a cache.
pub fn search_all(on: &mut Context, facts: &[TokenizedFact], search: &Search) -> Result<()> {
    let weights = on.cache.as_ref().expect("values are searched into a cache").weights().to_owned();
    let facts: Vec<&TokenizedFact> = facts.iter().collect();
    values(on, on.model, &weights, &facts, search).map(drop)
}

/// Writes the values of facts, which were searched, to a file of their own.
///
/// # Errors
///
/// A file that cannot be written.
pub fn export(
    model: &Model,
    cache: &Cache,
    facts: &[TokenizedFact],
    search: &Search,
    path: &Path,
) -> Result<()> {
    let compute = model.search_compute();
    ValueStore::write_whole(path, |piece| {
        for fact in facts {
            let key = value_key(cache.weights(), search, &compute, &fact.rows);
            let value = cache.values().get(&key)?.expect("the fact was searched");
            piece.put(&key, &value)?;
        }
        Ok(())
    })
}

/// How many of the facts have a value on the model as it is.
pub fn known(model: &Model, cache: &Cache, facts: &[TokenizedFact], search: &Search) -> usize {
    let compute = model.search_compute();
    let key = |f: &TokenizedFact| value_key(cache.weights(), search, &compute, &f.rows);
    facts.iter().filter(|f| cache.values().has(&key(f))).count()
}

/// A name for everything a value depends on: the weights it was searched on, the search, what
/// computes, the fact's rows. The version stands for the way of computing.
fn value_key(weights: &str, search: &Search, compute: &Compute, rows: &FactRows) -> String {
    let mut all = Fingerprint::default();
    all.field(b"value");
    all.field(env!("CARGO_PKG_VERSION").as_bytes());
    all.field(weights.as_bytes());
    search.digest(&mut all);
    all.field(compute.name().as_bytes());
    rows.digest(&mut all);
    all.hex()
}
