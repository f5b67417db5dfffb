//! A method for many facts is its closed form: everything else is the same for all of them.

use std::path::Path;

use super::batch;
use super::cost::{Cost, Solves};
use super::facts::TokenizedFact;
use super::family;
use super::known_facts;
use super::method::{About, Batching, Context, Method, Moments, Needs, Plan};
use super::params::{Param, Params};
use super::search::Search;
use super::solve::layers::ClosedForm;
use super::state::State;
use crate::base::{Progress, Result};
use crate::linalg::least_squares::Route;
use crate::model::At;
use crate::model::arch::{Arch, NormPlace};

/// What a closed form is made with.
pub struct Ingredients<'a> {
    /// C of each edited layer.
    pub moments: &'a Moments<'a>,
    /// Who is told how long work goes, and may cancel it.
    pub progress: &'a dyn Progress,
}

/// A method for many facts, by what tells it from the others.
pub trait ClosedFormMethod: Send + Sync {
    /// Name, paper and what it changes.
    fn about(&self) -> &'static About;

    /// Its parameters, those it shares with others included.
    fn params(&self) -> &'static [&'static Param];

    /// The closed form, which takes what it carries out of the state.
    ///
    /// # Errors
    ///
    /// Statistics that cannot be read or used.
    fn form<'a>(
        &self,
        by: &Params,
        with: Ingredients<'a>,
        state: &mut State,
    ) -> Result<Box<dyn ClosedForm + 'a>>;

    /// Whether it can edit such a model: what is missing of the stream is asked of W, and a norm
    /// between the two hands on only what lies in the value's direction.
    ///
    /// # Errors
    ///
    /// A family with a norm behind the MLP.
    fn check_model(&self, _: &Params, arch: &Arch) -> Result<()> {
        match arch.norms {
            NormPlace::Before => Ok(()),
            NormPlace::Behind => Err(family::norm_behind(self.about().name, arch)),
        }
    }

    /// How it searches values: at the stream after the last edited layer.
    fn search(&self, by: &Params, arch: &Arch) -> Search {
        family::search(by, arch, At::Stream)
    }

    /// What it needs: C of every edited layer.
    fn needs(&self, by: &Params, _: &State) -> Needs {
        family::needs(by)
    }

    /// The route of its solves, and the bytes one takes.
    fn solve_cost(&self, _: &Params, solves: &Solves) -> (Route, u64) {
        solves.with_matrix(1.0)
    }

    /// As [`Method::state_settings`].
    fn state_settings(&self, by: &Params) -> String {
        family::state_settings(by, "")
    }

    /// As [`Method::check_state`].
    ///
    /// # Errors
    ///
    /// A tensor that is missing or of a wrong shape.
    fn check_state(&self, path: &Path, state: &State, by: &Params, arch: &Arch) -> Result<()> {
        family::check_state(path, state, by, &|_| arch.inner)?;
        known_facts::check(path, state, by, arch)
    }
}

impl<M: ClosedFormMethod> Method for M {
    fn about(&self) -> &'static About {
        ClosedFormMethod::about(self)
    }

    fn params(&self) -> &'static [&'static Param] {
        ClosedFormMethod::params(self)
    }

    fn batching(&self) -> Batching {
        Batching::Together
    }

    fn search(&self, by: &Params, arch: &Arch) -> Option<Search> {
        Some(ClosedFormMethod::search(self, by, arch))
    }

    fn needs(&self, by: &Params, state: &State) -> Needs {
        ClosedFormMethod::needs(self, by, state)
    }

    fn check_model(&self, by: &Params, arch: &Arch) -> Result<()> {
        ClosedFormMethod::check_model(self, by, arch)
    }

    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost {
        let search = ClosedFormMethod::search(self, by, &on.model.arch);
        family::cost(on, facts, &search, by, &|solves| self.solve_cost(by, solves))
    }

    fn state_settings(&self, by: &Params) -> String {
        ClosedFormMethod::state_settings(self, by)
    }

    fn check_state(&self, path: &Path, state: &State, by: &Params, arch: &Arch) -> Result<()> {
        ClosedFormMethod::check_state(self, path, state, by, arch)
    }

    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan> {
        let search = ClosedFormMethod::search(self, by, &on.model.arch);
        let moments = on.statistics;
        let progress = on.progress;
        batch::plan(on, facts, &search, by, &mut |state| {
            self.form(by, Ingredients { moments, progress }, state)
        })
    }
}
