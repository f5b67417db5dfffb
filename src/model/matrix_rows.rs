//! What some matrices read in a pass, and the gradient for what they give, row by row: the two
//! factors of a matrix' gradient, before they are summed over tokens.
//!
//! ```text
//! x (N, in)   what the matrix reads       δ (N, out)   the gradient for what it gives
//! dW = Σ_t δ_t x_tᵀ                       `gradients.rs` sums it without keeping the rows of δ
//! ```

use super::batch::Batch;
use super::gradients::input;
use super::matrix_id::MatrixId;
use super::model::Model;
use super::site::{At, Hook, Site};
use crate::tensor::Tensor;

/// The hook that keeps them: a pass overwrites what the one before left.
pub struct MatrixRows {
    ids: Vec<MatrixId>,
    sites: Vec<Site>,       // what is read, then what is given
    inputs: Vec<Tensor>,    // (N, in) of each site that is read
    gradients: Vec<Tensor>, // (N, out) of each matrix
}

impl MatrixRows {
    /// Of some of a model's matrices.
    pub fn new(model: &Model, ids: &[MatrixId]) -> MatrixRows {
        let mut sites = Vec::new();
        for site in ids.iter().map(|&id| input(id)) {
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
        let none = || Tensor::narrow(&model.compute, &[0, 0]);
        let inputs = sites.iter().map(|_| none()).collect();
        sites.extend(ids.iter().map(|&id| given(id)));
        let gradients = ids.iter().map(|_| none()).collect();
        MatrixRows { ids: ids.to_vec(), sites, inputs, gradients }
    }

    /// x (N, in) of matrix i.
    pub fn x(&self, i: usize) -> &Tensor {
        let read = input(self.ids[i]);
        let at = self.sites.iter().position(|site| *site == read);
        &self.inputs[at.expect("a site of each matrix")]
    }

    /// δ (N, out) of matrix i.
    pub fn delta(&self, i: usize) -> &Tensor {
        &self.gradients[i]
    }
}

fn given(id: MatrixId) -> Site {
    Site { layer: id.layer, at: At::Output(id.matrix) }
}

impl Hook for MatrixRows {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let read = &self.sites[..self.inputs.len()];
        if let Some(i) = read.iter().position(|own| *own == site) {
            self.inputs[i].copy_from(shown);
        }
    }

    fn backward(&mut self, site: Site, _: &Batch, gradient: &Tensor) {
        if let Some(i) = self.ids.iter().position(|&id| given(id) == site) {
            self.gradients[i].copy_from(gradient);
        }
    }
}
