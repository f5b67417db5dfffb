//! How many facts a model carries and how far they moved its matrices, and whether that is more
//! than a method bears.
//!
//! ```text
//! ‖ΣΔ‖/‖W‖   of a tensor: what was added in all, over what it was before any change
//!            a folder that `apply` wrote starts anew, so of several such steps the sum of their
//!            norms is taken, which ‖ΣΔ‖ is at most
//! strain     the worst of the rows of `thresholds.yaml` that are reached; light where none is and
//!            each of the methods has rows
//! ```

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::base::units::{count, counted, percent};
use crate::base::{Error, Result};
use crate::store::{AppliedPatch, Lineage, TensorNorms};

/// How a model bears what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strain {
    /// No threshold is reached.
    Light,
    /// It is measurably worse.
    Strained,
    /// Edits or other abilities are gone.
    Broken,
}

impl Strain {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Strain::Light => "light",
            Strain::Strained => "strained",
            Strain::Broken => "broken",
        }
    }
}

/// From where on edits by a method strain a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The method.
    pub method: String,
    /// What it is from there on.
    pub strain: Strain,
    /// So many facts by the method.
    pub facts: Option<u64>,
    /// Only facts that were edited at most so many at a time count.
    pub at_once: Option<u64>,
    /// ‖ΣΔ‖/‖W‖ of the matrix that moved furthest.
    pub ratio: Option<f64>,
    /// Where that was measured.
    pub source: String,
}

static THRESHOLDS: LazyLock<Vec<Threshold>> = LazyLock::new(|| {
    thresholds(include_str!("thresholds.yaml")).expect("the program's own file, held by a test")
});

/// Reads a table of thresholds.
///
/// # Errors
///
/// A row that is not of the form, has no source or no number.
pub fn thresholds(text: &str) -> Result<Vec<Threshold>> {
    let bad = |what: String| Error::refused(what, "say for each row where it was measured");
    let rows: Vec<Threshold> =
        serde_saphyr::from_str(text).map_err(|e| bad(format!("the thresholds: {e}")))?;
    let is_whole = |row: &&Threshold| {
        !row.source.trim().is_empty() && (row.facts.is_some() || row.ratio.is_some())
    };
    match rows.iter().find(|row| !is_whole(row)) {
        Some(row) => Err(bad(format!("a threshold of {} has no source or no number", row.method))),
        None => Ok(rows),
    }
}

/// What a model carries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CarriedEdits {
    /// Facts of all patches.
    pub facts: u64,
    /// Patches.
    pub patches: usize,
    /// Facts by method.
    pub methods: BTreeMap<String, u64>,
    /// Of each changed tensor, at most ‖ΣΔ‖, and ‖W‖.
    pub tensors: BTreeMap<String, TensorNorms>,
    /// Patches of which the lineage has no norms by tensor: earlier versions applied them.
    pub without_norms: usize,
    /// The verdict; none where a method has no thresholds.
    pub strain: Option<Strain>,
    /// The thresholds that are reached.
    pub reached: Vec<Threshold>,
}

impl CarriedEdits {
    /// Those of a lineage, by the program's thresholds.
    pub fn of(lineage: &Lineage) -> CarriedEdits {
        CarriedEdits::by(lineage, &THRESHOLDS)
    }

    /// Those of a lineage, by some thresholds.
    pub fn by(lineage: &Lineage, thresholds: &[Threshold]) -> CarriedEdits {
        let patches = &lineage.patches;
        let mut methods = BTreeMap::<String, u64>::new();
        for patch in patches {
            let facts = methods.entry(patch.method.clone()).or_default();
            *facts = facts.saturating_add(patch.facts);
        }
        let mut carried = CarriedEdits {
            facts: methods.values().fold(0, |all, &n| all.saturating_add(n)),
            patches: patches.len(),
            methods,
            tensors: moved(patches),
            without_norms: patches.iter().filter(|patch| patch.tensors.is_empty()).count(),
            strain: None,
            reached: vec![],
        };
        carried.judge(patches, thresholds);
        carried
    }

    /// ‖ΣΔ‖/‖W‖ of the tensor that moved furthest.
    pub fn ratio(&self) -> Option<f64> {
        let ratios = self.tensors.values().filter(|norms| norms.weight > 0.0);
        ratios.map(|norms| norms.change / norms.weight).max_by(f64::total_cmp)
    }

    fn judge(&mut self, patches: &[AppliedPatch], thresholds: &[Threshold]) {
        let own = |row: &&Threshold| self.methods.contains_key(&row.method);
        let reached = |row: &&Threshold| {
            let counts = |patch: &&AppliedPatch| {
                let at_once = patch.at_once.unwrap_or(patch.facts);
                patch.method == row.method && row.at_once.is_none_or(|most| at_once <= most)
            };
            let facts =
                patches.iter().filter(counts).fold(0u64, |n, patch| n.saturating_add(patch.facts));
            row.facts.is_some_and(|from| facts >= from)
                || row.ratio.is_some_and(|from| self.ratio().is_some_and(|ratio| ratio >= from))
        };
        let known = |method: &String| thresholds.iter().any(|row| row.method == *method);
        let all_known = self.methods.keys().all(known);
        let rows: Vec<Threshold> = thresholds.iter().filter(own).filter(reached).cloned().collect();
        let worst = rows.iter().map(|row| row.strain).max();
        self.strain = worst.or(all_known.then_some(Strain::Light));
        self.reached = rows.into_iter().filter(|row| Some(row.strain) == worst).collect();
    }

    /// Facts and the furthest matrix in words.
    pub fn numbers(&self) -> String {
        let by: Vec<String> =
            self.methods.iter().map(|(name, n)| format!("{} by {name}", count(*n))).collect();
        let moved = self.ratio().map_or(String::new(), |ratio| {
            format!("; the matrix that moved furthest has ‖ΣΔ‖/‖W‖ {}", percent(ratio))
        });
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        format!("{}{by}{moved}", counted(self.facts, "fact"))
    }

    /// Refuses what is strained as much as this, or more.
    ///
    /// # Errors
    ///
    /// The numbers, the thresholds they reach, and what to do.
    pub fn refuse_past(&self, most: Strain) -> Result<()> {
        let Some(strain) = self.strain.filter(|&strain| strain >= most) else { return Ok(()) };
        let why: Vec<&str> = self.reached.iter().map(|row| &row.source[..]).collect();
        let what = format!(
            "the model would be {}, with {}: {}",
            strain.name(),
            self.numbers(),
            why.join("; ")
        );
        let remedy = "make one patch of all facts on the unedited model, undo earlier ones, or \
                      keep the edits beside the weights with grace";
        Err(Error::refused(what, remedy))
    }
}

/// Of each tensor what all patches added, at most, and what it was before them.
fn moved(patches: &[AppliedPatch]) -> BTreeMap<String, TensorNorms> {
    let mut done = BTreeMap::<String, TensorNorms>::new();
    let mut now = BTreeMap::<String, TensorNorms>::new();
    let add = |done: &mut BTreeMap<String, TensorNorms>, now: BTreeMap<String, TensorNorms>| {
        for (name, norms) in now {
            done.entry(name).and_modify(|all| all.change += norms.change).or_insert(norms);
        }
    };
    for patch in patches {
        if patch.anew {
            add(&mut done, std::mem::take(&mut now));
        }
        now.extend(patch.tensors.iter().map(|(name, norms)| (name.clone(), *norms)));
    }
    add(&mut done, now);
    done
}
