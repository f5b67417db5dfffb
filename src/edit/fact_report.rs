//! What one edit did to one fact.
//!
//! ```text
//! P       Π_i p(y_i | prompt, y_1 … y_{i−1})       of the target y's tokens, after the bare prompt
//! taken   each y_i is the likeliest token there: greedy decoding says the target
//! ```
//!
//! What came out is measured in the model with all facts in it and its changed matrices rounded to
//! the type the checkpoint stores: the model that is written.

use super::facts::TokenizedFact;
use super::prompts::FactRows;
use super::search::{LossStep, TargetValue};
use crate::base::{Error, Progress, Result, Stage};
use crate::linalg::vector::norm;
use crate::model::LanguageModel;
use crate::model::completion::Completion;
use crate::model::score::{self, Score};

/// What planning did for one fact.
#[derive(Clone, Debug, PartialEq)]
pub struct FactPlan {
    /// The loss at each step of its search, or in each epoch.
    pub trace: Vec<LossStep>,
    /// How far the value was moved, and ‖t₀‖, for methods that search one.
    pub value: Option<[f64; 2]>,
    /// Whether the norm anchor left the fact out.
    pub left_out: bool,
    /// ‖Δ‖ of this fact alone and ‖W‖ before it, for methods that change one fact after another.
    pub change: Option<[f64; 2]>,
    /// The cosine of the bare prompt's key and the average over contexts, for methods that look.
    pub key_cosine: Option<f64>,
    /// How many neurons were found for it, for methods that look for some.
    pub neurons: Option<usize>,
}

/// What one fact did.
#[derive(Clone, Debug, PartialEq)]
pub struct FactReport {
    /// The request's id.
    pub id: String,
    /// The token it is read at, as text, its place and the prompt's length.
    pub token: (String, usize, usize),
    /// The target's first token as text, with the space before it if there is one.
    pub target_token: String,
    /// Rewriting rows whose tokens merge over the seam of prompt and target.
    pub merged: usize,
    /// P of the whole target after the bare prompt: before, and in the edited model.
    pub p_target: [f64; 2],
    /// p of the target's least likely token in the edited model.
    pub p_min_token: f64,
    /// Whether greedy decoding of the edited model says the target.
    pub taken: bool,
    /// What planning did for it.
    pub plan: FactPlan,
    failed: Option<String>,
}

/// Prompts scored at a time: their logits are all there at once.
const SCORED: usize = 64;

impl FactPlan {
    /// Of a value that was found for one fact and moved by `moved`, z − t₀ (D).
    pub fn new(value: &TargetValue, moved: &[f64]) -> FactPlan {
        FactPlan {
            trace: value.trace.clone(),
            value: Some([norm(moved), norm(&value.t0)]),
            left_out: norm(moved) == 0.0 && norm(&value.delta) > 0.0,
            change: None,
            key_cosine: None,
            neurons: None,
        }
    }

    /// Of a fact that was trained on, by its loss in each epoch.
    pub fn trained(trace: Vec<LossStep>) -> FactPlan {
        let (value, change, key_cosine, neurons) = (None, None, None, None);
        FactPlan { trace, value, left_out: false, change, key_cosine, neurons }
    }
}

impl FactReport {
    /// Of a fact, by how the model takes its target before and after the edit. `why` says what kept
    /// it from being taken, and is asked only where something did.
    ///
    /// # Errors
    ///
    /// What `why` says.
    pub fn new(
        fact: &TokenizedFact,
        plan: FactPlan,
        [before, after]: [&Score; 2],
        why: impl FnOnce(&FactPlan) -> Result<String>,
    ) -> Result<FactReport> {
        let failed = after.missed().is_some().then(|| why(&plan)).transpose()?;
        Ok(FactReport {
            id: fact.request.id.clone(),
            token: fact.token.clone(),
            target_token: fact.target_token.clone(),
            merged: fact.rows.merged,
            p_target: [before.probability(), after.probability()],
            p_min_token: after.least(),
            taken: failed.is_none(),
            plan,
            failed,
        })
    }

    /// Whether the edited model says the target.
    pub fn succeeded(&self) -> bool {
        self.taken
    }

    /// Why the fact was not taken, and what to try; `None` where it was.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }
}

/// How a model takes each fact's target after its bare prompt.
///
/// # Errors
///
/// Cancellation, a device without room.
pub fn score(
    model: &dyn LanguageModel,
    facts: &[&FactRows],
    progress: &dyn Progress,
) -> Result<Vec<Score>> {
    let mut all = Vec::with_capacity(facts.len());
    for some in facts.chunks(SCORED) {
        if progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
        }
        progress.at(Stage::Probability, all.len() as u64, facts.len() as u64);
        let texts: Vec<Completion> = some.iter().map(|rows| rows.completion(0)).collect();
        all.extend(score::score(model, &texts)?);
    }
    Ok(all)
}
