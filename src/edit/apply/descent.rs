//! The lineage of the weights that patches make, patch by patch.

use std::collections::BTreeMap;

use crate::base::{Progress, Result};
use crate::model::lineage::{lineage, rest};
use crate::model::load;
use crate::ops::update::Sums;
use crate::store::history::History;
use crate::store::{AppliedPatch, Checkpoint, Fingerprint, Lineage, Patch, TensorNorms};

/// The lineage so far, and what it takes to add the patches that come.
pub(super) struct Descent<'a> {
    lineage: Lineage,
    /// Each patch, and the fingerprint of the model without what is changed up to it.
    coming: Vec<(&'a Patch, String)>,
    /// Whether no patch was applied in place yet.
    anew: bool,
}

impl<'a> Descent<'a> {
    /// That of a checkpoint, before it is written. A model of an unknown family has none: it has no
    /// fingerprint, so nothing is kept for one.
    pub fn new(
        checkpoint: &Checkpoint,
        patches: &'a [Patch],
        history: &History,
        progress: &dyn Progress,
    ) -> Result<Option<Descent<'a>>> {
        if !load::is_known(checkpoint) {
            return Ok(None);
        }
        let lineage = lineage(checkpoint, progress)?;
        let mut changed = lineage.tensors.clone();
        let mut now = lineage.rest.clone();
        let mut coming = Vec::new();
        for patch in patches {
            let before = changed.len();
            changed.extend(patch.tensors().map(|name| (name.to_owned(), String::new())));
            if changed.len() > before {
                now = rest(checkpoint, &|name| changed.contains_key(name))?;
            }
            coming.push((patch, now.clone()));
        }
        let anew = history.entries().next().is_none();
        Ok(Some(Descent { lineage, coming, anew }))
    }

    /// Adds patch p; `made` are the tensors it changes.
    pub fn after(&mut self, p: usize, made: &BTreeMap<String, Sums>) {
        let (patch, rest) = &self.coming[p];
        let mut hash = Fingerprint::default();
        patch.write_to(&mut hash).expect("a hash takes all bytes");
        let norm = |square: f64| Some(square.sqrt()).filter(|norm| norm.is_finite());
        let of = |sums: &Sums| {
            Some(TensorNorms { change: norm(sums.wanted)?, weight: norm(sums.weight)? })
        };
        let tensors = made.iter().filter_map(|(name, sums)| Some((name.clone(), of(sums)?)));
        let sums = made.values().fold(Sums::default(), |all, &sums| all.and(sums));
        self.lineage.rest = rest.clone();
        self.lineage.patches.push(AppliedPatch {
            hash: hash.hex(),
            method: patch.metadata.method.clone(),
            facts: patch.metadata.facts,
            at_once: patch.metadata.notes["sequential"].as_u64(),
            change: norm(sums.wanted),
            weight: norm(sums.weight),
            tensors: tensors.collect(),
            anew: self.anew && p == 0,
        });
    }

    /// The lineage, with the fingerprints of the tensors that the patches so far left.
    pub fn with(&mut self, tensors: impl IntoIterator<Item = (String, String)>) -> Lineage {
        self.lineage.tensors.extend(tensors);
        self.lineage.clone()
    }
}
