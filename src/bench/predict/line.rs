//! A line of a prediction.

use serde::Serialize;

/// A part of the work, how long it takes, and what that rests on.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// `step` (of a full batch), or `stage`.
    pub of: &'static str,
    /// What is done.
    pub name: &'static str,
    /// How long.
    pub seconds: f64,
    /// Numbers and where they come from.
    pub rests_on: String,
}

impl Line {
    /// A part of one step of the search.
    pub fn step(name: &'static str, seconds: f64, rests_on: String) -> Line {
        Line { of: "step", name, seconds, rests_on }
    }

    /// A stage of the edit.
    pub fn stage(name: &'static str, seconds: f64, rests_on: String) -> Line {
        Line { of: "stage", name, seconds, rests_on }
    }
}

/// Seconds of some lines in all.
pub fn total<'a>(lines: impl IntoIterator<Item = &'a Line>) -> f64 {
    lines.into_iter().map(|line| line.seconds).sum()
}
