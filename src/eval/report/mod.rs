//! Pages of results: one file each, without a network. `page.html` is a run's, `compare.html` that
//! of several; `base.html` has the style of both.
//!
//! Names and texts are other people's. The template engine escapes all of them, and what would
//! reorder or hide text is shown as what it is.

mod plot;
pub mod scatter;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Shown};
use minijinja::{Environment, Output, State, escape_formatter};
use serde_json::{Value, json};

use super::compare::{ComparedMetric, ComparedRun, Comparison, RunValue};
use super::kept::Kept;
use super::measure::SCORE;
use super::metric::MetricUnit;
use super::overview::{Cohort, Overview};
use super::results::{CaseResult, FactResult, Summary};
use super::suites;
use crate::base::{Error, Result, escape, units};
use plot::{Track, tracks};

/// Facts that are named on a page, and groups.
const NAMED: usize = 200;
const GROUPS: usize = 40;

/// The page of a run.
///
/// # Errors
///
/// What the libraries of templates and plots say.
pub fn page(kept: &Kept, overview: &Overview) -> Result<String> {
    let cases = kept.last();
    let named: Vec<(&str, &FactResult)> = failed(&cases).take(NAMED).collect();
    let mut metrics: Vec<(&String, &Summary)> = overview.metrics.iter().collect();
    metrics.sort_by_key(|(name, _)| suites::place(name));
    let edited = overview.taken.is_some() || metrics.iter().any(|(_, m)| m.change.is_some());
    let groups = [
        ("Relation", &overview.by_relation),
        ("Age", &overview.by_age),
        ("Probability of the new target before the edit", &overview.by_probability),
    ];
    let groups = groups.into_iter().filter(|(_, cohorts)| !cohorts.is_empty());
    let groups = groups.map(|(title, cohorts)| grouped(title, cohorts));
    let groups: Vec<Value> = groups.collect::<Result<_>>()?;
    let values = json!({
        "run": kept.run, "overview": overview, "metrics": metrics, "edited": edited,
        "groups": groups, "failed": named, "n_failed": failed(&cases).count(),
        "headline": headline(&metrics, edited)?,
        "norms": norms(overview)?,
        "peak": overview.costs.iter().map(|cost| cost.peak_bytes).max(),
        "settings": settings(&kept.run),
    });
    render("page.html", &values)
}

/// The page of several runs.
///
/// # Errors
///
/// What the libraries of templates and plots say.
pub fn comparison(comparison: &Comparison) -> Result<String> {
    let plots = comparison.metrics.iter().filter(|metric| is_share(&metric.metric));
    let plots: Vec<Value> =
        plots.map(|metric| of_runs(comparison, metric)).collect::<Result<_>>()?;
    render("compare.html", &json!({"comparison": comparison, "plots": plots}))
}

fn is_share(name: &str) -> bool {
    name == SCORE
        || suites::metric(name).is_some_and(|named| named.metric.unit == MetricUnit::Share)
}

/// The metrics that are shares.
fn headline(metrics: &[(&String, &Summary)], edited: bool) -> Result<String> {
    let shares = metrics.iter().filter(|(name, _)| is_share(name));
    let track = |(name, summary): &(&String, &Summary)| Track {
        label: (*name).clone(),
        shown: number(summary.mean),
        mean: summary.mean,
        interval: Some([summary.low, summary.high]),
        before: edited.then_some(summary.before),
    };
    tracks("Scores in percent", &shares.map(track).collect::<Vec<_>>(), 100.0)
}

/// Groups of cases: the picture is of what is listed first, the table of all.
fn grouped(title: &str, cohorts: &[Cohort]) -> Result<Value> {
    let shown = &cohorts[..cohorts.len().min(GROUPS)];
    let track = |cohort: &Cohort| {
        let first = cohort.success.first()?;
        Some(Track {
            label: format!("{} ({})", cohort.group, cohort.cases),
            shown: number(first.mean),
            mean: first.mean,
            interval: Some([first.low, first.high]),
            before: None,
        })
    };
    let plot = tracks(title, &shown.iter().filter_map(track).collect::<Vec<_>>(), 100.0)?;
    let of = shown.iter().flat_map(|cohort| &cohort.success).next().map(|value| &value.metric);
    let more = cohorts.len() - shown.len();
    Ok(json!({"title": title, "plot": plot, "of": of, "cohorts": shown, "more": more}))
}

/// How far matrices were moved, in percent of their norms.
fn norms(overview: &Overview) -> Result<String> {
    let most = overview.changes.iter().map(|moved| 100.0 * moved.ratio_max).fold(0.0, f64::max);
    let tracks_of = overview.changes.iter().map(|moved| Track {
        label: moved.matrix.clone(),
        shown: units::percent(moved.ratio),
        mean: 100.0 * moved.ratio,
        interval: None,
        before: None,
    });
    let most = if most > 0.0 { most } else { 1.0 };
    tracks("Norm of the change in percent of the matrix", &tracks_of.collect::<Vec<_>>(), most)
}

/// A metric in several runs.
fn of_runs(comparison: &Comparison, metric: &ComparedMetric) -> Result<Value> {
    let track = |(run, value): (&ComparedRun, &RunValue)| Track {
        label: run.name.clone(),
        shown: number(value.mean),
        mean: value.mean,
        interval: Some([value.low, value.high]),
        before: None,
    };
    let tracks_of = comparison.runs.iter().zip(&metric.runs).map(track);
    let svg = tracks("Runs", &tracks_of.collect::<Vec<_>>(), 100.0)?;
    Ok(json!({"metric": metric.metric, "svg": svg}))
}

/// Facts that the edited model does not say, with their case's id.
fn failed<'a>(cases: &[&'a CaseResult]) -> impl Iterator<Item = (&'a str, &'a FactResult)> {
    let of = |case: &&'a CaseResult| case.facts.iter().map(|fact| (&case.id[..], fact));
    cases.iter().flat_map(of).filter(|(_, fact)| fact.why.is_some())
}

/// What was asked for, a line each.
fn settings(run: &Value) -> Vec<(String, String)> {
    let asked = run.as_object().into_iter().flatten();
    let asked = asked.filter(|(_, value)| !matches!(value, Value::Null));
    asked
        .filter(|(name, _)| *name != "data")
        .map(|(name, value)| (name.clone(), word(value)))
        .collect()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn render(name: &str, values: &Value) -> Result<String> {
    let failed = |e| Error::refused(format!("a page: {e:#}"), "report this");
    environment().and_then(|env| env.get_template(name)?.render(Serde(values))).map_err(failed)
}

/// Templates whose name ends so are escaped as HTML.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    env.set_syntax(syntax);
    env.set_formatter(formatter);
    env.add_filter("number", number);
    env.add_filter("signed", signed);
    env.add_filter("p", p_value);
    env.add_filter("percent", units::percent);
    env.add_filter("seconds", units::seconds);
    env.add_filter("bytes", |bytes: u64| format!("{}B", units::metric(bytes as f64)));
    env.add_filter("word", |value: Shown| word(&serde_json::to_value(value).unwrap_or_default()));
    env.add_template("base.html", include_str!("base.html"))?;
    env.add_template("page.html", include_str!("page.html"))?;
    env.add_template("compare.html", include_str!("compare.html"))?;
    Ok(env)
}

/// Shows what a text contains, and escapes it as HTML.
fn formatter(
    out: &mut Output,
    state: &mut State,
    value: &Shown,
) -> std::result::Result<(), minijinja::Error> {
    match value.as_str().filter(|_| !value.is_safe()) {
        Some(text) => escape_formatter(out, state, &Shown::from(&*escape::one_line(text))),
        None => escape_formatter(out, state, value),
    }
}

/// With as many digits as say something: `97.5`, `0.031`.
fn number(value: f64) -> String {
    let digits = if value == 0.0 || value.abs() >= 0.95 { 1 } else { 3 };
    format!("{value:.digits$}").replace('-', "−")
}

fn signed(value: f64) -> String {
    format!("{}{}", if value > 0.0 { "+" } else { "" }, number(value))
}

/// `0.031`, or that it is below what 10,000 draws tell well.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}
