//! A MEND editor: networks and rates, what they make of an edit, and the way back.
//!
//! ```text
//! x, δ of each matrix ← −(1/T) Σ_t ln p(y_t | prompt, y_<t) in the model as it is, back
//! x̃, δ̃ ← the network of the matrix' shape;      ΔW_m = η_m Σ_t δ̃_t x̃_tᵀ
//! ∂η_m = Σ_t δ̃_tᵀ G x̃_t      ∂δ̃_t = η_m G x̃_t      ∂x̃_t = η_m Gᵀ δ̃_t
//! ```
//!
//! G is the gradient at W + ΔW (`edit/weight_editor.rs`).

use super::network::{Made, Network};
use crate::base::Result;
use crate::edit::weight_editor::WeightEditor;
use crate::model::completion::Completion;
use crate::model::gradients::MatrixGradients;
use crate::model::matrix_rows::MatrixRows;
use crate::model::{MatrixId, Model};
use crate::ops::rows::Index;
use crate::ops::{linear, weight_gradient};
use crate::store::Delta;
use crate::tensor::{Tensor, Weight};
use crate::train::Parameters;
use crate::train::layers::map;
use crate::train::pass::{LossPass, TextLoss};

/// The networks of an editor, and what runs a model for them.
pub struct MendEditor {
    ids: Vec<MatrixId>,
    networks: Vec<Network>,
    eta: usize,
    pass: LossPass,
    rows: MatrixRows,
}

/// The sizes and rates of an editor.
#[derive(Clone, Copy, Debug)]
pub struct MendShape {
    /// r, at most.
    pub rank: usize,
    /// Of the networks.
    pub lr: f64,
    /// Of η.
    pub lr_lr: f64,
    /// η at the start.
    pub edit_lr: f64,
    /// Of V.
    pub seed: u64,
}

impl MendEditor {
    /// An editor of some matrices, ascending, as it is before training; its tensors join the
    /// parameters.
    pub fn new(
        model: &Model,
        ids: &[MatrixId],
        shape: MendShape,
        parameters: &mut Parameters,
    ) -> MendEditor {
        let sizes = |id: MatrixId| {
            let [out, inner] = model.matrix(id).w.dims();
            [inner, out]
        };
        let mut shapes: Vec<([usize; 2], Vec<MatrixId>)> = Vec::new();
        for &id in ids {
            match shapes.iter_mut().find(|(of, _)| *of == sizes(id)) {
                Some((_, matrices)) => matrices.push(id),
                None => shapes.push((sizes(id), vec![id])),
            }
        }
        let of = (shape.rank, shape.lr, shape.seed);
        let network = |(sizes, matrices)| Network::new(parameters, sizes, matrices, of);
        let networks = shapes.into_iter().map(network).collect();
        let start = vec![shape.edit_lr; ids.len()];
        MendEditor {
            ids: ids.to_vec(),
            networks,
            eta: parameters.add("edit_lrs", &[ids.len()], &start, Some(shape.lr_lr)),
            pass: LossPass::new(model, MatrixGradients::begin_of(model, ids)),
            rows: MatrixRows::new(model, ids),
        }
    }

    /// The network of a matrix, and which of its matrices that is.
    fn network(&self, id: MatrixId) -> (&Network, usize) {
        let find = |network: &Network| network.matrices.iter().position(|own| *own == id);
        let mut found = self.networks.iter().filter_map(|n| Some((n, find(n)?)));
        found.next().expect("every matrix has a network")
    }

    fn eta(&self, parameters: &Parameters, i: usize) -> f64 {
        parameters.value(self.eta).part_f64(i..i + 1)[0]
    }
}

/// A factor of a change: rows (r, n) as columns (n, r), times a number.
fn columns(rows: &Tensor, factor: f64) -> Vec<f32> {
    let [r, n] = rows.dims();
    let values = rows.to_f64();
    let at = |i: usize| (factor * values[i % r * n + i / r]) as f32;
    (0..r * n).map(at).collect()
}

impl WeightEditor for MendEditor {
    /// Of each matrix.
    type Made = Vec<Made>;

    fn ids(&self) -> &[MatrixId] {
        &self.ids
    }

    fn pass(&mut self) -> &mut LossPass {
        &mut self.pass
    }

    fn make(
        &mut self,
        model: &Model,
        parameters: &mut Parameters,
        edit: &Completion,
        learn: bool,
    ) -> Result<(Vec<Made>, f64)> {
        let loss = self.pass.run(model, &[(TextLoss::Target(edit), 1.0)], &mut self.rows)?[0];
        let mut made = Vec::with_capacity(self.ids.len());
        for (i, &id) in self.ids.iter().enumerate() {
            let (network, at) = self.network(id);
            let (x, delta) = (self.rows.x(i).to_host(), self.rows.delta(i).to_host());
            made.push(network.forward(parameters, at, (&x, &delta), learn));
        }
        Ok((made, loss))
    }

    fn change(&self, parameters: &Parameters, made: &Vec<Made>, i: usize) -> Tensor {
        let Made { x, delta, .. } = &made[i];
        let ([n, inner], [_, out]) = (x.dims(), delta.dims());
        let cuts = Index::new(&x.compute(), weight_gradient::cuts([n]));
        let mut sum = x.like(&[out, inner]);
        weight_gradient::accumulate(delta, x, &cuts, &mut sum);
        let eta = self.eta(parameters, i);
        map(&sum, |sum| eta * sum)
    }

    fn delta(&self, parameters: &Parameters, made: &Vec<Made>, i: usize) -> Delta {
        let Made { x, delta, .. } = &made[i];
        let [r, _] = x.dims();
        let left = columns(delta, self.eta(parameters, i));
        Delta::LowRank { left, right: columns(x, 1.0), r }
    }

    fn backward(&self, parameters: &mut Parameters, made: &Vec<Made>, g: &[Weight]) {
        let precision = parameters.precision();
        for (i, (made, g)) in made.iter().zip(g).enumerate() {
            let (mut dx, mut ddelta) =
                (made.x.like(made.x.shape()), made.delta.like(made.delta.shape()));
            linear::forward(&made.x, g, None, &mut ddelta); // G x̃
            linear::backward(&made.delta, g, &mut dx, false); // Gᵀ δ̃
            let along = ddelta.to_f64().into_iter().zip(made.delta.to_f64());
            let deta: f64 = along.map(|(g, delta)| g * delta).sum();
            let eta = self.eta(parameters, i);
            let (dx, ddelta) = (map(&dx, |d| eta * d), map(&ddelta, |d| eta * d));
            let (network, at) = self.network(self.ids[i]);
            network.backward(parameters, at, made, (&dx, &ddelta));
            let into = parameters.gradient_mut(self.eta);
            let mut all = into.to_f64();
            all[i] += deta;
            *into = Tensor::of(precision, into.shape(), &all);
        }
    }
}
