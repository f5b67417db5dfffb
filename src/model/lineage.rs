//! The name of a checkpoint's model, which statistics are for: the same whatever edits it has seen.
//!
//! The down projections are not sampled, so an edit of them leaves the fingerprint as it is. What
//! else was edited is in the checkpoint's [`Lineage`], which counts as long as the weights are
//! those that it speaks of. Of these, only the tensors it names are read whole.

use super::load::down_projections;
use crate::base::{Progress, Quiet, Result};
use crate::store::{Checkpoint, Fingerprint, Lineage, model_fingerprint, tensor_fingerprint};

/// The fingerprint of a checkpoint's model. An edited checkpoint has that of its base.
///
/// # Errors
///
/// A configuration whose family is not implemented; a broken lineage.
pub fn fingerprint(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<String> {
    Ok(lineage(checkpoint, progress)?.base)
}

/// Which weights something was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightsName {
    /// The fingerprint of the model: an edited checkpoint has that of its base.
    pub model: String,
    /// A name for the weights as they are, edits included.
    pub weights: String,
}

impl WeightsName {
    /// That of a checkpoint.
    ///
    /// # Errors
    ///
    /// As [`fingerprint`].
    pub fn of(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<WeightsName> {
        let model = fingerprint(checkpoint, progress)?;
        Ok(WeightsName { model, weights: weights_name(checkpoint)? })
    }
}

/// The lineage in a checkpoint's folder if it is of the weights there, else the beginning of one.
///
/// # Errors
///
/// As [`fingerprint`].
pub fn lineage(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Lineage> {
    if let Some(found) = Lineage::read(checkpoint.dir())? {
        let Some(other) = mismatch(checkpoint, &found)? else { return Ok(found) };
        progress.warn(&format!(
            "{}: the lineage in .incise is not of these weights ({other}), so the model counts as \
             one of its own, and has none of the statistics of the model it comes from",
            checkpoint.dir().display(),
        ));
    }
    Ok(Lineage::begin(rest(checkpoint, &|_| false)?))
}

/// What in a checkpoint is not as its lineage says.
fn mismatch(checkpoint: &Checkpoint, lineage: &Lineage) -> Result<Option<String>> {
    let downs = down_projections(checkpoint)?;
    for (name, hash) in lineage.tensors.iter().filter(|(name, _)| !downs.contains(*name)) {
        let same = match checkpoint.entry(name) {
            None => false,
            Some((shard, entry)) => tensor_fingerprint(&shard.bytes(&entry.range)) == *hash,
        };
        if !same {
            return Ok(Some(format!("{name} is another")));
        }
    }
    let rest = rest(checkpoint, &|name| lineage.tensors.contains_key(name))?;
    Ok((rest != lineage.rest).then(|| "what it says nothing of is another model's".to_owned()))
}

/// The fingerprint of a checkpoint's model without some tensors.
///
/// # Errors
///
/// As [`fingerprint`].
pub fn rest(checkpoint: &Checkpoint, without: &dyn Fn(&str) -> bool) -> Result<String> {
    let downs = down_projections(checkpoint)?;
    model_fingerprint(checkpoint, &|name| downs.contains(name) || without(name))
}

/// A name for a checkpoint's weights as they are, edits included. A sample may miss what an edit
/// changed, so the tensors that the lineage names count whole.
///
/// # Errors
///
/// As [`fingerprint`].
pub fn weights_name(checkpoint: &Checkpoint) -> Result<String> {
    let sampled = model_fingerprint(checkpoint, &|_| false)?;
    let edited = lineage(checkpoint, &Quiet)?.tensors;
    if edited.is_empty() {
        return Ok(sampled);
    }
    let mut all = Fingerprint::default();
    all.field(sampled.as_bytes());
    for (name, hash) in &edited {
        all.field(name.as_bytes());
        all.field(hash.as_bytes());
    }
    Ok(all.hex())
}
