//! The samples that editors are trained on: requests with their paraphrases and what must stay.
//!
//! ```text
//! edit       the request's prompt and new target
//! outer      each paraphrase with that target; the prompt itself where there is none
//! locality   each text of `neighbourhood` and `locality`, with its target where it has one
//! ```
//!
//! A look at a sample draws one of its outer prompts and one of its locality texts, all alike;
//! where the method says so, half of the outer prompts are the edit itself.

use super::objective::{Drawn, LocalityText};
use crate::base::{Error, Result, Rng};
use crate::data::{Continuation, Fact};
use crate::model::Model;
use crate::model::completion::Completion;
use crate::store::Fingerprint;
use crate::text::Tokenizer;

/// A request as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The request's id.
    pub name: String,
    /// What is edited.
    pub edit: Completion,
    /// The same fact in other words: at least one.
    pub outer: Vec<Completion>,
    /// What should stay: at least one text.
    pub locality: Vec<LocalityText>,
}

impl Sample {
    /// Of a request; `space` says whether a space stands before targets where it does not.
    ///
    /// # Errors
    ///
    /// A request without a text that should stay; a text that vanishes in tokenisation, or that the
    /// model cannot run.
    pub fn new(
        model: &Model,
        tokenizer: &Tokenizer,
        fact: &Fact,
        space: Option<bool>,
    ) -> Result<Sample> {
        let id = &fact.id;
        let named = |e: Error| match e {
            Error::Refused { what, remedy } => {
                Error::refused(format!("record `{id}`: {what}"), *remedy)
            }
            e => e,
        };
        let space = fact.space.or(space);
        let tokens = |prompt: &str, target: Option<&str>| -> Result<[Vec<u32>; 2]> {
            let prompted = tokenizer.encode(prompt)?;
            let target = target.map(|target| tokenizer.encode_target(prompt, target, space));
            let target = target.transpose()?.unwrap_or_default();
            model.arch.check(&[&prompted[..], &target].concat())?;
            if prompted.is_empty() {
                return Err(Error::refused("a prompt has no token", "give it a text"));
            }
            Ok([prompted, target])
        };
        let completion = |prompt: &str| {
            let [prompt, target] = tokens(prompt, Some(&fact.target_new)).map_err(named)?;
            match target.is_empty() {
                true => Err(named(Error::refused("the target has no token", "give a target"))),
                false => Ok(Completion::new(&prompt, &target)),
            }
        };
        let edit = completion(&fact.filled())?;
        let mut outer: Vec<Completion> =
            fact.paraphrases.iter().map(|prompt| completion(prompt)).collect::<Result<_>>()?;
        if outer.is_empty() {
            outer.push(edit.clone());
        }
        let stays = fact.neighbourhood.iter().chain(&fact.locality);
        let text = |stays: &Continuation| {
            let [prompt, target] = tokens(&stays.prompt, stays.target.as_deref()).map_err(named)?;
            Ok(LocalityText { prompt: prompt.len(), ids: [prompt, target].concat() })
        };
        let locality: Vec<LocalityText> = stays.map(text).collect::<Result<_>>()?;
        if locality.is_empty() {
            let what = format!("record `{id}` has no text that should stay as it is");
            return Err(Error::refused(what, "give it `neighbourhood` or `locality`"));
        }
        Ok(Sample { name: id.clone(), edit, outer, locality })
    }

    /// One of its outer prompts and one of its locality texts; with `edits`, the edit itself as
    /// likely as any outer prompt.
    pub fn draw(&self, edits: bool, rng: &mut Rng) -> Drawn<'_> {
        let is_edit = edits && rng.below(2) == 0;
        let outer = if is_edit { &self.edit } else { &self.outer[rng.below(self.outer.len())] };
        Drawn { edit: &self.edit, outer, locality: &self.locality[rng.below(self.locality.len())] }
    }

    /// Adds it to a name for what is trained on it.
    pub fn digest(&self, into: &mut Fingerprint) {
        for text in std::iter::once(&self.edit).chain(&self.outer) {
            into.field(bytemuck::cast_slice(&text.read));
            into.field(bytemuck::cast_slice(&text.labels));
        }
        into.field(b"");
        for text in &self.locality {
            into.field(bytemuck::cast_slice(&text.ids));
            into.add(&(text.prompt as u64).to_le_bytes());
        }
        into.field(b"");
    }
}
