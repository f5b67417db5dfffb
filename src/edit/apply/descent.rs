//! The lineage of the weights that patches make, patch by patch.

use crate::base::{Progress, Result};
use crate::model::lineage::{lineage, rest};
use crate::model::load;
use crate::ops::update::Sums;
use crate::store::{AppliedPatch, Checkpoint, Lineage, Patch};

/// The lineage so far, and what it takes to add the patches that come.
pub(super) struct Descent<'a> {
    lineage: Lineage,
    /// Each patch, and the fingerprint of the model without what is changed up to it.
    coming: Vec<(&'a Patch, String)>,
}

impl<'a> Descent<'a> {
    /// That of a checkpoint, before it is written. A model of an unknown family has none: it has no
    /// fingerprint, so nothing is kept for one.
    pub fn new(
        checkpoint: &Checkpoint,
        patches: &'a [Patch],
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
        Ok(Some(Descent { lineage, coming }))
    }

    /// Adds patch p; `sums` are over the tensors it changes.
    pub fn after(&mut self, p: usize, sums: Sums) {
        let (patch, rest) = &self.coming[p];
        let norm = |square: f64| Some(square.sqrt()).filter(|norm| norm.is_finite());
        self.lineage.rest = rest.clone();
        self.lineage.patches.push(AppliedPatch {
            hash: patch.hash(),
            method: patch.metadata.method.clone(),
            facts: patch.metadata.facts,
            change: norm(sums.wanted),
            weight: norm(sums.weight),
        });
    }

    /// The lineage, with the fingerprints of the tensors that the patches so far left.
    pub fn with(&mut self, tensors: impl IntoIterator<Item = (String, String)>) -> Lineage {
        self.lineage.tensors.extend(tensors);
        self.lineage.clone()
    }
}
