//! What an edit of many facts should take on a card that is not here: a calculation, line by line.
//!
//! ```text
//! step     = products + head + short attention + activation + norms, residuals, rotary + rest
//! search   = facts · steps / batch · step
//! edit     = search + the host between steps + admitting + keys + solves + statistics
//!            + judging + reading and writing
//! part     = work / (rate of the card · share)
//! ```
//!
//! Work is counted by the code that does it (`predict/work.rs`), instructions are read from the
//! machine code (docs/kernels.md), rates and shares are data (`predict/card.rs`). No line is a
//! measurement: a card's own results are put beside it by [`compare`]. Launches take no time here:
//! a step of more than some 10 ms hides them, one of few facts does not.

pub mod card;
pub mod compare;
mod figures;
pub mod line;
mod stages;
mod step;
pub mod work;

use card::CardRates;
use line::{Line, total};
use serde::Serialize;
use step::Instructions;
use work::{AskedEdit, Work};

use crate::base::{DType, Result};
use crate::model::SearchPrecision;

/// A calculation.
#[derive(Debug, Serialize)]
pub struct Prediction {
    /// The card.
    pub card: &'static str,
    /// Parts of a step of a full batch.
    pub step: Vec<Line>,
    /// Stages of the edit.
    pub stages: Vec<Line>,
    /// Of the edit.
    pub seconds: f64,
}

impl Prediction {
    /// Seconds of admitting facts and of the search where none ends before the others.
    pub fn search(&self) -> f64 {
        let of = |line: &&Line| ["search, on the card", "admitting facts"].contains(&line.name);
        total(self.stages.iter().filter(of))
    }

    /// Seconds of the edit as a benchmark runs it, of a model in memory and of facts that end at
    /// the same step.
    fn without_files(&self) -> f64 {
        let left_out = ["search, the host between steps", "reading and writing weights"];
        total(self.stages.iter().filter(|line| !left_out.contains(&line.name)))
    }
}

/// What a calculation by hand of November 2026 gave for 10,000 facts in the shape of GPT-J, and why
/// this one gives more; nothing of other questions.
pub fn by_hand(asked: &AskedEdit) -> Option<(f64, &'static str)> {
    const COUNTED: &str = "it counted seven rows of logits a fact, where a target of two tokens \
                           has thirteen, and one row to the host for a judged token, where logits \
                           and their logarithms are two";
    const OWN: &str = "it counted the search's products alone as our kernel's, where every pass \
                       is, and a kernel that divided where it placed a tile, which none does now";
    if (&*asked.shape, asked.facts, asked.libraries) != ("gpt-j-6b", 10_000, true) {
        return None;
    }
    match (asked.precision, asked.stored) {
        (SearchPrecision::Fast, DType::BF16) => Some((405.0, COUNTED)),
        (SearchPrecision::Exact, DType::BF16) => Some((585.0, COUNTED)),
        (SearchPrecision::Fast, DType::F16) => Some((1330.0, OWN)),
        _ => None,
    }
}

/// What an edit should take.
///
/// # Errors
///
/// A shape that is not known.
pub fn predict(asked: AskedEdit, card: &'static CardRates) -> Result<Prediction> {
    let work = Work::of(asked)?;
    let by = Instructions::of_machine_code();
    let step = step::step(&work, card, &by);
    let stages = stages::stages(&work, card, &by, &step);
    Ok(Prediction { card: card.name, seconds: total(&stages), step, stages })
}
