//! What a method is trained for: the loss of a sample, and its gradient.

use serde::Serialize;

use super::parameters::Parameters;
use crate::base::Result;
use crate::model::completion::Completion;

/// What is drawn of a sample for one look at it.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    /// What is edited: prompt and target.
    pub edit: &'a Completion,
    /// The same fact in other words, which the edited model should say.
    pub outer: &'a Completion,
    /// A text that should stay as likely as it was.
    pub locality: &'a LocalityText,
}

/// A text that should stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityText {
    /// Its tokens, those of its target included.
    pub ids: Vec<u32>,
    /// How many of them are its prompt, from 1.
    pub prompt: usize,
}

/// The loss of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SampleLoss {
    /// −ln p of the outer target in the edited model, the mean over its tokens.
    pub edit: f64,
    /// KL(p⁰ ‖ p) of the locality text before and after, the mean over its tokens; or what else
    /// stands for it.
    pub locality: f64,
    /// What is minimised.
    pub total: f64,
}

/// What a method is trained for.
pub trait SampleObjective {
    /// Whether half of the outer prompts that are drawn are the edit's own.
    fn draws_edits(&self) -> bool {
        false
    }

    /// Adds `weight` times the gradient of a sample's loss to the parameters' gradients; returns
    /// the loss.
    ///
    /// # Errors
    ///
    /// A device that fails.
    fn gradient(
        &mut self,
        parameters: &mut Parameters,
        drawn: &Drawn,
        weight: f64,
    ) -> Result<SampleLoss>;

    /// The loss of a sample; nothing is learnt from it.
    ///
    /// # Errors
    ///
    /// A device that fails.
    fn loss(&mut self, parameters: &mut Parameters, drawn: &Drawn) -> Result<SampleLoss>;

    /// Is told that a step was taken.
    fn stepped(&mut self, _: &mut Parameters) {}

    /// Is told the mean loss of all that is held out, whose `total` decides which parameters are
    /// best.
    fn looked(&mut self, _: &mut Parameters, _: &mut SampleLoss) {}
}
