//! What a fact is trained on: the tokens that are run, and which token is wanted where.
//!
//! ```text
//! prompt last    p₁ … p_n                       y₁ … y_T all wanted at p_n
//! target         p₁ … p_n y₁ … y_{T−1}          y_t wanted at the token before it
//! and the end    p₁ … p_n y₁ … y_T              the same, and the end of text behind y_T
//! ```

use crate::edit::facts::TokenizedFact;
use crate::store::Fingerprint;

/// What is asked of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingObjective {
    /// All tokens of the target, each at the prompt's last token.
    PromptLast,
    /// The target, each token after those before it.
    Target,
    /// The target and, behind it, the end of text.
    TargetAndEnd,
}

/// The tokens of a fact, and what is wanted of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingText {
    /// What is run.
    pub ids: Vec<u32>,
    /// Where something is read, as an index into `ids`, and the token that is wanted there.
    pub wanted: Vec<(usize, u32)>,
}

impl TrainingText {
    /// Of a fact; `end` is the token that ends a text.
    ///
    /// # Panics
    ///
    /// Where the objective has an end, and none is given.
    pub fn new(
        fact: &TokenizedFact,
        objective: TrainingObjective,
        end: Option<u32>,
    ) -> TrainingText {
        let (prompt, target) = (&fact.rows.keys[0].ids, &fact.rows.target);
        let last = prompt.len() - 1;
        if objective == TrainingObjective::PromptLast {
            let wanted = target.iter().map(|&y| (last, y)).collect();
            return TrainingText { ids: prompt.clone(), wanted };
        }
        let end = (objective == TrainingObjective::TargetAndEnd)
            .then(|| end.expect("an objective with an end has the token"));
        let after: Vec<u32> = target.iter().copied().chain(end).collect();
        let ids = [prompt, &after[..after.len() - 1]].concat();
        let wanted = after.into_iter().enumerate().map(|(t, y)| (last + t, y)).collect();
        TrainingText { ids, wanted }
    }

    /// Adds it to a name for what is trained on it.
    pub fn digest(&self, into: &mut Fingerprint) {
        let TrainingText { ids, wanted } = self;
        into.field(bytemuck::cast_slice(ids));
        into.add(&(wanted.len() as u64).to_le_bytes());
        for &(at, y) in wanted {
            into.add(&(at as u64).to_le_bytes());
            into.add(&y.to_le_bytes());
        }
    }
}
