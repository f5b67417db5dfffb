//! What tuning leaves: the table of what was tried, the curve, and the report of what was chosen.
//!
//! | file | holds |
//! | --- | --- |
//! | `table.json` | the split, every trial, the chosen one and why, what it did on the other cases |
//! | `trade-off.svg` | efficacy against the change of neighbourhood, a mark a trial |
//! | `report/` | the folder of the evaluation on the other cases |

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::point::Trial;
use super::search::{Trials, Tried, protocol};
use super::split::Split;
use super::{Space, Tuning};
use crate::base::{Error, Result, escape};
use crate::data::Case;
use crate::editor::Editor;
use crate::editor::evaluation::Mode;
use crate::eval::folder::Folder;
use crate::eval::interval::{Interval, TWO_SIDED, bootstrap, change, clopper_pearson};
use crate::eval::measure::{Measure, measures};
use crate::eval::report::scatter::{Mark, scatter};
use crate::store::write::whole;

/// The tails of a limit below which a change is with 5 %.
const ONE_SIDED: [f64; 2] = [0.05, 0.95];

/// What tuning found.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// The hyperparameters, by their names.
    pub hyperparameters: Map<String, Value>,
    /// Why these, in a sentence.
    pub why: String,
    /// What they did on the cases that chose them.
    pub chosen: Trial,
    /// What they did on the others.
    pub reported: Reported,
    /// The first less the second, in points: what was gained by choosing.
    pub gap: Gap,
}

/// What the chosen settings did on cases that had no part in choosing them, in percent.
#[derive(Clone, Debug, Serialize)]
pub struct Reported {
    /// As of the trials.
    #[serde(flatten)]
    pub trial: Trial,
    /// The exact interval of efficacy, of 95 %.
    pub es_interval: [f64; 2],
    /// The lower limit of the change of neighbourhood, paired by case: one-sided, of 95 %.
    pub ns_change_low: f64,
    /// Where the evaluation is.
    pub folder: PathBuf,
}

/// Choosing less reporting, in points.
#[derive(Clone, Debug, Serialize)]
pub struct Gap {
    /// Of efficacy.
    pub es: f64,
    /// Of paraphrases.
    pub ps: f64,
    /// Of neighbourhood's change.
    pub ns_change: f64,
    /// Of the score.
    pub score: f64,
}

/// Edits the cases that report at the chosen point, measures them, and writes everything.
pub(super) fn report(
    editor: &Editor,
    (split, by): (&Split, &Tuning),
    tried: &Tried,
    (chosen, space): (Trial, &Space),
) -> Result<Tuned> {
    let folder = by.dir.join("report");
    let at_once = by.facts.clamp(1, split.report.len());
    let set = |editor: Editor, (name, value): (&String, &Value)| {
        editor.set_from(name, value.clone(), "tuning")
    };
    let editor = chosen.point.0.iter().try_fold(editor.clone(), set)?;
    let run = json!({
        "program": env!("CARGO_PKG_VERSION"), "model": editor.dir(),
        "model_fingerprint": editor.fingerprint(), "split": split.hash,
        "method": editor.settings.chosen()?.about().name, "hyperparameters": chosen.point,
        "mode": "batch", "batch_size": at_once, "seed": editor.settings.seed,
    });
    let mut results = Folder::open(&folder, run)?;
    let protocol = protocol(Mode::Batch(at_once));
    editor.evaluation(&split.report, &protocol)?.run(&mut results)?;
    results.summarise(editor.settings.seed)?;
    let all: Vec<_> = results.kept.results.iter().collect();
    let lacks = || Error::input(&folder, "results", "lacks metrics of this run", "remove it");
    let trial = Trial::new(chosen.point.clone(), at_once, &all).ok_or_else(lacks)?;
    let measured = measures(&all);
    let es = column(&measured, "counterfact.es").ok_or_else(lacks)?;
    let ns = column(&measured, "counterfact.ns").ok_or_else(lacks)?;
    let moved = change(&ns.before[0], &ns.after[0]);
    let took = es.after[0].iter().filter(|share| **share == Some(1.0)).count();
    let Interval { low, high } = clopper_pearson(took, es.after[0].len(), TWO_SIDED);
    let limit = bootstrap(&[&moved], |means| means[0], ONE_SIDED, editor.settings.seed);
    let reported = Reported {
        es_interval: [100.0 * low, 100.0 * high],
        ns_change_low: limit.map_or(f64::NAN, |limit| 100.0 * limit.low),
        folder,
        trial,
    };
    let tuned = Tuned {
        hyperparameters: chosen.point.0.clone().into_iter().collect(),
        why: why(&chosen, tried, space),
        gap: Gap {
            es: chosen.es - reported.trial.es,
            ps: chosen.ps - reported.trial.ps,
            ns_change: chosen.ns_change - reported.trial.ns_change,
            score: chosen.score - reported.trial.score,
        },
        chosen,
        reported,
    };
    write_table(by, split, &tried.0, Some(&tuned))?;
    let curve = scatter(
        ["change of neighbourhood success, points", "efficacy, %"],
        &tried.0.iter().map(|trial| mark(trial, &tuned.chosen)).collect::<Vec<_>>(),
    )?;
    whole(&by.dir.join("trade-off.svg"), curve.as_bytes())?;
    Ok(tuned)
}

fn column<'a>(measured: &'a [Measure], name: &str) -> Option<&'a Measure> {
    measured.iter().find(|measure| measure.name == name)
}

fn mark(trial: &Trial, chosen: &Trial) -> Mark {
    Mark {
        at: [trial.ns_change, trial.es],
        weight: trial.facts as f64 / chosen.facts as f64,
        ringed: trial.point == chosen.point && trial.facts == chosen.facts,
    }
}

/// Why a point was chosen.
fn why(chosen: &Trial, tried: &Tried, space: &Space) -> String {
    format!(
        "{} of {} trials reached {} facts, {} at once, and this one lacks least, {:.1} points: {}",
        tried.0.iter().filter(|trial| trial.facts == chosen.facts).count(),
        tried.0.len(),
        chosen.facts,
        chosen.at_once,
        chosen.cost(),
        chosen.words(&Trials::names(space)),
    )
}

/// Writes what was tried so far, and at last what was chosen.
pub(super) fn write_table(
    by: &Tuning,
    split: &Split,
    tried: &[Trial],
    tuned: Option<&Tuned>,
) -> Result<()> {
    let ids = |cases: &[Case]| cases.iter().map(|case| case.id.clone()).collect::<Vec<_>>();
    let mut table = json!({
        "facts": by.facts, "split": split.hash, "choose": ids(&split.choose),
        "report": ids(&split.report), "trials": tried,
    });
    if let Some(tuned) = tuned {
        for (name, value) in json!(tuned).as_object().into_iter().flatten() {
            table[name] = value.clone();
        }
    }
    whole(&by.dir.join("table.json"), escape::pretty_json(&table).as_bytes())
}
