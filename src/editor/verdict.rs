//! How each fact came out: measured on the model as it is written, with all facts in it.

use std::sync::Arc;

use super::prepared::Prepared;
use crate::base::Result;
use crate::edit::advice::{Edited, Outcome};
use crate::edit::apply::{self, PatchSide};
use crate::edit::fact_report::{FactPlan, FactReport, score};
use crate::edit::facts::TokenizedFact;
use crate::edit::prompts::FactRows;
use crate::memory::Memory;
use crate::model::score::{self, Missed, Score};
use crate::model::{LanguageModel, Model};
use crate::store::Patch;

/// The model with a patch in it, its changed matrices rounded to the types they are stored in, or
/// with what lives beside its weights.
pub(super) struct WrittenModel {
    pub model: Model,
    pub with: Arc<dyn LanguageModel>,
    /// The largest share of a matrix' change that rounding lost.
    pub lost: f64,
}

impl Prepared {
    /// How the model takes each fact as it is.
    pub(super) fn scores(&self) -> Result<Vec<Score>> {
        score(self.model(), &self.rows(), &*self.settings.progress)
    }

    /// The model as a patch leaves it.
    ///
    /// # Errors
    ///
    /// Values that the stored type cannot hold; a checkpoint that was changed meanwhile.
    pub(super) fn written(&self, patch: &Patch) -> Result<WrittenModel> {
        let (dir, by) = (&self.opened.dir, &self.model().compute);
        let patches = std::slice::from_ref(patch);
        let progress = &*self.settings.progress;
        let (made, report) = apply::to_memory(dir, patches, PatchSide::After, by, progress)?;
        let lost = report.tensors.iter().map(|changed| changed.lost).fold(0.0, f64::max);
        let mut model = self.model().clone();
        for tensor in made {
            model = model.with_stored(&tensor.name, tensor.dtype, Arc::new(tensor.bytes));
        }
        Ok(WrittenModel { with: Arc::new(model.clone()), model, lost })
    }

    /// The model with a memory.
    ///
    /// # Errors
    ///
    /// A device out of memory.
    pub(super) fn remembering(&self, memory: Arc<dyn Memory>) -> Result<WrittenModel> {
        let model = self.model().clone();
        let with = memory.on(Arc::new(model.clone()))?;
        Ok(WrittenModel { model, with, lost: 0.0 })
    }

    /// A report of each fact: what was planned for it, how the model took it before, and how the
    /// written model does.
    ///
    /// # Errors
    ///
    /// Cancellation, a device without room.
    pub(super) fn reports(
        &self,
        plans: Vec<FactPlan>,
        before: &[Score],
        written: &WrittenModel,
    ) -> Result<Vec<FactReport>> {
        let after = score(&*written.with, &self.rows(), &*self.settings.progress)?;
        let edited = Edited {
            method: self.method,
            params: &self.params,
            contexts: &self.contexts,
            facts: self.facts.len(),
            lost: written.lost,
        };
        let scores = before.iter().zip(&after);
        let report = |((fact, plan), (before, after)): ((&TokenizedFact, FactPlan), _)| {
            let why = |plan: &FactPlan| self.why(&edited, fact, plan, (after, &*written.with));
            FactReport::new(fact, plan, [before, after], why)
        };
        self.facts.iter().zip(plans).zip(scores).map(report).collect()
    }

    /// Why a fact was not taken by a model, which took it as its score says.
    fn why(
        &self,
        edited: &Edited,
        fact: &TokenizedFact,
        plan: &FactPlan,
        (score, model): (&Score, &dyn LanguageModel),
    ) -> Result<String> {
        let Some(Missed { at, says }) = score.missed() else { return Ok(String::new()) };
        let texts: Vec<_> = (1..fact.rows.keys.len()).map(|j| fact.rows.completion(j)).collect();
        let in_contexts = match texts.len() {
            0 => None,
            n => Some(
                score::score(model, &texts)?.iter().map(Score::probability).sum::<f64>() / n as f64,
            ),
        };
        let text = |id| self.opened.tokenizer.token_text(id);
        let says = says.map_or("nothing finite".to_owned(), text);
        let token = [&*text(fact.rows.target[at]), &says];
        Ok(edited.why(plan, &Outcome { token, p: score.probability(), in_contexts }))
    }

    fn rows(&self) -> Vec<&FactRows> {
        self.facts.iter().map(|fact| &fact.rows).collect()
    }
}
