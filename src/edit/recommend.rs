//! Which method suits a model and a number of facts, by what was measured of other models.
//!
//! ```text
//! rows      measured.json: of each method, model and mode the scores, seconds and memory
//! model     of those whose norms stand where this one's do the nearest in size, |ln p − ln p′|
//! modes     one fact: alone; several: at once, or one upon the other
//! best      the largest score (harmonic mean of ES, PS and NS) of what edits this model and is not
//!           known to break one that carries so many facts (thresholds.yaml)
//! seconds   those measured, times facts, times p/p′
//! ```

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::governor::{CarriedEdits, Strain, Threshold};
use super::method::Method;
use super::{methods, presets};
use crate::base::units::counted;
use crate::base::{Error, Result};
use crate::model::arch::{Arch, NormPlace};
use crate::store::{AppliedPatch, Lineage};

/// How records were edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasuredMode {
    /// Each alone, on the unedited model.
    Single,
    /// All at once.
    Batch,
    /// One upon the other.
    Sequential,
}

impl MeasuredMode {
    /// In words, behind a number of facts.
    pub fn words(self) -> &'static str {
        match self {
            MeasuredMode::Single => "each alone",
            MeasuredMode::Batch => "at once",
            MeasuredMode::Sequential => "one upon the other",
        }
    }
}

/// What a method came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredMethod {
    /// Its name.
    pub method: String,
    /// How records were edited.
    pub mode: MeasuredMode,
    /// How many.
    pub facts: u64,
    /// `counterfact.es`, in percent, as all that follow.
    pub es: f64,
    /// `counterfact.ps`.
    pub ps: f64,
    /// `counterfact.ns`.
    pub ns: f64,
    /// NS of the same records on the unedited model.
    pub ns_before: f64,
    /// `counterfact.score`.
    pub score: f64,
    /// Seconds a fact on two cores, measuring it included; none where the machine did other work
    /// meanwhile.
    pub seconds: Option<f64>,
    /// The most memory that was taken, in bytes.
    pub peak_bytes: u64,
}

/// A model of which methods were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredModel {
    /// Its name in docs/accuracy.md.
    pub model: String,
    /// p.
    pub parameters: u64,
    /// Whether a norm stands behind its MLP.
    pub norm_behind: bool,
    /// Its methods.
    pub rows: Vec<MeasuredMethod>,
}

static MEASURED: LazyLock<Vec<MeasuredModel>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("measured.json"))
        .expect("the program's own file, held by a test")
});

/// What to edit with.
pub struct Recommendation {
    /// The method.
    pub method: &'static dyn Method,
    /// Where it was measured.
    pub model: &'static MeasuredModel,
    /// What it came to there.
    pub best: &'static MeasuredMethod,
    /// What else was measured there, the better first; the same method in another mode, too.
    pub others: Vec<&'static MeasuredMethod>,
    /// Methods that are left out: they are known to break a model that carries so many facts.
    pub broken: Vec<Threshold>,
    /// Seconds for all facts on two cores.
    pub seconds: Option<f64>,
    /// The preset of this model's sizes; without one settings have to be found.
    pub preset: Option<String>,
}

/// What helps where there is nothing to recommend by.
const OWN: &str = "measure some on records of your own";
const MORE: &str = "ask for several facts, of which some were";
const FEWER: &str = "edit fewer, or keep them beside the weights";

impl Recommendation {
    /// The method for a model with p parameters, and why.
    ///
    /// # Errors
    ///
    /// No method that was measured edits such a model.
    pub fn of(arch: &Arch, parameters: u64, facts: u64) -> Result<Recommendation> {
        Recommendation::by(&MEASURED, arch, parameters, facts)
    }

    /// The same by some rows.
    ///
    /// # Errors
    ///
    /// As [`Recommendation::of`].
    pub fn by(
        measured: &'static [MeasuredModel],
        arch: &Arch,
        parameters: u64,
        facts: u64,
    ) -> Result<Recommendation> {
        let edits: Vec<&'static dyn Method> = methods::that_edit(arch).collect();
        let method = |row: &MeasuredMethod| {
            edits.iter().copied().find(|method| method.about().name == row.method)
        };
        let fits = |row: &&'static MeasuredMethod| {
            (row.mode == MeasuredMode::Single) == (facts == 1) && method(row).is_some()
        };
        let away = |model: &MeasuredModel| (model.parameters as f64 / parameters as f64).ln().abs();
        let behind = arch.norms == NormPlace::Behind;
        let nearest = measured
            .iter()
            .filter(|model| model.norm_behind == behind && model.rows.iter().any(|r| fits(&r)))
            .min_by(|a, b| away(a).total_cmp(&away(b)));
        let alike = measured.iter().any(|model| model.norm_behind == behind);
        let nothing = || {
            let like = format!("on a model like this {} one", arch.family);
            let (what, remedy) = match (alike, facts) {
                (false, _) => (format!("no method was measured {like}"), OWN),
                (true, 1) => (format!("no method was measured {like} with one fact"), MORE),
                (true, _) => (format!("no method was measured {like} with several facts"), OWN),
            };
            Error::refused(what, remedy)
        };
        let model = nearest.ok_or_else(nothing)?;
        let (mut rows, mut broken) = (vec![], vec![]);
        for row in model.rows.iter().filter(fits) {
            match breaking(row, facts) {
                Some(known) if !broken.contains(&known) => broken.push(known),
                Some(_) => {}
                None => rows.push(row),
            }
        }
        rows.sort_by(|a, b| b.score.total_cmp(&a.score));
        let all_break = || {
            let what = format!("by published numbers {} break a model", counted(facts, "fact"));
            Error::refused(format!("{what} by every method that was measured"), FEWER)
        };
        let best = *rows.first().ok_or_else(all_break)?;
        let method = method(best).expect("it edits this model");
        let ratio = parameters as f64 / model.parameters as f64;
        Ok(Recommendation {
            method,
            model,
            best,
            others: rows.split_off(1),
            broken,
            seconds: best.seconds.map(|seconds| seconds * facts as f64 * ratio),
            preset: presets::of(method, arch).map(|preset| preset.model),
        })
    }

    /// Which method, and why.
    pub fn why(&self, facts: u64) -> String {
        let MeasuredMethod { method, mode, es, ps, ns, ns_before, score, .. } = self.best;
        let model = &self.model.model;
        let mut names: Vec<&str> = self.others.iter().map(|row| &row.method[..]).collect();
        names.push(method);
        names.sort_unstable();
        names.dedup();
        let alone = if facts == 1 { String::new() } else { format!(", {}", mode.words()) };
        let mut text = format!(
            "{method} for {}{alone}: with {} {} on {model} it scored {score:.1} (new target \
             {es:.1}, paraphrases {ps:.1}, neighbours {ns:.1} of {ns_before:.1}), the best of {} \
             that were measured there{}",
            counted(facts, "fact"),
            counted(self.best.facts, "fact"),
            mode.words(),
            counted(names.len() as u64, "method"),
            if self.broken.is_empty() { "" } else { " and are left" },
        );
        if let Some(next) = self.others.iter().find(|row| row.method != *method) {
            let how = match next.mode == *mode {
                true => String::new(),
                false => format!(", {},", next.mode.words()),
            };
            text += &format!("; {}{how} follows with {:.1}", next.method, next.score);
        }
        if facts > self.best.facts && carried(self.best, facts).strain.is_none() {
            text += &format!("; nothing is known of {method} with so many");
        }
        text
    }
}

/// The threshold by which a model that carries so many facts by a method would be broken.
fn breaking(row: &MeasuredMethod, facts: u64) -> Option<Threshold> {
    let carried = carried(row, facts);
    let is_broken = carried.strain == Some(Strain::Broken);
    carried.reached.into_iter().next().filter(|_| is_broken)
}

/// What a model carries after so many facts by a method.
fn carried(row: &MeasuredMethod, facts: u64) -> CarriedEdits {
    let mut lineage = Lineage::begin(String::new());
    lineage.patches.push(AppliedPatch {
        method: row.method.clone(),
        facts,
        at_once: Some(if row.mode == MeasuredMode::Batch { facts } else { 1 }),
        ..AppliedPatch::default()
    });
    CarriedEdits::of(&lineage)
}
