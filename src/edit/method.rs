//! What an editing method is: parameters, needs, costs, and a plan that touches nothing.
//!
//! A method is one file under [`methods`](super::methods), listed in its registry. What methods
//! for many facts share (batches, values found before, layers) is in [`batch`](super::batch), and
//! the search of a fact's value in [`search`](super::search), so that a method states its formula
//! and little else.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::cache::Cache;
use super::cost::Cost;
use super::fact_report::FactPlan;
use super::facts::TokenizedFact;
use super::params::{Param, Params};
use super::search::Search;
use super::solve::layers::MatrixChange;
use super::state::State;
use crate::base::{Error, Progress, Remedy, Result};
use crate::data::Contexts;
use crate::memory::EditMemory;
use crate::model::arch::Arch;
use crate::model::{MatrixId, Model};
use crate::stats::Moment;
use crate::store::{Change, tensor_fingerprint};
use crate::text::Tokenizer;
use crate::train::kept::KeptParameters;
use crate::train::{Sample, TrainedEditor};

/// What people are told of a method.
#[derive(Debug, PartialEq, Eq)]
pub struct About {
    /// The name users give.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// Authors, year and number of its paper.
    pub paper: &'static str,
    /// What of a model it changes.
    pub changes: &'static str,
    /// What it reads, apart from the model.
    pub needs: &'static str,
    /// The method whose presets it takes where it has none of its own: of variants, another's.
    pub presets: &'static str,
}

/// What a method needs, apart from the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Layers whose key statistics it reads.
    pub statistics: Vec<usize>,
    /// Whether it carries a state from one edit to the next, if asked to.
    pub state: bool,
}

/// How a method takes facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// One after another, each on the model as those before it left it.
    OneByOne,
    /// Many at once.
    Together,
    /// Again and again, some of them a step.
    Epochs,
    /// Once each, so many at a time, each turn on the model as those before it left it.
    Turns,
}

impl Batching {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Batching::OneByOne => "one after another",
            Batching::Together => "many at once",
            Batching::Epochs => "again and again, in batches",
            Batching::Turns => "once each, in turns",
        }
    }

    /// Whether it takes facts for texts to learn, as they stand, without contexts.
    pub fn reads_bare_texts(self) -> bool {
        matches!(self, Batching::Epochs | Batching::Turns)
    }

    /// Whether it takes long enough that what is found is kept on the way.
    pub fn keeps(self) -> bool {
        self != Batching::OneByOne
    }
}

/// That a method edits without training.
pub fn not_trained(name: &str) -> Error {
    let what = format!("{name} edits without training");
    let remedy = Remedy::from("edit with it at once, or train mend");
    Error::refused(what, remedy.option("method", Some("mend")))
}

/// An editing method.
pub trait Method: Send + Sync {
    /// Name, paper and what it changes.
    fn about(&self) -> &'static About;

    /// Its parameters, those it shares with others included.
    fn params(&self) -> &'static [&'static Param];

    /// How it takes facts.
    fn batching(&self) -> Batching;

    /// Whether what it has found is kept on the way, so that the same edit goes on from there.
    fn keeps(&self) -> bool {
        self.batching().keeps()
    }

    /// Whether what it makes lives beside the weights.
    fn makes_memory(&self) -> bool {
        false
    }

    /// Whether it edits with what was trained for the model before.
    fn is_trained(&self) -> bool {
        false
    }

    /// Trains what it edits with; and what the training came to, for people.
    ///
    /// # Errors
    ///
    /// A method that is not trained; a loss that is not finite; cancellation; a device that fails.
    fn train(&self, _on: TrainContext, _by: &Params) -> Result<(TrainedEditor, Value)> {
        Err(not_trained(self.about().name))
    }

    /// How it searches the value of a fact, if it searches any.
    fn search(&self, _by: &Params, _arch: &Arch) -> Option<Search> {
        None
    }

    /// What it needs, going on from a state.
    fn needs(&self, _by: &Params, _state: &State) -> Needs {
        Needs::default()
    }

    /// What a plan would take; an upper bound.
    fn cost(&self, on: &Context, facts: &[TokenizedFact], by: &Params) -> Cost;

    /// The settings that have to stay the same while a state is carried on, as text.
    fn state_settings(&self, by: &Params) -> String {
        format!("layers {:?}", by.layers())
    }

    /// Checks the tensors of a state that was read from a file.
    ///
    /// # Errors
    ///
    /// A tensor that is missing or of a wrong shape.
    fn check_state(&self, _: &Path, _: &State, _: &Params, _: &Arch) -> Result<()> {
        Ok(())
    }

    /// Whether it can edit such a model.
    ///
    /// # Errors
    ///
    /// A family whose layers its algebra does not fit.
    fn check_model(&self, _by: &Params, _arch: &Arch) -> Result<()> {
        Ok(())
    }

    /// What kept a fact from being taken, where the method itself knows best.
    fn why_missed(&self, _plan: &FactPlan, _by: &Params) -> Option<String> {
        None
    }

    /// Plans the change of all facts.
    ///
    /// # Errors
    ///
    /// A search or a training that meets NaN, a system that cannot be solved, a cache that cannot
    /// be written, cancellation, a device out of memory.
    fn plan(&self, on: &mut Context, facts: &[TokenizedFact], by: &Params) -> Result<Plan>;
}

/// C of a layer, read when it is needed: at F = 16,384 one is 1 GB.
pub type Moments<'a> = dyn Fn(usize) -> Result<Arc<Moment>> + 'a;

/// What a method plans with.
pub struct Context<'a> {
    /// The model as it is.
    pub model: &'a Model,
    /// C of each edited layer.
    pub statistics: &'a Moments<'a>,
    /// The contexts the facts' rows are of.
    pub contexts: &'a Contexts,
    /// What was trained for the model, of methods that are.
    pub editor: Option<&'a TrainedEditor>,
    /// Values and layers found before, for this model.
    pub cache: Option<&'a mut Cache>,
    /// What earlier edits left.
    pub state: State,
    /// Whether more edits are to come, which go on from the state after this one.
    pub carries: bool,
    /// Whether other changes are added to these, so that a patch has to say the keys of each.
    pub adds: bool,
    /// Facts in a batch; 0 for all at once.
    pub sequential: usize,
    /// Bytes that searches and streams may take.
    pub memory: u64,
    /// Of random choices: the sample of the norm anchor, the order of epochs.
    pub seed: u64,
    /// The token that ends a text, if the model's files name one.
    pub end: Option<u32>,
    /// The model's tokenizer, where there is one: benchmarks have none.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Who is told how the work goes, and may cancel it.
    pub progress: &'a dyn Progress,
}

/// What a method trains its editor with.
pub struct TrainContext<'a> {
    /// The model as it is.
    pub model: &'a Model,
    /// What is trained on: at least one.
    pub samples: &'a [Sample],
    /// What is held out: at least one.
    pub held_out: &'a [Sample],
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Where the training is kept, so that one that was cut off goes on.
    pub kept: Option<&'a mut KeptParameters>,
    /// Of what is drawn.
    pub seed: u64,
    /// Who is told how it goes, and may cancel it.
    pub progress: &'a dyn Progress,
}

/// What a method made: changed matrices and the model that has them, or what lives beside a model
/// that is as it was.
pub struct Plan {
    /// The edited model.
    pub model: Model,
    /// What was done for each fact.
    pub facts: Vec<FactPlan>,
    /// What was done to each matrix, ascending.
    pub changes: Vec<MatrixChange>,
    /// What lives beside the weights, of methods that change none.
    pub memory: Option<EditMemory>,
    /// What the method carries on.
    pub state: State,
}

impl Plan {
    /// The changes as a patch has them; `stored` gives the bytes of the tensor that holds a matrix.
    ///
    /// # Errors
    ///
    /// What `stored` says.
    pub fn to_patch<B: AsRef<[u8]>>(
        &self,
        mut stored: impl FnMut(MatrixId) -> Result<B>,
    ) -> Result<Vec<Change>> {
        let change = |MatrixChange { id, delta, keys, .. }: &MatrixChange| {
            let linear = self.model.matrix(*id);
            let [out, inner] = linear.w.dims();
            Ok(Change {
                tensor: linear.stored.tensor.clone(),
                module: linear.stored.module.clone(),
                rows: linear.stored.rows,
                out,
                inner,
                fan_in_fan_out: linear.stored.fan_in_fan_out,
                fingerprint: tensor_fingerprint(stored(*id)?.as_ref()),
                delta: delta.clone(),
                keys: keys.clone(),
            })
        };
        let mut changes: Vec<Change> = self.changes.iter().map(change).collect::<Result<_>>()?;
        changes.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(changes)
    }
}
