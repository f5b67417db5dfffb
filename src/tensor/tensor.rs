//! Dense row-major tensors in the type the computation runs in, on the host or on a device. On a
//! device whose products are fast, what they read is bf16: [`Tensor::narrow`].

use std::borrow::Cow;
use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};

use super::compute::{Compute, Precision};
use crate::base::{DType, Float, or_unwind};
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};

#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Device(Array), // f32 or bf16
}

/// A dense row-major array.
#[derive(Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// All zeros.
    pub fn zeros(compute: impl Into<Compute>, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        let data = match compute.into() {
            Compute::Host(Precision::F32) => Data::F32(vec![0.0; len]),
            Compute::Host(Precision::F64) => Data::F64(vec![0.0; len]),
            Compute::Device(engine, _) => Data::zeros(&engine, Elem::F32, len),
        };
        Tensor { shape: shape.to_vec(), data }
    }

    /// All zeros, of the type that products read.
    pub fn narrow(compute: &Compute, shape: &[usize]) -> Tensor {
        match compute {
            Compute::Host(precision) => Tensor::zeros(*precision, shape),
            Compute::Device(engine, products) => {
                let data = Data::zeros(engine, products.elem(), shape.iter().product());
                Tensor { shape: shape.to_vec(), data }
            }
        }
    }

    /// All zeros, where this one is and of its type.
    pub fn like(&self, shape: &[usize]) -> Tensor {
        let len = shape.iter().product();
        let data = match &self.data {
            Data::F32(_) => Data::F32(vec![0.0; len]),
            Data::F64(_) => Data::F64(vec![0.0; len]),
            Data::Device(array) => Data::zeros(array.engine(), array.elem(), len),
        };
        Tensor { shape: shape.to_vec(), data }
    }

    /// `values` rounded to the type of the computation, in the given shape.
    pub fn of(compute: impl Into<Compute>, shape: &[usize], values: &[f64]) -> Tensor {
        let len: usize = shape.iter().product();
        assert_eq!(len, values.len(), "Tensor::of: values do not fill the shape");
        let data = match compute.into() {
            Compute::Host(Precision::F32) => Data::F32(single(values)),
            Compute::Host(Precision::F64) => Data::F64(values.to_vec()),
            Compute::Device(engine, _) => {
                Data::Device(or_unwind(engine.upload(Elem::F32, cast_slice(&single(values)))))
            }
        };
        Tensor { shape: shape.to_vec(), data }
    }

    /// The same where another computation runs, if it does.
    pub fn on(&self, compute: &Compute) -> Cow<'_, Tensor> {
        let here = match (self.engine(), compute.engine()) {
            (None, None) => self.precision() == compute.precision(),
            (Some(here), Some(there)) => here == there,
            _ => false,
        };
        if here {
            Cow::Borrowed(self)
        } else {
            Cow::Owned(Tensor::of(compute, &self.shape, &self.to_f64()))
        }
    }

    /// Where it is.
    pub fn compute(&self) -> Compute {
        match &self.data {
            Data::Device(array) => array.engine().clone().into(),
            _ => Compute::Host(self.precision()),
        }
    }

    /// The device it is on.
    pub fn engine(&self) -> Option<&Engine> {
        match &self.data {
            Data::Device(array) => Some(array.engine()),
            _ => None,
        }
    }

    /// The elements on their device.
    pub fn array(&self) -> &Array {
        match &self.data {
            Data::Device(array) => array,
            _ => panic!("a tensor of the host was read by a device"),
        }
    }

    /// The elements on their device, to be written.
    pub fn array_mut(&mut self) -> &mut Array {
        match &mut self.data {
            Data::Device(array) => array,
            _ => panic!("a tensor of the host was written by a device"),
        }
    }

    /// The same tensor on the host.
    pub fn to_host(&self) -> Cow<'_, Tensor> {
        match &self.data {
            Data::Device(array) => {
                let data = Data::F32(widened(array, 0..array.len()));
                Cow::Owned(Tensor { shape: self.shape.clone(), data })
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// The same tensor, moved to the host.
    pub fn into_host(self) -> Tensor {
        match &self.data {
            Data::Device(_) => self.to_host().into_owned(),
            _ => self,
        }
    }

    /// The type it computes in, which on a device is f32.
    pub fn precision(&self) -> Precision {
        match self.data {
            Data::F32(_) | Data::Device(..) => Precision::F32,
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
        self.resize();
    }

    /// Takes another shape, keeping the memory; elements beyond those there were are zero.
    pub fn set_shape(&mut self, shape: [usize; 2]) {
        if self.shape != shape {
            self.shape = shape.to_vec();
            self.resize();
        }
    }

    fn resize(&mut self) {
        let len = self.len();
        match &mut self.data {
            Data::F32(d) => d.resize(len, 0.0),
            Data::F64(d) => d.resize(len, 0.0),
            Data::Device(array) => or_unwind(array.resize(len)),
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
            (Data::Device(d), Data::Device(o)) => {
                let old = d.len();
                or_unwind(d.resize(old + part.len()));
                d.copy(old, o, part);
            }
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
        self.part_f64(i * d..(i + 1) * d)
    }

    /// Some elements, widened.
    pub fn part_f64(&self, elements: Range<usize>) -> Vec<f64> {
        match &self.data {
            Data::F32(v) => wide(&v[elements]),
            Data::F64(v) => v[elements].to_vec(),
            Data::Device(array) => widened(array, elements),
        }
    }

    /// All elements, widened.
    pub fn to_f64(&self) -> Vec<f64> {
        self.part_f64(0..self.len())
    }

    /// All become zero.
    pub fn clear(&mut self) {
        let shape = self.shape.clone();
        self.set_rows(0);
        self.shape = shape;
        self.resize();
    }

    /// Becomes a copy of `other`, memory kept.
    pub fn copy_from(&mut self, other: &Tensor) {
        self.shape.clone_from(&other.shape);
        match (&mut self.data, &other.data) {
            (Data::F32(d), Data::F32(o)) => d.clone_from(o),
            (Data::F64(d), Data::F64(o)) => d.clone_from(o),
            (Data::Device(d), Data::Device(o)) => {
                or_unwind(d.resize(o.len()));
                d.copy(0, o, 0..o.len());
            }
            _ => panic!("copy_from: tensors of two precisions"),
        }
    }
}

impl Clone for Tensor {
    fn clone(&self) -> Tensor {
        let mut copy = self.like(&[0]);
        copy.copy_from(self);
        copy
    }
}

impl Data {
    fn zeros(engine: &Engine, elem: Elem, len: usize) -> Data {
        let mut array = or_unwind(engine.array(elem, 0));
        or_unwind(array.resize(len));
        Data::Device(array)
    }
}

/// Some elements of a device, widened.
fn widened<T: Float>(array: &Array, elements: Range<usize>) -> Vec<T> {
    let dtype = if array.elem() == Elem::BF16 { DType::BF16 } else { DType::F32 };
    let mut wide = vec![T::default(); elements.len()];
    dtype.widen(&array.download_part(elements), &mut wide);
    wide
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}
