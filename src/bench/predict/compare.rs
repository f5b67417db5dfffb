//! A card's results beside what is expected of it.
//!
//! A results file is what a benchmark writes, or `tools/gpu_check`, which gathers several.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::card::{CardRates, ELEMENT_ISSUE, MOMENT, PASS, STREAM, parts};
use super::predict;
use super::step::Instructions;
use super::work::AskedEdit;
use crate::base::{DType, Error, Result};
use crate::bench::Unit;
use crate::model::{SearchPrecision, random};

/// A measurement and what was expected.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// The row's.
    pub name: String,
    /// The row's.
    pub on: String,
    /// What was measured.
    pub measured: f64,
    /// What was expected; `None` where nothing is.
    pub expected: Option<f64>,
}

impl Beside {
    /// Measured by expected.
    pub fn ratio(&self) -> Option<f64> {
        self.expected.map(|expected| self.measured / expected)
    }

    /// Whether the calculation is off by more than a quarter, and is to be corrected first.
    pub fn is_off(&self) -> bool {
        self.ratio().is_some_and(|ratio| !(0.8..=1.25).contains(&ratio))
    }
}

/// What a kind of row is bound by.
enum Bound {
    /// A part of the rate of a copy.
    Copy(f64),
    /// FLOP a second.
    Flop(f64),
    /// So many bf16 products by our own kernel for second moments.
    Moment(usize),
    /// An activation in bf16, forward or backward, by its instructions, and how many bytes it moves
    /// for an element.
    Activation(usize, f64),
    /// Long attention in f32, forward.
    Attention,
    /// A library's factors, or ours.
    Factor,
}

/// By the beginning of a row's name; the first that fits.
const BOUNDS: &[(&str, Bound)] = &[
    ("copy", Bound::Copy(1.0)),
    ("gelu_tanh, backward, bf16", Bound::Activation(1, 6.0)),
    ("gelu_tanh, bf16", Bound::Activation(0, 4.0)),
    ("gelu_tanh", Bound::Copy(STREAM)),
    ("layer norm", Bound::Copy(0.6)),
    ("residual", Bound::Copy(0.87)),
    ("rounding", Bound::Copy(0.6)),
    ("rotary", Bound::Copy(0.25)),
    ("log-softmax", Bound::Copy(0.5)),
    ("attention, backward", Bound::Flop(1.0e12)),
    ("attention, bf16", Bound::Flop(65e12)),
    ("attention", Bound::Attention),
    ("second moment, bf16", Bound::Moment(1)),
    ("second moment", Bound::Moment(3)),
    ("low-rank update, r 1,", Bound::Copy(0.18)),
    ("low-rank update, r 8,", Bound::Copy(0.18)),
    ("low-rank update", Bound::Flop(11e12)),
    ("factor and solve", Bound::Factor),
];

/// What was measured, and by whose products.
#[derive(Deserialize)]
struct Results {
    device: String,
    products: String,
    rows: Vec<Measured>,
}

/// A row, as far as it is needed.
#[derive(Deserialize)]
struct Measured {
    name: String,
    shape: String,
    seconds: f64,
    work: f64,
    unit: Unit,
}

/// The rows of a results file beside what is expected of them on a card, for a model of a shape
/// that [`random::config`] knows.
///
/// # Errors
///
/// A file that cannot be read or is no results file; a shape that is not known.
pub fn compare(file: &Path, shape: &str, card: &'static CardRates) -> Result<Vec<Beside>> {
    let text = std::fs::read(file).map_err(|e| Error::io(file, "read", e))?;
    let remedy = "name what a benchmark or tools/gpu_check wrote";
    let bad = |what: String| Error::input(file, "rows", what, remedy);
    let whole: Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let mut found = Vec::new();
    results(&whole, &mut found).map_err(|e| bad(e.to_string()))?;
    if found.iter().all(|results| results.rows.is_empty()) {
        return Err(bad("no results of a device".to_owned()));
    }
    if let Some(of) = found.iter().map(|results| &results.device).find(|d| !d.contains(card.title))
    {
        let what = format!("results of `{of}`, and what is expected is of {}", card.title);
        return Err(Error::input(file, "device", what, "compare results of that card"));
    }
    let mut all = Vec::new();
    for results in found {
        let libraries = results.products != "own";
        for row in results.rows {
            let expected = Expected { shape, libraries, card }.of(&row)?;
            all.push(Beside { name: row.name, on: row.shape, measured: row.seconds, expected });
        }
    }
    Ok(all)
}

/// The results of benchmarks anywhere in a file.
fn results(value: &Value, found: &mut Vec<Results>) -> serde_json::Result<()> {
    match value {
        Value::Object(fields) if fields.contains_key("rows") && fields.contains_key("products") => {
            found.push(Results::deserialize(value)?);
            Ok(())
        }
        Value::Object(fields) => fields.values().try_for_each(|value| results(value, found)),
        Value::Array(all) => all.iter().try_for_each(|value| results(value, found)),
        _ => Ok(()),
    }
}

/// What rows of a run are expected to take.
struct Expected<'a> {
    shape: &'a str,
    libraries: bool,
    card: &'static CardRates,
}

impl Expected<'_> {
    fn of(&self, row: &Measured) -> Result<Option<f64>> {
        let Expected { shape, libraries, card } = *self;
        let precision = match row.name.contains(", fast") {
            true => SearchPrecision::Fast,
            false => SearchPrecision::Exact,
        };
        let asked = |facts| AskedEdit {
            shape: shape.to_owned(),
            facts,
            precision,
            stored: DType::BF16,
            libraries,
        };
        if row.name.starts_with("value search") {
            let facts = row.work as usize;
            return Ok(Some(predict(asked(facts), card)?.search()));
        }
        if row.name.starts_with("edit of ") {
            let facts = row.work as usize;
            let fast = AskedEdit { precision: SearchPrecision::Fast, ..asked(facts) };
            return Ok(Some(predict(fast, card)?.without_files()));
        }
        if row.name.starts_with("prefill") {
            let (arch, gated) = random::arch(shape)?;
            let weights = random::layer_weights(&arch, gated) * arch.layers as f64;
            let rate = self.products(precision == SearchPrecision::Exact, DType::BF16);
            return Ok(Some(2.0 * row.work * weights / rate * PASS));
        }
        if let Some(of) = row.name.strip_prefix("product with ") {
            return Ok(self.product(row, of));
        }
        let Some((_, bound)) = BOUNDS.iter().find(|(name, _)| row.name.starts_with(name)) else {
            return Ok(None);
        };
        let by = Instructions::of_machine_code();
        let own = card.own(by.product);
        Ok(match (bound, row.unit) {
            (Bound::Copy(share), Unit::Bytes) => Some(row.work / (card.copy * share)),
            (Bound::Flop(rate), Unit::Flop) => Some(row.work / rate),
            (Bound::Moment(parts), Unit::Flop) => Some(row.work * *parts as f64 / (own * MOMENT)),
            (Bound::Attention, Unit::Flop) => Some(row.work / card.attention),
            (Bound::Activation(way, bytes), Unit::Bytes) => {
                let executed = by.activation[*way] * row.work / bytes / 32.0;
                Some(executed / (card.issue * ELEMENT_ISSUE))
            }
            (Bound::Factor, Unit::Flop) => {
                let library = libraries && !row.name.contains(", own");
                Some(row.work / if library { card.factor } else { card.own_f64 })
            }
            _ => None,
        })
    }

    /// FLOP a second of products.
    fn products(&self, wide: bool, weights: DType) -> f64 {
        let parts = parts(wide, weights) as f64;
        let library = self.libraries && weights == DType::BF16;
        let own = self.card.own(Instructions::of_machine_code().product);
        if library { self.card.library / parts } else { own / parts }
    }

    /// Of few rows the weights are what takes time.
    fn product(&self, row: &Measured, of: &str) -> Option<f64> {
        let (stored, own) = match of {
            "BF16" => (DType::BF16, false),
            "BF16, own" => (DType::BF16, true),
            "F32" => (DType::F32, false),
            _ => return None,
        };
        let sizes: Option<Vec<f64>> =
            row.shape.split(" × ").map(|size| size.trim().parse().ok()).collect();
        let [_, out, inner] = sizes?.try_into().ok()?;
        let libraries = self.libraries && !own;
        let rate = Expected { libraries, ..*self }.products(true, stored);
        let bytes = out * inner * stored.size() as f64;
        Some((row.work / rate).max(bytes / (self.card.copy * STREAM)))
    }
}
