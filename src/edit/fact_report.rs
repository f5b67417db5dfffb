//! What one edit did to one fact.

use super::prompts::FactRows;
use super::search::{LossStep, TargetValue};
use crate::base::{Error, Progress, Result, Stage};
use crate::linalg::vector::norm;
use crate::model::Model;
use crate::model::score::Completion;

/// What one fact did.
#[derive(Clone, Debug)]
pub struct FactReport {
    /// The request's id.
    pub id: String,
    /// The loss at each step of its search.
    pub trace: Vec<LossStep>,
    /// The subject's last token, as text, its place and the prompt's length.
    pub token: (String, usize, usize),
    /// Per-token probability of the target after the bare prompt: before, and in the edited model.
    pub probability: [f64; 2],
    /// How far the value was moved, and ‖t₀‖.
    pub value: [f64; 2],
    /// Whether the norm anchor left the fact out.
    pub left_out: bool,
    /// ‖Δ‖ of this fact alone and ‖W‖ before it, for methods that change one fact after another.
    pub change: Option<[f64; 2]>,
    /// Rewriting rows whose tokens merge over the seam of prompt and target.
    pub merged: usize,
}

/// How a fact was planned.
pub enum How<'a> {
    /// By itself.
    Alone {
        /// ‖Δ‖.
        norm: f64,
        /// ‖W‖ before it.
        weight: f64,
    },
    /// With others, its value moved by z − t₀ (D).
    Together {
        /// z − t₀.
        moved: &'a [f64],
    },
}

/// The probability below which a fact is said to have failed: something else may be likelier.
const LIKELY: f64 = 0.5;

/// Prompts judged at a time: their logits are all there at once.
const JUDGED: usize = 64;

impl FactReport {
    /// Of a fact whose value was found, with its probabilities.
    pub fn new(
        fact: &super::facts::TokenizedFact,
        value: &TargetValue,
        probability: [f64; 2],
        how: How,
    ) -> FactReport {
        let (moved, change) = match how {
            How::Alone { norm, weight } => (&value.delta[..], Some([norm, weight])),
            How::Together { moved } => (moved, None),
        };
        FactReport {
            id: fact.request.id.clone(),
            trace: value.trace.clone(),
            token: fact.token.clone(),
            probability,
            value: [norm(moved), norm(&value.t0)],
            left_out: norm(moved) == 0.0 && norm(&value.delta) > 0.0,
            change,
            merged: fact.rows.merged,
        }
    }

    /// Whether the target is likely now.
    pub fn succeeded(&self) -> bool {
        self.failed().is_none()
    }

    /// Why the fact cannot be relied on, and what to try; `None` where the target is likely now.
    pub fn failed(&self) -> Option<String> {
        let p = self.probability[1];
        if self.left_out {
            let why = "left out: its value ran away, beyond twice the norm anchor";
            return Some(format!("{why}; try fewer v_num_grad_steps or a smaller v_lr"));
        }
        let (first, last) = (self.trace.first()?.total(), self.trace.last()?.total());
        // The search reached a likely target where its loss is below that of the limit.
        let remedy = match last < -LIKELY.ln() {
            true => {
                "its value was found, and the weights do not reach it: edit fewer facts at \
                     once, more layers, or with a smaller mom2_update_weight or L2"
            }
            false => {
                "its value was not found: try another layer, more v_num_grad_steps or a \
                      larger clamp_norm_factor"
            }
        };
        (p < LIKELY).then(|| {
            format!(
                "the edit did not take: P of the target is {p:.2e}, and the loss went from \
                 {first:.2} to {last:.2} in {} steps; {remedy}",
                self.trace.len()
            )
        })
    }
}

/// The per-token probability of each fact's target after its bare prompt.
///
/// # Errors
///
/// Cancellation, a device without room.
pub fn probabilities(
    model: &Model,
    facts: &[&FactRows],
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let mut all = Vec::with_capacity(facts.len());
    for some in facts.chunks(JUDGED) {
        if progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
        }
        progress.at(Stage::Probability, all.len() as u64, facts.len() as u64);
        let judged: Vec<Completion> = some
            .iter()
            .map(|rows| Completion {
                ids: [&rows.keys[0].ids[..], &rows.target].concat(),
                candidate: rows.target.len(),
            })
            .collect();
        let judged = model.log_probability(&judged)?;
        all.extend(judged.into_iter().map(f64::exp));
    }
    Ok(all)
}
