//! What tuning leaves: the table of what was tried, the curve, and the report of what was chosen.
//!
//! | file | holds |
//! | --- | --- |
//! | `table.json` | the split, every trial, the chosen one and why, what it did on others |
//! | `trade-off.svg` | mean of efficacy and paraphrases against the change of neighbourhood |
//! | `reports/` | the folder of the evaluation on the other cases, one for each choice |

use std::fs;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::point::TuneTrial;
use super::search::{Tried, protocol};
use super::space::Space;
use super::split::Split;
use super::table;
use super::tuning::Tuning;
use crate::base::{Error, Result};
use crate::editor::Editor;
use crate::editor::evaluation::Mode;
use crate::eval::folder::Folder;
use crate::eval::interval::{Interval, TWO_SIDED, bootstrap, change, clopper_pearson};
use crate::eval::measure::{Measure, measures};
use crate::eval::report::scatter::{Mark, scatter};
use crate::store::tensor_fingerprint;
use crate::store::write::whole;

/// The tails of a limit below which a change is with 5 %.
const ONE_SIDED: [f64; 2] = [0.05, 0.95];

/// Records that changed, below which changes have no spread to draw from.
const FEW: usize = 5;

/// What tuning found.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// The hyperparameters, by their names.
    pub hyperparameters: Map<String, Value>,
    /// Why these, in a sentence.
    pub why: String,
    /// What they did on the cases that chose them.
    pub chosen: TuneTrial,
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
    pub trial: TuneTrial,
    /// The exact interval of efficacy, of 95 %.
    pub es_interval: [f64; 2],
    /// The lower limit of the change of neighbourhood, paired by case: one-sided, of 95 %.
    pub ns_change_low: f64,
    /// How often these records reported, this time with it.
    pub looks: usize,
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
    (chosen, space): (TuneTrial, &Space),
    made_of: &Value,
) -> Result<Tuned> {
    let at_once = chosen.at_once;
    let editor = editor.at(&chosen.point)?;
    let run = json!({
        "program": env!("CARGO_PKG_VERSION"), "model": editor.dir(),
        "model_fingerprint": editor.fingerprint(), "split": split.hash,
        "method": editor.settings.chosen()?.about().name, "hyperparameters": chosen.point,
        "made_of": made_of,
        "mode": "batch", "batch_size": at_once, "seed": editor.settings.seed,
    });
    let name = tensor_fingerprint(run.to_string().as_bytes());
    let reports = by.dir.join("reports");
    let folder = reports.join(&name[..16]);
    let mut results = Folder::open(&folder, run)?;
    let protocol = protocol(Mode::Batch(at_once));
    editor.evaluation(&split.report, &protocol)?.run(&mut results)?;
    results.summarise(editor.settings.seed)?;
    let all: Vec<_> = results.kept.results.iter().collect();
    let lacks = || Error::input(&folder, "results", "lacks metrics of this run", "remove it");
    let trial = TuneTrial::new(chosen.point.clone(), at_once, &all).ok_or_else(lacks)?;
    let measured = measures(&all);
    let es = column(&measured, "counterfact.es").ok_or_else(lacks)?;
    let ns = column(&measured, "counterfact.ns").ok_or_else(lacks)?;
    let moved = change(&ns.before[0], &ns.after[0]);
    let took = es.after[0].iter().filter(|share| **share == Some(1.0)).count();
    let Interval { low, high } = clopper_pearson(took, es.after[0].len(), TWO_SIDED);
    let limit = lower_limit(&moved, editor.settings.seed);
    let looks = fs::read_dir(&reports).map_or(1, Iterator::count);
    if looks > 1 {
        editor.settings.progress.warn(&format!(
            "these records reported {looks} times: with each they say less of others"
        ));
    }
    let reported = Reported {
        es_interval: [100.0 * low, 100.0 * high],
        ns_change_low: 100.0 * limit,
        looks,
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
    table::write(by, split, &tried.0, Some(json!(tuned)))?;
    let curve = scatter(
        ["change of neighbourhood success, points", "mean of efficacy and paraphrases, %"],
        &tried.0.iter().map(|trial| mark(trial, &tuned.chosen)).collect::<Vec<_>>(),
    )?;
    whole(&by.dir.join("trade-off.svg"), curve.as_bytes())?;
    Ok(tuned)
}

/// The least that the mean change may be. Of fewer records that changed than [`FEW`] there is no
/// spread to draw from: then those that fell may be as many as an exact interval allows, and have
/// fallen by all.
fn lower_limit(moved: &[Option<f64>], seed: u64) -> f64 {
    let there: Vec<f64> = moved.iter().flatten().copied().collect();
    let count = |is: fn(&f64) -> bool| there.iter().filter(|change| is(change)).count();
    if count(|change| *change != 0.0) < FEW {
        return -clopper_pearson(count(|change| *change < 0.0), there.len(), ONE_SIDED).high;
    }
    let drawn = bootstrap(&[moved], |means| means[0], ONE_SIDED, seed);
    drawn.map_or(-1.0, |limit| limit.low)
}

fn column<'a>(measured: &'a [Measure], name: &str) -> Option<&'a Measure> {
    measured.iter().find(|measure| measure.name == name)
}

fn mark(trial: &TuneTrial, chosen: &TuneTrial) -> Mark {
    Mark {
        at: [trial.ns_change, (trial.es + trial.ps) / 2.0],
        weight: trial.facts as f64 / chosen.facts as f64,
        ringed: trial.point == chosen.point && trial.facts == chosen.facts,
    }
}

/// Why a point was chosen.
fn why(chosen: &TuneTrial, tried: &Tried, space: &Space) -> String {
    format!(
        "{} of {} trials reached {} facts, {} at once, and this one lacks least, {:.1} points: {}",
        tried.0.iter().filter(|trial| trial.facts == chosen.facts).count(),
        tried.0.len(),
        chosen.facts,
        chosen.at_once,
        chosen.cost(),
        chosen.words(&space.names()),
    )
}
