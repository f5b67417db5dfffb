//! Gradients of a model's matrices, gathered in a pass.
//!
//! ```text
//! dW += Σ_t dy_t x_tᵀ      x what the matrix reads on the way forward, dy the gradient for what it
//!                          gives on the way back
//! ```
//!
//! Matrices that read one tensor (queries, keys and values; gate and up) share a copy of it. The
//! bias, where there is one, has no gradient here: the matrix alone moves.

use super::batch::Batch;
use super::matrix::Matrix;
use super::matrix_id::MatrixId;
use super::model::Model;
use super::site::{At, Hook, Site};
use super::span::Position;
use crate::ops::rows::Index;
use crate::ops::weight_gradient;
use crate::tensor::Tensor;

/// The hook that gathers them: pass after pass adds up, until they are cleared.
pub struct MatrixGradients {
    ids: Vec<MatrixId>,
    sites: Vec<Site>,    // what is read, then what is given
    inputs: Vec<Tensor>, // (N, in) of each that is read
    dw: Vec<Tensor>,     // (out, in)
    cuts: Index,
}

/// Where a matrix' input is copied: matrices that read one tensor share a site.
pub fn input(id: MatrixId) -> Site {
    let first = match id.matrix {
        Matrix::Q | Matrix::K | Matrix::V => Matrix::Q,
        Matrix::Gate | Matrix::Up => Matrix::Up,
        own @ (Matrix::O | Matrix::Down) => own,
    };
    Site { layer: id.layer, at: At::Input(first) }
}

impl MatrixGradients {
    /// Zeros, of some of a model's matrices.
    pub fn new(model: &Model, ids: &[MatrixId]) -> MatrixGradients {
        let mut sites = Vec::new();
        for site in ids.iter().map(|&id| input(id)) {
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
        let inputs = sites.iter().map(|_| Tensor::narrow(&model.compute, &[0, 0])).collect();
        sites.extend(ids.iter().map(|id| Site { layer: id.layer, at: At::Output(id.matrix) }));
        let zeros = |&id: &MatrixId| Tensor::zeros(&model.compute, &model.matrix(id).w.dims());
        let dw = ids.iter().map(zeros).collect();
        MatrixGradients { ids: ids.to_vec(), sites, inputs, dw, cuts: Index::default() }
    }

    /// The place where a pass that gathers them has to begin.
    pub fn begin(&self, model: &Model) -> Position {
        MatrixGradients::begin_of(model, &self.ids)
    }

    /// The place before the lowest of some matrices.
    ///
    /// # Panics
    ///
    /// Where the model has none of them.
    pub fn begin_of(model: &Model, ids: &[MatrixId]) -> Position {
        let places = ids.iter().filter_map(|&id| model.place(input(id)));
        places.min().expect("a matrix of the model")
    }

    /// Where a pass backward may end short of [`begin`](MatrixGradients::begin): behind the branch
    /// of the lowest matrix, if all that is asked of the branch is the matrix that gives what joins
    /// the stream. The gradient at that site is dx as it is there.
    pub fn short_end(&self, model: &Model) -> Option<(Position, Site)> {
        MatrixGradients::short_end_of(model, &self.ids)
    }

    /// The same of some matrices.
    pub fn short_end_of(model: &Model, ids: &[MatrixId]) -> Option<(Position, Site)> {
        let begin = MatrixGradients::begin_of(model, ids);
        let layer = &model.layers[begin.layer];
        let branch = &layer.branches[begin.branch];
        let mut lowest = ids.iter().filter(|&&id| model.place(input(id)) == Some(begin));
        let (Some(id), None) = (lowest.next(), lowest.next()) else { return None };
        if layer.parallel || !branch.adds_as_it_is() || id.matrix != branch.body.last() {
            return None;
        }
        let behind = match begin.branch + 1 {
            next if next == layer.branches.len() => Position::before(begin.layer + 1),
            next => Position { branch: next, ..begin },
        };
        Some((behind, Site { layer: id.layer, at: At::Output(id.matrix) }))
    }

    /// All become zero.
    pub fn clear(&mut self) {
        self.dw.iter_mut().for_each(Tensor::clear);
    }

    /// Where the next pass cuts its tokens into pieces: [`weight_gradient::cuts`].
    pub fn set_cuts(&mut self, cuts: Index) {
        self.cuts = cuts;
    }

    /// dW (out, in) of each matrix.
    pub fn all(&self) -> &[Tensor] {
        &self.dw
    }

    /// Bytes that a token of a pass takes.
    pub fn bytes_a_token(model: &Model, ids: &[MatrixId]) -> usize {
        let mut read: Vec<(Site, MatrixId)> = Vec::new();
        for &id in ids {
            if read.iter().all(|(site, _)| *site != input(id)) {
                read.push((input(id), id));
            }
        }
        let width = |(_, id): &(Site, MatrixId)| model.matrix(*id).w.dims()[1];
        model.compute.narrow_size() * read.iter().map(width).sum::<usize>()
    }
}

impl Hook for MatrixGradients {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let own = self.sites[..self.inputs.len()].iter().position(|own| *own == site);
        if let Some(i) = own {
            self.inputs[i].copy_from(shown);
        }
    }

    fn backward(&mut self, site: Site, _: &Batch, gradient: &Tensor) {
        for (i, &id) in self.ids.iter().enumerate() {
            if site == (Site { layer: id.layer, at: At::Output(id.matrix) }) {
                let read = self.sites.iter().position(|site| *site == input(id));
                let x = &self.inputs[read.expect("was asked for")];
                weight_gradient::accumulate(gradient, x, &self.cuts, &mut self.dw[i]);
            }
        }
    }
}
