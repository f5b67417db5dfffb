//! What SERAC's two models are trained for.
//!
//! ```text
//! loss = cedit·(−(1/T) Σ_t ln p'(y_t | e, outer, y_<t)) + cloc·(d₁ − ln(1 − e^{−d₂}))
//! d₁   = ‖M (x_outer − x_e)‖²       d₂ = ‖M (x_locality − x_e)‖²
//! dM   = 2 cloc·(M u₁ u₁ᵀ − M u₂ u₂ᵀ/(e^{d₂} − 1))       u the differences, constants
//! dW   = cedit·Σ_t dy_t x_tᵀ        of each trained matrix of the counterfactual model
//! ```

use crate::base::{Error, Result, Rng};
use crate::memory::ContextMemory;
use crate::memory::serac::{SCOPE_WIDTH, scope_states};
use crate::model::completion::Completion;
use crate::model::gradients::MatrixGradients;
use crate::model::{MatrixId, Model, NoHook};
use crate::ops::rows::Index;
use crate::ops::{linear, rows, weight_gradient};
use crate::tensor::Tensor;
use crate::train::layers::{add_gradient, uniform};
use crate::train::pass::{LossPass, TextLoss};
use crate::train::{Drawn, Parameters, Sample, SampleLoss, SampleObjective};

/// M among the parameters; a matrix of the counterfactual model has the name of its id.
pub const SCOPE: &str = "scope.weight";
/// 1 − s, at least, where its logarithm is taken.
const LEAST: f64 = 1e-6;

/// What is trained: where it is among the parameters.
#[derive(Clone, Debug)]
pub struct SeracEditor {
    ids: Vec<MatrixId>,
    scope: usize,
    first: usize, // of the matrices, which follow each other
}

/// The loss of a sample and its gradient.
pub struct SeracObjective<'m> {
    base: &'m Model,
    editor: SeracEditor,
    counterfactual: Model,
    version: Option<u64>, // of the parameters that it has
    joined: ContextMemory,
    pass: LossPass,
    gradients: MatrixGradients,
    weights: [f64; 2], // cedit, cloc
}

impl SeracEditor {
    /// M as the framework begins a linear layer, without a bias, which would cancel; and copies of
    /// some matrices, ascending. They join the parameters, trained at a rate; M is of the seed.
    pub fn new(
        model: &Model,
        ids: &[MatrixId],
        (rate, seed): (f64, u64),
        parameters: &mut Parameters,
    ) -> SeracEditor {
        let d = model.arch.width;
        let bound = 1.0 / (d as f64).sqrt();
        let m = uniform(&mut Rng::new(seed, "scope"), SCOPE_WIDTH * d, bound);
        let scope = parameters.add(SCOPE, &[SCOPE_WIDTH, d], &m, Some(rate));
        for id in ids {
            let w = &model.matrix(*id).w;
            parameters.add(id.to_string(), &w.dims(), &w.to_dense::<f64>(), Some(rate));
        }
        SeracEditor { ids: ids.to_vec(), scope, first: scope + 1 }
    }
}

impl<'m> SeracObjective<'m> {
    /// Of a base and an editor of it; `joined` says how a text goes on behind another, and the
    /// weights are cedit and cloc.
    pub fn new(
        base: &'m Model,
        editor: SeracEditor,
        joined: ContextMemory,
        weights: [f64; 2],
    ) -> SeracObjective<'m> {
        let ids = &editor.ids;
        let counterfactual = base.with_own(ids);
        SeracObjective {
            pass: LossPass::new(base, MatrixGradients::begin_of(base, ids)),
            gradients: MatrixGradients::new(&counterfactual, ids),
            version: None,
            base,
            editor,
            counterfactual,
            joined,
            weights,
        }
    }

    /// A prompt and its target behind an edit.
    fn behind(&self, edit: &Completion, outer: &Completion) -> Completion {
        let fact = [&edit.read[..], &edit.labels[edit.labels.len() - 1..]].concat();
        let placed = self.joined.place_behind(&fact, &outer.read);
        let read = [&fact[..placed.context], &placed.ids].concat();
        Completion { read, labels: outer.labels.clone() }
    }

    /// Refuses a sample whose texts behind its edit are longer than the model's context.
    ///
    /// # Errors
    ///
    /// That.
    pub fn check(&self, sample: &Sample) -> Result<()> {
        let all = std::iter::once(&sample.edit).chain(&sample.outer);
        let longest = all.map(|outer| self.behind(&sample.edit, outer).read.len()).max();
        let (longest, most) = (longest.unwrap_or(0), self.base.arch.max_positions);
        if longest <= most {
            return Ok(());
        }
        let name = &sample.name;
        let what = format!("record `{name}`: {longest} tokens behind its own edit, of {most}");
        Err(Error::refused(what, "leave it out, or shorten its prompts"))
    }

    /// Gives the counterfactual model the parameters as they are.
    fn follow(&mut self, parameters: &Parameters) {
        if self.version == Some(parameters.version()) {
            return;
        }
        let SeracEditor { ids, first, .. } = &self.editor;
        for (i, &id) in ids.iter().enumerate() {
            let w = parameters.value(first + i).on(&self.base.compute).into_owned();
            *self.counterfactual.own_mut(id) = w;
        }
        self.version = Some(parameters.version());
    }

    /// d₁ − ln(1 − e^{−d₂}), and dM += `weight` times its gradient.
    fn scope(
        &self,
        parameters: &mut Parameters,
        drawn: &Drawn,
        weight: Option<f64>,
    ) -> Result<f64> {
        let prompt = |text: &'_ Completion| text.read[..text.prompt()].to_vec();
        let stays = drawn.locality.ids[..drawn.locality.prompt].to_vec();
        let texts = [prompt(drawn.edit), prompt(drawn.outer), stays];
        let x = scope_states(self.base, &texts)?;
        let from_edit = |to: usize| x[to].iter().zip(&x[0]).map(|(a, b)| a - b);
        let u: Vec<f64> = from_edit(1).chain(from_edit(2)).collect();
        let precision = parameters.precision();
        let u = Tensor::of(precision, &[2, self.base.arch.width], &u);
        let mut y = u.like(&[2, SCOPE_WIDTH]);
        linear::forward(&u, parameters.weight(self.editor.scope), None, &mut y);
        let square = |row: usize| y.row_f64(row).iter().map(|y| y * y).sum::<f64>();
        let [same, other] = [square(0), square(1)];
        let apart = -(-other).exp_m1(); // 1 − s
        if let Some(weight) = weight {
            let slope = if apart > LEAST { -1.0 / other.exp_m1() } else { 0.0 };
            let mut dy = y.to_f64();
            for (row, slope) in dy.chunks_mut(SCOPE_WIDTH).zip([1.0, slope]) {
                row.iter_mut().for_each(|y| *y *= 2.0 * weight * slope);
            }
            let dy = Tensor::of(precision, y.shape(), &dy);
            add_gradient(parameters, self.editor.scope, &dy, &u);
        }
        Ok(same - apart.max(LEAST).ln())
    }

    fn all(
        &mut self,
        parameters: &mut Parameters,
        drawn: &Drawn,
        weight: Option<f64>,
    ) -> Result<SampleLoss> {
        self.follow(parameters);
        let [cedit, cloc] = self.weights;
        let text = self.behind(drawn.edit, drawn.outer);
        let texts = [(TextLoss::Target(&text), cedit * weight.unwrap_or(1.0))];
        let SeracObjective { pass, counterfactual, gradients, .. } = self;
        let edit = match weight {
            None => pass.run(counterfactual, &texts, &mut NoHook)?[0],
            Some(_) => {
                gradients.clear();
                let cuts = weight_gradient::cuts([text.read.len()]);
                gradients.set_cuts(Index::new(&counterfactual.compute, cuts));
                let losses = pass.run(counterfactual, &texts, gradients)?;
                for (i, dw) in gradients.all().iter().enumerate() {
                    rows::add(parameters.gradient_mut(self.editor.first + i), &dw.to_host());
                }
                losses[0]
            }
        };
        let locality = self.scope(parameters, drawn, weight.map(|weight| cloc * weight))?;
        Ok(SampleLoss { edit, locality, total: cedit * edit + cloc * locality })
    }
}

impl SampleObjective for SeracObjective<'_> {
    fn draws_edits(&self) -> bool {
        true
    }

    fn gradient(
        &mut self,
        parameters: &mut Parameters,
        drawn: &Drawn,
        weight: f64,
    ) -> Result<SampleLoss> {
        self.all(parameters, drawn, Some(weight))
    }

    fn loss(&mut self, parameters: &mut Parameters, drawn: &Drawn) -> Result<SampleLoss> {
        self.all(parameters, drawn, None)
    }
}
