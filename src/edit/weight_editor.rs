//! Methods that are trained to turn an edit into a change of matrices: what they are trained for,
//! how they are trained, and how they edit.
//!
//! ```text
//! ΔW_m ← the method, from one pass over the edit in the model as it is
//! loss = cedit·(−ln p of the outer target) + cloc·KL(p⁰ ‖ p) on the locality text, at W + ΔW;
//!        or as `kl_bound.rs` has it
//! G_m = ∂loss/∂W_m at W + ΔW        from which the method has the gradient of its parameters
//! ```
//!
//! What the method reads of the edit's pass is a constant of the gradient in the public code too,
//! so this is its gradient, and not an approximation. Facts are edited one after another, each on
//! the model as those before it left it.

use serde_json::{Value, json};

use super::cost::Cost;
use super::fact_report::FactPlan;
use super::facts::TokenizedFact;
use super::kl_bound::{self, KlBound, KlBoundRule};
use super::method::{Context, Plan, TrainContext};
use super::params::{self, Absent, Param, ParamKind, Params, Range};
use super::search::LossStep;
use super::solve::layers::MatrixChange;
use super::train_params::training_loop;
use crate::base::{Error, Result, Stage};
use crate::linalg::vector::norm;
use crate::model::completion::Completion;
use crate::model::gradients::MatrixGradients;
use crate::model::score::score;
use crate::model::{MatrixId, Model, NoHook, Position};
use crate::ops::rows::Index;
use crate::ops::weight_gradient;
use crate::store::Delta;
use crate::tensor::{Precision, Tensor, Weight};
use crate::train::pass::{LossPass, TextLoss, log_p};
use crate::train::run::TrainingRun;
use crate::train::{Drawn, Parameters, SampleLoss, SampleObjective, TrainedEditor};

/// The layers that are edited.
pub const LAYERS: Param = Param { about: "The edited layers.", ..params::LAYERS };
/// The matrices of each of them.
pub const MATRICES: Param = Param {
    absent: Absent::Default("[\"up\", \"down\"]"),
    about: "The edited matrices of each layer; rewrite_module_tmp names them too.",
    ..params::MATRICES
};
/// Weight of the outer loss.
pub const CEDIT: Param = Param {
    name: "cedit",
    kind: ParamKind::Number(Range::Weight),
    absent: Absent::Default("0.1"),
    about: "Weight of the outer target's loss in training.",
};
/// Weight of the locality loss.
pub const CLOC: Param = Param {
    name: "cloc",
    kind: ParamKind::Number(Range::Weight),
    absent: Absent::Default("1"),
    about: "Weight of the KL divergence on texts that should stay, in training.",
};

/// What turns an edit into a change.
pub trait WeightEditor {
    /// What it made of an edit, with what the way back needs.
    type Made;

    /// What is edited, ascending.
    fn ids(&self) -> &[MatrixId];

    /// Passes over the model.
    fn pass(&mut self) -> &mut LossPass;

    /// Makes something of an edit in a model; and the edit's loss there. `learn` says whether
    /// running means see it first.
    ///
    /// # Errors
    ///
    /// A device that fails.
    fn make(
        &mut self,
        model: &Model,
        parameters: &mut Parameters,
        edit: &Completion,
        learn: bool,
    ) -> Result<(Self::Made, f64)>;

    /// ΔW (out, in) of matrix i, on the host.
    fn change(&self, parameters: &Parameters, made: &Self::Made, i: usize) -> Tensor;

    /// The same as a patch has it.
    fn delta(&self, parameters: &Parameters, made: &Self::Made, i: usize) -> Delta {
        let change = self.change(parameters, made, i).to_f64();
        Delta::Dense(change.into_iter().map(|x| x as f32).collect())
    }

    /// Adds the gradients of the parameters, from G (out, in) of each matrix.
    fn backward(&self, parameters: &mut Parameters, made: &Self::Made, g: &[Weight]);
}

/// What a sample's two losses are together.
pub enum OuterLoss {
    /// cedit·edit + cloc·locality.
    Weighed([f64; 2]),
    /// The edit's, the other bound.
    Bound(KlBound),
}

/// What an editor is trained for.
pub struct EditObjective<'m, E> {
    base: &'m Model,
    edited: Model,      // its matrices its own
    start: Vec<Tensor>, // W of each, on the host
    gradients: MatrixGradients,
    outer: OuterLoss,
    editor: E,
}

impl<'m, E: WeightEditor> EditObjective<'m, E> {
    /// Of an editor.
    pub fn new(base: &'m Model, editor: E, outer: OuterLoss) -> EditObjective<'m, E> {
        let edited = base.with_own(editor.ids());
        let start = editor.ids().iter().map(|&id| edited.own(id).to_host().into_owned());
        let start = start.collect();
        let gradients = MatrixGradients::new(&edited, editor.ids());
        EditObjective { base, edited, start, gradients, outer, editor }
    }

    /// Puts W + ΔW into the edited model.
    fn edit(&mut self, parameters: &Parameters, made: &E::Made) {
        let EditObjective { edited, editor, start, .. } = self;
        let compute = edited.compute.clone();
        for (i, &id) in editor.ids().iter().enumerate() {
            let change = editor.change(parameters, made, i);
            let w = start[i].to_f64().into_iter().zip(change.to_f64());
            let w: Vec<f64> = w.map(|(w, change)| w + change).collect();
            *edited.own_mut(id) = Tensor::of(&compute, start[i].shape(), &w);
        }
    }

    /// The loss of a sample, and, where it is asked for, G of each matrix times a weight.
    fn outer(
        &mut self,
        parameters: &Parameters,
        drawn: &Drawn,
        weight: Option<f64>,
    ) -> Result<SampleLoss> {
        let before = log_p(self.base, &drawn.locality.ids)?;
        let EditObjective { edited, gradients, editor, outer, .. } = self;
        let (target, [edit, locality]) = match &*outer {
            OuterLoss::Weighed(weights) => (TextLoss::Target(drawn.outer), *weights),
            OuterLoss::Bound(bound) => {
                let target = TextLoss::Smoothed(drawn.outer, bound.eps());
                (target, [1.0, bound.multiplier(parameters)])
            }
        };
        let w = weight.unwrap_or(1.0);
        let kept = TextLoss::Kept(&drawn.locality.ids, &before);
        let texts = [(target, edit * w), (kept, locality * w)];
        let losses = match weight {
            None => editor.pass().run(edited, &texts, &mut NoHook)?,
            Some(_) => {
                gradients.clear();
                let lengths = [drawn.outer.read.len(), drawn.locality.ids.len()];
                let cuts = Index::new(&edited.compute, weight_gradient::cuts(lengths));
                gradients.set_cuts(cuts);
                editor.pass().run(edited, &texts, gradients)?
            }
        };
        let losses = [losses[0], losses[1]];
        Ok(match &*outer {
            OuterLoss::Weighed([cedit, cloc]) => {
                let [edit, locality] = losses;
                SampleLoss { edit, locality, total: cedit * edit + cloc * locality }
            }
            OuterLoss::Bound(bound) => bound.loss(parameters, losses),
        })
    }
}

impl<E: WeightEditor> SampleObjective for EditObjective<'_, E> {
    fn gradient(
        &mut self,
        parameters: &mut Parameters,
        drawn: &Drawn,
        weight: f64,
    ) -> Result<SampleLoss> {
        let (made, _) = self.editor.make(self.base, parameters, drawn.edit, true)?;
        self.edit(parameters, &made);
        let loss = self.outer(parameters, drawn, Some(weight))?;
        let own = |g: &Tensor| Weight::own(g.to_host().into_owned());
        let g: Vec<Weight> = self.gradients.all().iter().map(own).collect();
        self.editor.backward(parameters, &made, &g);
        if let OuterLoss::Bound(bound) = &self.outer {
            bound.backward(parameters, loss.locality, weight);
        }
        Ok(loss)
    }

    fn loss(&mut self, parameters: &mut Parameters, drawn: &Drawn) -> Result<SampleLoss> {
        let (made, _) = self.editor.make(self.base, parameters, drawn.edit, false)?;
        self.edit(parameters, &made);
        if let OuterLoss::Bound(bound) = &mut self.outer {
            bound.ask(&self.edited, drawn.edit)?;
        }
        self.outer(parameters, drawn, None)
    }

    fn stepped(&mut self, parameters: &mut Parameters) {
        if let OuterLoss::Bound(bound) = &self.outer {
            bound.stepped(parameters);
        }
    }

    fn looked(&mut self, parameters: &mut Parameters, loss: &mut SampleLoss) {
        if let OuterLoss::Bound(bound) = &mut self.outer {
            bound.looked(parameters, loss);
        }
    }
}

/// ΔW of each matrix by an edit in a model, and the edit's loss before it.
///
/// # Errors
///
/// A loss or a change that is not finite; a device that fails.
pub fn change<E: WeightEditor>(
    editor: &mut E,
    model: &Model,
    parameters: &mut Parameters,
    edit: &Completion,
) -> Result<(Vec<Delta>, f64)> {
    let (made, loss) = editor.make(model, parameters, edit, false)?;
    let deltas: Vec<Delta> =
        (0..editor.ids().len()).map(|i| editor.delta(parameters, &made, i)).collect();
    let finite = deltas.iter().all(|delta| match delta {
        Delta::LowRank { left, right, .. } => left.iter().chain(right).all(|x| x.is_finite()),
        Delta::Dense(delta) => delta.iter().all(|x| x.is_finite()),
    });
    match finite && loss.is_finite() {
        true => Ok((deltas, loss)),
        false => {
            let remedy = "check the checkpoint and the trained editor for NaN";
            Err(Error::numeric("the change is not finite", remedy))
        }
    }
}

/// Plans facts one after another by an editor, whose parameters become those that were trained. A
/// change is made up to so many times, until the model says the fact.
///
/// # Errors
///
/// A trained editor that does not fit; as [`change`]; cancellation.
pub fn plan<E: WeightEditor>(
    on: &mut Context,
    facts: &[TokenizedFact],
    (mut editor, times): (E, usize),
    mut parameters: Parameters,
) -> Result<Plan> {
    let (model, progress) = (on.model, on.progress);
    on.editor.expect("a method that is trained is given its editor").give(&mut parameters)?;
    let ids = editor.ids().to_vec();
    let mut now = model.clone();
    let mut deltas: Vec<Vec<Delta>> = ids.iter().map(|_| Vec::new()).collect();
    let mut done = Vec::new();
    for (i, fact) in facts.iter().enumerate() {
        if progress.cancelled() {
            return Err(cancelled());
        }
        progress.at(Stage::Fact, i as u64, facts.len() as u64);
        let named = |e: Error| match e {
            Error::Numeric { what, remedy } => {
                Error::numeric(format!("fact `{}`: {what}", fact.request.id), *remedy)
            }
            e => e,
        };
        let text = fact.rows.completion(0);
        let (own, loss) = change(&mut editor, &now, &mut parameters, &text).map_err(named)?;
        let pairs: Vec<(MatrixId, &Delta)> = ids.iter().copied().zip(&own).collect();
        let (mut next, norms) = now.with(&pairs);
        let mut made = 1;
        let says = |model: &Model| score(model, std::slice::from_ref(&text));
        while made < times && says(&next)?[0].missed().is_some() {
            if progress.cancelled() {
                return Err(cancelled());
            }
            next = next.with(&pairs).0;
            made += 1;
        }
        now = next;
        let all = |which: usize| norm(&norms.iter().map(|n| n[which]).collect::<Vec<f64>>());
        let trace = vec![LossStep { nll: loss, ..LossStep::default() }];
        let change = Some([made as f64 * all(0), all(1)]);
        done.push(FactPlan { change, ..FactPlan::trained(trace) });
        deltas.iter_mut().zip(own).for_each(|(all, own)| all.push(times_over(own, made)));
    }
    progress.at(Stage::Fact, facts.len() as u64, facts.len() as u64);
    let summed = ids.iter().zip(&deltas);
    let changes = summed.map(|(&id, deltas)| MatrixChange::sum(model, id, deltas)).collect();
    let state = std::mem::take(&mut on.state);
    Ok(Plan { model: now, facts: done, changes, memory: None, state })
}

fn cancelled() -> Error {
    Error::Interrupted { kept: "nothing was written".to_owned() }
}

/// A change that is made n times.
fn times_over(mut delta: Delta, n: usize) -> Delta {
    let factor = match &mut delta {
        Delta::Dense(all) => all,
        Delta::LowRank { left, .. } => left,
    };
    factor.iter_mut().for_each(|x| *x *= n as f32);
    delta
}

/// What editing some matrices takes; an upper bound.
pub fn cost(on: &Context, facts: &[TokenizedFact], ids: &[MatrixId]) -> Cost {
    let weights = |id: &MatrixId| on.model.matrix(*id).weights() as u64;
    let editor: u64 = on
        .editor
        .map_or(0, |editor| editor.tensors.values().map(|(_, values)| values.len() as u64).sum());
    let tokens = facts.iter().map(|fact| fact.rows.completion(0).read.len()).max().unwrap_or(0);
    let span = MatrixGradients::begin_of(on.model, ids)..Position::before(on.model.arch.layers);
    let pass = on.model.bytes_a_token(span, &on.model.compute);
    Cost {
        bytes_a_fact: ((pass.saved + pass.forward + pass.backward) * tokens) as u64,
        // Gradients and both moments of the parameters are there, and W and ΔW in f64 once.
        fixed_bytes: 16 * editor + 16 * ids.iter().map(weights).sum::<u64>(),
        at_a_time: 1,
        solve_bytes: 0,
        system: None,
        flop: 2.0 * editor as f64 * (tokens * facts.len()) as f64,
        training: None,
    }
}

/// Row i of a matrix += some numbers.
pub fn add_row(matrix: &mut Tensor, i: usize, numbers: &[f64]) {
    let n = numbers.len();
    match matrix.precision() {
        Precision::F32 => {
            let row = &mut matrix.get_mut::<f32>()[i * n..(i + 1) * n];
            row.iter_mut().zip(numbers).for_each(|(x, d)| *x += *d as f32);
        }
        Precision::F64 => {
            let row = &mut matrix.get_mut::<f64>()[i * n..(i + 1) * n];
            row.iter_mut().zip(numbers).for_each(|(x, d)| *x += d);
        }
    }
}

/// Trains an editor.
///
/// # Errors
///
/// As [`TrainingLoop::run`](crate::train::run::TrainingLoop::run).
pub fn train<E: WeightEditor>(
    on: TrainContext,
    by: &Params,
    editor: E,
    mut parameters: Parameters,
) -> Result<(TrainedEditor, Value)> {
    let TrainContext { model, samples, held_out, kept, seed, progress, .. } = on;
    let outer = match KlBoundRule::of(by) {
        Some(rule) => OuterLoss::Bound(KlBound::new(rule, &mut parameters)),
        None => OuterLoss::Weighed([by.number(&CEDIT), by.number(&CLOC)]),
    };
    let mut objective = EditObjective::new(model, editor, outer);
    let run = TrainingRun { samples, held_out, kept, progress };
    let history = training_loop(by, seed).run(run, &mut objective, &mut parameters)?;
    let mut trained = TrainedEditor::default();
    trained.take(&parameters);
    trained.tensors.retain(|name, _| !kl_bound::NAMES.contains(&&name[..]));
    Ok((trained, json!({ "history": history })))
}
