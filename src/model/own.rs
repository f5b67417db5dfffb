//! A model some of whose matrices are tensors where it computes, which whoever trains it changes.

use super::matrix_id::MatrixId;
use super::model::Model;
use crate::tensor::{Tensor, Weight};

impl Model {
    /// The same model, in which some matrices are copies in the type it computes in.
    pub fn with_own(&self, ids: &[MatrixId]) -> Model {
        let mut model = self.clone();
        for &id in ids {
            let w = &self.matrix(id).w;
            let copy = Tensor::of(&self.compute, &w.dims(), &w.to_dense());
            model.matrix_mut(id).w = Weight::own(copy);
        }
        model
    }

    /// Such a copy, (out, in).
    pub fn own(&self, id: MatrixId) -> &Tensor {
        self.matrix(id).w.own_tensor()
    }

    /// Such a copy, to be changed. No clone of the model may be left.
    pub fn own_mut(&mut self, id: MatrixId) -> &mut Tensor {
        self.matrix_mut(id).w.own_mut()
    }
}
