//! A codebook beside a matrix: the nearest key of a row of what it reads, and that key's value in
//! the place of rows of what it gives.
//!
//! ```text
//! d_j = ‖x − k_j‖²           j* = the first with the least d
//! chosen = j*                where d_j* ≤ r_j*², else nothing
//! y ← v_chosen               where something was chosen
//! ```
//!
//! x (N, F), k (n, F), r (n, 1), y (N, D), v (n, D). Source: Hartvigsen et al. 2023,
//! arXiv:2211.11031.

use super::rows::Index;
use super::{cpu, cuda};
use crate::gpu::Array;
use crate::tensor::{Compute, Tensor, on, shapes};

/// Of some rows, the key that was chosen for each, if one was.
pub struct Chosen {
    host: Vec<i32>,
    device: Option<Array>, // (rows) i32; −1 where none was
}

impl Chosen {
    /// None yet, of so many rows.
    pub fn new(compute: &Compute, rows: usize) -> Chosen {
        Chosen::of(compute, &vec![None; rows])
    }

    /// Choices that were made before.
    pub fn of(compute: &Compute, chosen: &[Option<usize>]) -> Chosen {
        let number = |j: &Option<usize>| j.map_or(-1, |j| j as i32);
        let host: Vec<i32> = chosen.iter().map(number).collect();
        match compute.engine() {
            None => Chosen { host, device: None },
            Some(e) => Chosen { device: Some(cuda::codebook::upload(e, &host)), host: Vec::new() },
        }
    }

    /// The numbers of the keys; from a device they are copied.
    pub fn read(&self) -> Vec<Option<usize>> {
        let number = |&j: &i32| usize::try_from(j).ok();
        match &self.device {
            None => self.host.iter().map(number).collect(),
            Some(array) => cuda::codebook::numbers(array).iter().map(number).collect(),
        }
    }

    fn len(&self) -> usize {
        self.device.as_ref().map_or(self.host.len(), Array::len)
    }
}

/// The key that each of some rows of x chooses; n ≥ 1.
pub fn nearest(x: &Tensor, rows: &Index, keys: &Tensor, radii: &Tensor, chosen: &mut Chosen) {
    let ([_, f], [n, _]) = (x.dims(), keys.dims());
    shapes!("nearest": keys => [n, f], radii => [n, 1]);
    assert!(n > 0 && chosen.len() == rows.len(), "nearest: no key, or a row without a choice");
    on!(x,
        host T => {
            let (keys, radii) = (keys.get(), radii.get());
            cpu::codebook::nearest::<T>(x.get(), rows, keys, radii, f, &mut chosen.host)
        },
        device e => {
            let [x, keys, radii] = [x, keys, radii].map(Tensor::array);
            let chosen = chosen.device.as_mut().expect("a choice of the tensor's device");
            cuda::codebook::nearest(e, x, rows.on_device(), keys, radii, f, chosen)
        },
    )
}

/// Row `rows[i]` of y becomes the value that choice `of[i]` chose; where it chose none, it stays.
pub fn replace(y: &mut Tensor, rows: &Index, of: &Index, chosen: &Chosen, values: &Tensor) {
    let ([_, d], [n, _]) = (y.dims(), values.dims());
    shapes!("replace": values => [n, d]);
    assert_eq!(rows.len(), of.len(), "replace: a row without a choice");
    assert!(of.iter().all(|&i| i < chosen.len()), "replace: a choice that was not made");
    on!(values,
        host T => cpu::codebook::replace::<T>(y.get_mut(), rows, of, &chosen.host, values.get(), d),
        device e => {
            let there = chosen.device.as_ref().expect("a choice of the tensor's device");
            let (rows, of) = (rows.on_device(), of.on_device());
            cuda::codebook::replace(e, y.array_mut(), rows, of, there, values.array(), d)
        },
    );
}
