//! Rounds: facts that were not taken are planned again, on the model as the rounds before left it.
//!
//! ```text
//! plan ← all facts
//! up to `rounds` in all: again ← the facts that the model does not say, planned on that model
//!     fewer are missing then: Δ ← Δ + Δ', and the next round
//!     no fewer: the round is dropped, and there is no other
//! ```
//!
//! The model is the one that would be written, its matrices rounded to the types they are stored
//! in. What a method carries goes on from round to round, such as the length of the norm anchor,
//! which is that of the first model; values and trainings are kept as those of the first round are.
//!
//! Source: UnderEdit, arXiv:2503.11895, which asks P[new] > P[old] where this is greedy decoding.

use super::prepared::Prepared;
use crate::base::units::counted;
use crate::base::{Error, Remedy, Result, catch_device_error};
use crate::edit::batch::total;
use crate::edit::cache::Cache;
use crate::edit::fact_report::{FactPlan, score};
use crate::edit::facts::TokenizedFact;
use crate::edit::method::Plan;
use crate::edit::prompts::FactRows;
use crate::model::Model;

impl Prepared {
    /// Refuses rounds of what has none.
    ///
    /// # Errors
    ///
    /// Rounds beside a state or a shard, or by a method that makes a memory.
    pub(super) fn check_rounds(&self) -> Result<()> {
        let settings = &self.settings;
        let given = [
            ("a state, which learns each fact once", settings.state.is_some()),
            ("a shard, which plans nothing", settings.shard.is_some()),
            ("a method whose edits live beside the weights", self.method.makes_memory()),
        ];
        match given.into_iter().find(|(_, given)| *given && settings.rounds > 1) {
            Some((what, _)) => {
                let remedy = Remedy::from("leave them out").option("rounds", None);
                Err(Error::refused(format!("rounds do not go with {what}"), remedy))
            }
            None => Ok(()),
        }
    }

    /// Plans what a plan left out again, while that helps. Returns how many rounds were taken.
    ///
    /// # Errors
    ///
    /// As [`plan`](Prepared::plan).
    pub(super) fn more_rounds(
        &self,
        mut plan: Plan,
        mut cache: Option<&mut Cache>,
    ) -> Result<(Plan, usize)> {
        let progress = &*self.settings.progress;
        let mut rounds = 1;
        if self.settings.rounds < 2 {
            return Ok((plan, rounds));
        }
        let (mut model, mut missing) = self.missing(&plan)?;
        while rounds < self.settings.rounds && !missing.is_empty() {
            let facts: Vec<TokenizedFact> =
                missing.iter().map(|&i| self.facts[i].clone()).collect();
            if let Some(cache) = cache.as_deref_mut() {
                cache.change_weights(&plan.changes);
            }
            let moments = |l| self.moment(l);
            let mut context = self.context(&moments, cache.as_deref_mut(), plan.state.clone());
            context.model = &model;
            let next = catch_device_error(|| self.method.plan(&mut context, &facts, &self.params))?;
            let next = self.added(&plan, next, &missing);
            let (with, left) = self.missing(&next)?;
            let (before, after) = (counted(missing.len() as u64, "fact"), left.len());
            let helps = left.len() < missing.len();
            let said = if helps { "" } else { ", so it is dropped" };
            let round = rounds + 1;
            progress.remark(&format!("round {round}: {before} again, {after} missing then{said}"));
            if !helps {
                break;
            }
            (plan, model, missing, rounds) = (next, with, left, round);
        }
        Ok((plan, rounds))
    }

    /// The model as a plan would be written, and the facts that it does not say, by number.
    fn missing(&self, plan: &Plan) -> Result<(Model, Vec<usize>)> {
        let model = self.written(&self.patch(plan, 1)?)?.model;
        let rows: Vec<&FactRows> = self.facts.iter().map(|fact| &fact.rows).collect();
        let scores = score(&model, &rows, &*self.settings.progress)?;
        let missing = (0..rows.len()).filter(|&i| scores[i].missed().is_some()).collect();
        Ok((model, missing))
    }

    /// A plan and what a round over some of its facts added.
    fn added(&self, plan: &Plan, next: Plan, again: &[usize]) -> Plan {
        let mut facts = plan.facts.clone();
        for (&i, more) in again.iter().zip(next.facts) {
            let trace = [std::mem::take(&mut facts[i].trace), more.trace].concat();
            facts[i] = FactPlan { trace, ..more };
        }
        let mut changes = plan.changes.clone();
        for change in next.changes {
            match changes.iter_mut().find(|own| own.id == change.id) {
                Some(own) => *own = total(self.model(), vec![own.clone(), change]),
                None => changes.push(change),
            }
        }
        changes.sort_by_key(|change| change.id);
        Plan { facts, changes, ..next }
    }
}
