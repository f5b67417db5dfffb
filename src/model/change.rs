//! Matrices of a model by name, and a model with some of them changed.
//!
//! ```text
//! W ← W + Δ       rounded to the precision the model computes in
//! W ← the stored bytes of another checkpoint
//! ```
//!
//! The rest of the model is shared with the one that was changed.

use std::sync::Arc;

use faer::Mat;

use super::branch::Body;
use super::matrix::{Linear, Matrix, StoredPlace};
use super::matrix_id::MatrixId;
use super::mlp::Mlp;
use super::model::Model;
use crate::base::{DType, Error, Result};
use crate::linalg::least_squares::product;
use crate::linalg::vector::{dot, norm};
use crate::ops::norm::Norm;
use crate::ops::update::{Stored, Term, Terms};
use crate::store::Delta;
use crate::tensor::weight::SharedBytes;
use crate::tensor::{Layout, Precision, Tensor, Weight};

/// Δ as an operation takes it.
pub fn term(delta: &Delta) -> Term<'_> {
    match delta {
        Delta::LowRank { left, right, r } => Term::LowRank { left, right, r: *r },
        Delta::Dense(delta) => Term::Dense(delta),
    }
}

/// Δ (out, in), row-major.
pub fn dense(delta: &Delta, [out, inner]: [usize; 2]) -> Vec<f64> {
    match delta {
        Delta::Dense(delta) => delta.iter().map(|&x| x.into()).collect(),
        Delta::LowRank { left, right, r } => {
            let of = |m: &[f32], n: usize| Mat::from_fn(n, *r, |i, j| f64::from(m[i * r + j]));
            let transposed = product(&of(right, inner), &of(left, out)); // columns are Δ's rows
            transposed.col_iter().flat_map(|c| c.iter().copied()).collect()
        }
    }
}

impl Model {
    /// A matrix: its weights, its bias, and where the checkpoint stores it.
    ///
    /// # Panics
    ///
    /// Where the model has no such matrix.
    pub fn matrix(&self, id: MatrixId) -> &Linear {
        self.find(id).unwrap_or_else(|| panic!("a model without {id}"))
    }

    /// The norm between a layer's down projection and the stream, where the family has one there.
    pub fn norm_behind(&self, layer: usize) -> Option<&Norm> {
        let layer = &self.layers[layer];
        layer.branches[layer.branch_of(Matrix::Down)?].post.as_ref()
    }

    /// The MLP of a layer, if it has one.
    pub fn mlp(&self, layer: usize) -> Option<&Mlp> {
        let branches = self.layers.get(layer)?.branches.iter();
        branches
            .filter_map(|branch| match &branch.body {
                Body::Mlp(mlp) => Some(mlp),
                Body::Attention(_) => None,
            })
            .next()
    }

    /// A matrix, if the model has it.
    pub(super) fn find(&self, id: MatrixId) -> Option<&Linear> {
        let MatrixId { layer, branch, expert: None, matrix, .. } = id else { return None };
        let branches = self.layers.get(layer)?.branches.iter();
        let mut found = branches.filter_map(|b| b.matrices().find(|(m, _)| *m == matrix));
        found.nth(branch).map(|(_, linear)| linear)
    }

    /// Its matrices by name, layer by layer.
    pub fn matrices(&self) -> impl Iterator<Item = (MatrixId, &Linear)> {
        (0..self.layers.len()).flat_map(move |l| {
            let mut seen = Vec::new();
            self.layers[l].matrices().map(move |(matrix, linear)| {
                let branch = seen.iter().filter(|&&m| m == matrix).count();
                seen.push(matrix);
                (MatrixId { branch, ..MatrixId::new(l, matrix) }, linear)
            })
        })
    }

    /// The matrices that a text names: one by its own name (`layers.5.down`), or those of a module
    /// by the framework's path of it (`transformer.h.5.attn.c_attn` holds three).
    ///
    /// # Errors
    ///
    /// A text that names none of this model.
    pub fn matrices_named(&self, text: &str) -> Result<Vec<MatrixId>> {
        if let Ok(id) = text.parse::<MatrixId>()
            && self.find(id).is_some()
        {
            return Ok(vec![id]);
        }
        let path = text.strip_suffix(".weight").unwrap_or(text);
        let module = |place: &StoredPlace| {
            let prefix = place.module.strip_suffix(path);
            prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        };
        let is_whole = |place: &StoredPlace| place.module == path || place.tensor == text;
        let named = |is: &dyn Fn(&StoredPlace) -> bool| -> Vec<MatrixId> {
            self.matrices().filter(|(_, w)| is(&w.stored)).map(|(id, _)| id).collect()
        };
        // A path without its first parts may be the end of several modules' paths.
        let found = match named(&is_whole) {
            whole if !whole.is_empty() => whole,
            _ => named(&module),
        };
        let one_module = |ids: &[MatrixId]| {
            let mut modules = ids.iter().map(|&id| &self.matrix(id).stored.module);
            let first = modules.next();
            first.is_some_and(|first| modules.all(|module| module == first))
        };
        if one_module(&found) {
            return Ok(found);
        }
        let shown = |(id, w): (MatrixId, &Linear)| format!("{id} ({})", w.stored.module);
        let known: Vec<String> = match found.is_empty() {
            true => self.matrices().take_while(|(id, _)| id.layer == 0).map(shown).collect(),
            false => found.iter().map(|&id| shown((id, self.matrix(id)))).collect(),
        };
        let what = match found.is_empty() {
            true => format!("`{text}` names no matrix of this model"),
            false => format!("`{text}` names several modules of this model"),
        };
        Err(Error::refused(what, format!("name one such as {}", known.join(", "))))
    }

    /// W k + b of a matrix, in f64: k (in), result (out).
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn product(&self, id: MatrixId, k: &[f64]) -> Result<Vec<f64>> {
        let Linear { w, b, .. } = self.matrix(id);
        let [out, inner] = w.dims();
        let mut m = self.compute.run(|| Ok(b.as_ref().map_or(vec![0.0; out], Tensor::to_f64)))?;
        let mut row = vec![0.0; inner];
        for (i, m) in m.iter_mut().enumerate() {
            w.row(i, &mut row);
            *m += dot(&row, k);
        }
        Ok(m)
    }

    /// The same model with Δ added to each of some matrices, one after the other; and ‖Δ‖ and ‖W‖
    /// of each.
    pub fn with(&self, changes: &[(MatrixId, &Delta)]) -> (Model, Vec<[f64; 2]>) {
        let mut model = self.clone();
        let norms = changes.iter().map(|&(id, delta)| {
            let (w, norms) = model.sum(id, delta);
            model = model.with_values(id, w);
            norms
        });
        let norms = norms.collect();
        (model, norms)
    }

    /// W + Δ, and ‖Δ‖ and ‖W‖. A device adds up factors, to the same f32.
    fn sum(&self, id: MatrixId, delta: &Delta) -> (Vec<f64>, [f64; 2]) {
        let w = &self.matrix(id).w;
        let [out, inner] = w.dims();
        if let (Some(_), Delta::LowRank { .. }) = (self.compute.engine(), delta) {
            let stored = Stored { dtype: DType::F32, layout: Layout::OutIn, out, inner };
            let (w, mut new) = (w.to_dense::<f32>(), vec![0.0f32; out * inner]);
            let terms = Terms::new(&self.compute, stored, vec![term(delta)]);
            let made = bytemuck::cast_slice_mut(&mut new);
            let sums = terms.add(bytemuck::cast_slice(&w), 0..out, made);
            let norms = [sums.wanted.sqrt(), sums.weight.sqrt()];
            return (new.into_iter().map(f64::from).collect(), norms);
        }
        let (delta, mut w) = (dense(delta, [out, inner]), w.to_dense::<f64>());
        let norms = [&delta, &w].map(|m| norm(m));
        w.iter_mut().zip(&delta).for_each(|(w, d)| *w += d);
        (w, norms)
    }

    /// The same model with another W (out, in), which a model that computes in f64 stores in f64.
    pub fn with_values(&self, id: MatrixId, w: Vec<f64>) -> Model {
        let mut model = self.clone();
        let linear = model.matrix_mut(id);
        let [out, inner] = linear.w.dims();
        linear.w = match self.compute.precision() {
            Precision::F32 => {
                Weight::dense_f32(w.into_iter().map(|w| w as f32).collect(), out, inner)
            }
            Precision::F64 => Weight::dense_f64(w, out, inner),
        };
        model
    }

    /// The same model with other bytes of one stored tensor, for every matrix that it holds.
    ///
    /// # Panics
    ///
    /// Where no matrix is stored in it, or the bytes do not fit.
    pub fn with_stored(&self, tensor: &str, dtype: DType, bytes: SharedBytes) -> Model {
        let mut model = self.clone();
        let ids = self.matrices().filter(|(_, linear)| linear.stored.tensor == tensor);
        let ids: Vec<MatrixId> = ids.map(|(id, _)| id).collect();
        assert!(!ids.is_empty(), "no matrix is stored in {tensor}");
        for id in ids {
            let linear = model.matrix_mut(id);
            let whole = linear.stored.sizes(linear.w.dims());
            let layout = linear.stored.layout();
            linear.w = linear.stored.part(Weight::stored(bytes.clone(), dtype, layout, whole));
        }
        model
    }

    pub(super) fn matrix_mut(&mut self, id: MatrixId) -> &mut Linear {
        let layer = Arc::make_mut(&mut self.layers[id.layer]);
        let found = layer.branches.iter_mut().filter_map(|b| in_body(&mut b.body, id.matrix));
        found.into_iter().nth(id.branch).unwrap_or_else(|| panic!("a model without {id}"))
    }
}

fn in_body(body: &mut Body, matrix: Matrix) -> Option<&mut Linear> {
    match (body, matrix) {
        (Body::Attention(attention), Matrix::Q) => Some(&mut attention.q),
        (Body::Attention(attention), Matrix::K) => Some(&mut attention.k),
        (Body::Attention(attention), Matrix::V) => Some(&mut attention.v),
        (Body::Attention(attention), Matrix::O) => Some(&mut attention.o),
        (Body::Mlp(mlp), Matrix::Gate) => mlp.gate.as_mut(),
        (Body::Mlp(mlp), Matrix::Up) => Some(&mut mlp.up),
        (Body::Mlp(mlp), Matrix::Down) => Some(&mut mlp.down),
        _ => None,
    }
}
