//! Dense row-major tensors in the type the computation runs in.

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};

use crate::base::Float;

/// The type a computation runs in: `F32` for work, `F64` for oracles and gradient checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

#[derive(Clone, Debug)]
enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// A dense row-major array on the host.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// All zeros.
    pub fn zeros(precision: Precision, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        let data = match precision {
            Precision::F32 => Data::F32(vec![0.0; len]),
            Precision::F64 => Data::F64(vec![0.0; len]),
        };
        Tensor { shape: shape.to_vec(), data }
    }

    /// `values` rounded to the precision, in the given shape.
    pub fn of(precision: Precision, shape: &[usize], values: &[f64]) -> Tensor {
        let mut t = Tensor::zeros(precision, shape);
        assert_eq!(t.len(), values.len(), "Tensor::of: values do not fill the shape");
        match &mut t.data {
            Data::F32(d) => d.iter_mut().zip(values).for_each(|(d, &v)| *d = v as f32),
            Data::F64(d) => d.copy_from_slice(values),
        }
        t
    }

    /// The element type.
    pub fn precision(&self) -> Precision {
        match self.data {
            Data::F32(_) => Precision::F32,
            Data::F64(_) => Precision::F64,
        }
    }

    /// The sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The sizes, by name: `let [n, d] = x.dims();`.
    pub fn dims<const R: usize>(&self) -> [usize; R] {
        self.shape.as_slice().try_into().expect("the tensor has the rank its user expects")
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes it `rows` long, keeping the other sizes and the memory; new rows are zero.
    pub fn set_rows(&mut self, rows: usize) {
        self.shape[0] = rows;
        let len = self.len();
        match &mut self.data {
            Data::F32(d) => d.resize(len, 0.0),
            Data::F64(d) => d.resize(len, 0.0),
        }
    }

    /// The same elements in rows of `width`.
    pub fn set_width(&mut self, width: usize) {
        assert!(self.len().is_multiple_of(width), "set_width: not a whole number of rows");
        self.shape = vec![self.len() / width, width];
    }

    /// Appends the rows of `other`, which has the same row width.
    pub fn push_rows(&mut self, other: &Tensor) {
        self.push_rows_of(other, 0..other.shape[0]);
    }

    /// Appends some rows of `other`, which has the same row width.
    pub fn push_rows_of(&mut self, other: &Tensor, rows: Range<usize>) {
        assert_eq!(self.shape[1..], other.shape[1..], "push_rows: rows of another width");
        let width: usize = self.shape[1..].iter().product();
        self.shape[0] += rows.len();
        let part = rows.start * width..rows.end * width;
        match (&mut self.data, &other.data) {
            (Data::F32(d), Data::F32(o)) => d.extend_from_slice(&o[part]),
            (Data::F64(d), Data::F64(o)) => d.extend_from_slice(&o[part]),
            _ => panic!("push_rows: tensors of two precisions"),
        }
    }

    /// The elements; `T` must be the tensor's precision.
    pub fn get<T: Float>(&self) -> &[T] {
        match &self.data {
            Data::F32(d) if size_of::<T>() == 4 => cast_slice(d),
            Data::F64(d) if size_of::<T>() == 8 => cast_slice(d),
            _ => panic!("a tensor was read in a precision that is not its own"),
        }
    }

    /// The elements, to be written; `T` must be the tensor's precision.
    pub fn get_mut<T: Float>(&mut self) -> &mut [T] {
        match &mut self.data {
            Data::F32(d) if size_of::<T>() == 4 => cast_slice_mut(d),
            Data::F64(d) if size_of::<T>() == 8 => cast_slice_mut(d),
            _ => panic!("a tensor was written in a precision that is not its own"),
        }
    }

    /// Row `i` of a matrix, widened.
    pub fn row_f64(&self, i: usize) -> Vec<f64> {
        let [_, d] = self.dims();
        match &self.data {
            Data::F32(v) => v[i * d..][..d].iter().map(|&x| x.into()).collect(),
            Data::F64(v) => v[i * d..][..d].to_vec(),
        }
    }

    /// All elements, widened.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::F32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::F64(v) => v.clone(),
        }
    }

    /// Becomes a copy of `other`, memory kept.
    pub fn copy_from(&mut self, other: &Tensor) {
        self.shape.clone_from(&other.shape);
        match (&mut self.data, &other.data) {
            (Data::F32(d), Data::F32(o)) => d.clone_from(o),
            (Data::F64(d), Data::F64(o)) => d.clone_from(o),
            _ => panic!("copy_from: tensors of two precisions"),
        }
    }
}
