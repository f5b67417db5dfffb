//! Which weights a patch was planned on, as its fingerprints say.
//!
//! A patch names each tensor by the fingerprint of its bytes before the change. An import of a GGUF
//! file has the file's values in F32, BF16 or F16, so the fingerprint of an import can be computed
//! from the file: nothing else need be kept of it. A patch that was planned on an import after
//! others were applied to it has the fingerprint of their sum there, rounded to the same type.

use crate::base::DType;
use crate::model::change::term;
use crate::ops::update::{Stored, Terms};
use crate::store::{Change, tensor_fingerprint};
use crate::tensor::{Compute, Layout, Precision};

/// Whether a change was planned on an import of these values (out, in): as they are, or after the
/// changes before it.
pub fn is_import(change: &Change, values: &[f64], before: &[&Change]) -> bool {
    let [out, inner] = change.tensor_sizes();
    let layout = if change.fan_in_fan_out { Layout::InOut } else { Layout::OutIn };
    let stored: Vec<f64> = match layout {
        Layout::OutIn => values.to_vec(),
        Layout::InOut => {
            (0..inner).flat_map(|j| (0..out).map(move |i| values[i * inner + j])).collect()
        }
    };
    let compute: Compute = Precision::F32.into();
    [DType::F32, DType::BF16, DType::F16].into_iter().any(|dtype| {
        let mut bytes = Vec::with_capacity(stored.len() * dtype.size());
        dtype.narrow(&stored, &mut bytes);
        let as_it_is = tensor_fingerprint(&bytes) == change.fingerprint;
        as_it_is
            || !before.is_empty() && {
                let w = Stored { dtype, layout, out, inner };
                let terms = before.iter().map(|change| term(&change.delta)).collect();
                let mut new = vec![0; bytes.len()];
                Terms::new(&compute, w, terms).add(&bytes, 0..w.sides()[0], &mut new);
                tensor_fingerprint(&new) == change.fingerprint
            }
    })
}
