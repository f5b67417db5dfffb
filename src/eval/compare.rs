//! Several runs against each other, case by case.
//!
//! ```text
//! cases        those that all runs measured; a metric's are those of them that have it in all runs
//! difference   run less first run, paired by case, with its interval of 95 %
//! p            that of Fisher's randomisation test; p_holm: Holm's over the runs, metric by metric
//! orders       runs that differ by their seed alone: from their lowest number to the highest
//! ```
//!
//! The score is no mean over cases, so the test is not for it: it has an interval and no p.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::interval::{self, Column, Interval, holm, randomisation};
use super::kept::{Kept, RUN};
use super::measure::{Measure, measures};
use super::results::CaseResult;
use crate::base::{Error, Result};

/// What `run.json` says of where a run's draws begin, and nothing of what it is.
const ORDER: [&str; 2] = ["seed", "order"];

/// Several runs in one table.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The runs; the others are compared with the first.
    pub runs: Vec<ComparedRun>,
    /// Settings that are not the same in all, and each run's.
    pub settings: BTreeMap<String, Vec<Value>>,
    /// Cases that all measured.
    pub cases: usize,
    /// Each metric that all have, in the order of their suites.
    pub metrics: Vec<ComparedMetric>,
    /// Metrics that some run has not.
    pub left_out: Vec<String>,
    /// What the order of edits does, where runs differ by their seed alone.
    pub orders: Vec<OrderRange>,
}

/// A run among others.
#[derive(Debug, Serialize)]
pub struct ComparedRun {
    /// What it is called here.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Cases that it measured.
    pub cases: usize,
}

/// A metric of all runs, over the cases that have it in all.
#[derive(Debug, Serialize)]
pub struct ComparedMetric {
    /// Its name.
    pub metric: String,
    /// What it is.
    pub definition: String,
    /// Cases that have it in all runs.
    pub n: usize,
    /// What it is in each run.
    pub runs: Vec<RunValue>,
}

/// What a metric is in one run.
#[derive(Debug, Serialize)]
pub struct RunValue {
    /// Its mean, as it is shown.
    pub mean: f64,
    /// The lower end of its interval of 95 %.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How much higher it is than in the first run, with its interval; nothing of the first.
    pub difference: Option<[f64; 3]>,
    /// How likely such a difference is where none is real.
    pub p: Option<f64>,
    /// The same, held against as many comparisons as there are runs.
    pub p_holm: Option<f64>,
}

/// What a number is in edits of several orders.
#[derive(Debug, Serialize)]
pub struct OrderRange {
    /// Names of the runs.
    pub runs: Vec<String>,
    /// Of each metric its mean over the orders, the lowest and the highest.
    pub metrics: BTreeMap<String, [f64; 3]>,
}

impl Comparison {
    /// Reads runs and holds them against the first. The seed is that of intervals and tests.
    ///
    /// # Errors
    ///
    /// Fewer than two runs; a folder without results or with damaged ones; runs of other data; no
    /// case in common.
    pub fn read(dirs: &[PathBuf], seed: u64) -> Result<Comparison> {
        if dirs.len() < 2 {
            return Err(Error::refused("one run is compared with nothing", "name two or more"));
        }
        let kept: Vec<Kept> = dirs.iter().map(|dir| Kept::read(dir)).collect::<Result<_>>()?;
        for (dir, other) in dirs.iter().zip(&kept).skip(1) {
            same_data((&dirs[0], &kept[0].run), (dir, &other.run))?;
        }
        let last: Vec<Vec<&CaseResult>> = kept.iter().map(Kept::last).collect();
        let common = common(&last);
        if common[0].is_empty() {
            let remedy = "compare runs of the same records";
            return Err(Error::refused("no case was measured in all of the runs", remedy));
        }
        let names = names(dirs);
        let runs = names.iter().zip(dirs).zip(&last).map(|((name, folder), cases)| ComparedRun {
            name: name.clone(),
            folder: folder.clone(),
            cases: cases.len(),
        });
        let of_runs: Vec<Vec<Measure>> = common.iter().map(|cases| measures(cases)).collect();
        let has = |run: &[Measure], name: &str| run.iter().any(|m| m.name == name);
        let in_all = |name: &&str| of_runs.iter().all(|run| has(run, name));
        let known: BTreeSet<&str> = of_runs.iter().flatten().map(|m| &m.name[..]).collect();
        let shared = of_runs[0].iter().map(|measure| &measure.name[..]).filter(in_all);
        let metrics: Vec<ComparedMetric> =
            shared.filter_map(|name| compared(name, &of_runs, seed)).collect();
        let left_out = known.into_iter().filter(|name| !in_all(name)).map(str::to_owned);
        Ok(Comparison {
            runs: runs.collect(),
            settings: settings(&kept),
            cases: common[0].len(),
            left_out: left_out.collect(),
            orders: orders(&kept, &names, &metrics),
            metrics,
        })
    }
}

/// Refuses runs whose records are not of the same files, by their bytes.
fn same_data(first: (&Path, &Value), other: (&Path, &Value)) -> Result<()> {
    let prints = |run: &Value| -> Vec<Value> {
        let files = run["data"].as_array().into_iter().flatten();
        files.map(|file| file["fingerprint"].clone()).collect()
    };
    if prints(first.1) == prints(other.1) {
        return Ok(());
    }
    let files = |run: &Value| {
        let files = run["data"].as_array().into_iter().flatten();
        let files = files.map(|file| file["file"].as_str().unwrap_or("a file without a name"));
        files.collect::<Vec<_>>().join(", ")
    };
    let what = format!(
        "{} is not what {} measured, {}: their bytes differ",
        files(other.1),
        first.0.display(),
        files(first.1)
    );
    Err(Error::input(other.0.join(RUN), "data", what, "compare runs of the same records"))
}

/// The cases that all runs have, in the order of the first.
fn common<'a>(runs: &[Vec<&'a CaseResult>]) -> Vec<Vec<&'a CaseResult>> {
    let by_id = |run: &Vec<&'a CaseResult>| -> HashMap<&'a str, &'a CaseResult> {
        run.iter().map(|case| (&case.id[..], *case)).collect()
    };
    let by_id: Vec<HashMap<&str, &CaseResult>> = runs.iter().map(by_id).collect();
    let mut seen = HashSet::new();
    let ids = runs[0].iter().map(|case| &case.id[..]);
    let ids = ids.filter(|id| seen.insert(*id) && by_id.iter().all(|run| run.contains_key(id)));
    let ids: Vec<&str> = ids.collect();
    by_id.iter().map(|run| ids.iter().map(|id| run[id]).collect()).collect()
}

/// A metric of all runs.
fn compared(name: &str, runs: &[Vec<Measure>], seed: u64) -> Option<ComparedMetric> {
    let of = |run: &Vec<Measure>| run.iter().find(|measure| measure.name == name).cloned();
    let runs: Vec<Measure> = runs.iter().map(of).collect::<Option<_>>()?;
    let mut columns: Vec<Vec<Column>> = runs.iter().map(|run| run.values().to_vec()).collect();
    keep_shared(&mut columns);
    let measure = &runs[0];
    let mut values = Vec::new();
    for own in &columns {
        let Interval { low, high } = measure.interval(own, seed)?;
        let mean = measure.mean(own)?;
        values.push(RunValue { mean, low, high, difference: None, p: None, p_holm: None });
    }
    for (value, own) in values.iter_mut().zip(&columns).skip(1) {
        value.difference = measure.difference(&columns[0], own, seed);
        if let ([first], [own]) = (&columns[0][..], &own[..]) {
            value.p = Some(randomisation(&interval::change(first, own), seed));
        }
    }
    let p: Option<Vec<f64>> = values[1..].iter().map(|value| value.p).collect();
    for (value, p) in values[1..].iter_mut().zip(holm(&p.unwrap_or_default())) {
        value.p_holm = Some(p);
    }
    let n = columns[0].iter().map(|column| column.iter().flatten().count()).min()?;
    let (metric, definition) = (measure.name.clone(), measure.definition.clone());
    Some(ComparedMetric { metric, definition, n, runs: values })
}

/// Leaves only values of cases that have one in every run, part by part.
fn keep_shared(runs: &mut [Vec<Column>]) {
    for part in 0..runs[0].len() {
        for case in 0..runs[0][part].len() {
            if runs.iter().any(|run| run[part][case].is_none()) {
                runs.iter_mut().for_each(|run| run[part][case] = None);
            }
        }
    }
}

/// The folders' names, or their whole paths where two are the same.
fn names(dirs: &[PathBuf]) -> Vec<String> {
    let short = |dir: &PathBuf| {
        let name = dir.file_name().unwrap_or(dir.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let names: Vec<String> = dirs.iter().map(short).collect();
    let unique = names.iter().collect::<HashSet<_>>().len() == names.len();
    if unique { names } else { dirs.iter().map(|dir| dir.display().to_string()).collect() }
}

/// What runs were asked for differently.
fn settings(runs: &[Kept]) -> BTreeMap<String, Vec<Value>> {
    let known: BTreeSet<&String> =
        runs.iter().filter_map(|run| run.run.as_object()).flat_map(|run| run.keys()).collect();
    let of = |name: &String| runs.iter().map(|kept| kept.run[name].clone()).collect::<Vec<_>>();
    let rows = known.into_iter().map(|name| (name.clone(), of(name)));
    rows.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// Ranges over runs that edit one upon the other and differ by their seed alone.
fn orders(runs: &[Kept], names: &[String], metrics: &[ComparedMetric]) -> Vec<OrderRange> {
    let mut groups: Vec<(Value, Vec<usize>)> = Vec::new();
    for (i, kept) in runs.iter().enumerate().filter(|(_, kept)| kept.is_sequential()) {
        let mut same = kept.run.clone();
        ORDER.iter().for_each(|name| same[*name] = json!(null));
        match groups.iter_mut().find(|(other, _)| *other == same) {
            Some((_, group)) => group.push(i),
            None => groups.push((same, vec![i])),
        }
    }
    let range = |(_, group): (Value, Vec<usize>)| {
        let of = |metric: &ComparedMetric| {
            let means: Vec<f64> = group.iter().map(|&i| metric.runs[i].mean).collect();
            let mean = means.iter().sum::<f64>() / means.len() as f64;
            let lowest = means.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (metric.metric.clone(), [mean, lowest, highest])
        };
        OrderRange {
            runs: group.iter().map(|&i| names[i].clone()).collect(),
            metrics: metrics.iter().map(of).collect(),
        }
    };
    groups.into_iter().filter(|(_, group)| group.len() > 1).map(range).collect()
}
