//! One tensor of a GGUF file with patches added to it.
//!
//! ```text
//! W₀  the values of the file's own blocks, from before any change      W' = W₀ + ΣΔ   in f64
//! W̃   a type with codes: nearest plane on its grid in the metric H     linalg/nearest_plane.rs
//!     F32, F16, BF16: each element to the nearest                      E = W̃ − W'
//! ```
//!
//! W̃ comes from W₀ and the sum of all patches, never from an earlier rounding, and the patches are
//! summed in an order of their own: so it depends on which patches there are, and not on the order
//! in which they came.

use std::borrow::Cow;

use faer::Mat;
use serde::Serialize;

use super::keys::{self, RoundingMetric};
use super::tensor_grid::{RAISED, TensorGrid, raised};
use crate::base::{Error, Remedy, Result};
use crate::linalg::metric::{energy, lengths_at};
use crate::linalg::nearest_plane::{NearestPlane, Rounded};
use crate::linalg::vector::norm;
use crate::model::change::dense;
use crate::stats::Moment;
use crate::stats::covariance::indefinite;
use crate::store::gguf::{BlockType, Content, GgufTensor};
use crate::store::{Change, Fingerprint, Patch};

/// A change of one tensor, and the patch that it is of.
#[derive(Clone, Copy)]
pub struct PatchChange<'a> {
    /// The patch.
    pub patch: &'a Patch,
    /// Its change of the tensor.
    pub change: &'a Change,
}

/// What became of one tensor. Norms are Frobenius'.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its type of block, as it is written.
    pub kind: &'static str,
    /// ‖W₀‖.
    pub weight: f64,
    /// ‖ΣΔ‖.
    pub change: f64,
    /// ‖E‖/‖ΣΔ‖.
    pub lost: f64,
    /// ‖E‖_C/‖ΣΔ‖_C: what running text pays for the rounding, beside what it pays for the edit;
    /// `None` without statistics, which numbers that are rounded one by one do not need.
    pub text: Option<f64>,
    /// ‖Ek‖/‖ΣΔk‖ at the key that lost most; `None` without keys.
    pub worst_key: Option<f64>,
    /// How many keys there are.
    pub keys: usize,
    /// How many of them count as text only, since there are too many.
    pub soft_keys: usize,
    /// How many of the patches have no keys, where codes are chosen by them.
    pub keyless: usize,
    /// The share of codes that are held back at an end of their grid.
    pub saturated: f64,
    /// The share of codes that are others than in the file before any change; of a type that was
    /// raised, others than the nearest.
    pub changed: f64,
}

/// The values (out, in) of a tensor's blocks.
///
/// # Errors
///
/// A type that is not read.
pub fn values(tensor: &GgufTensor, bytes: &[u8]) -> Result<Vec<f64>> {
    let mut values = vec![0.0f32; tensor.shape.iter().product()];
    if !tensor.kind.values(bytes, &mut values) {
        let what = format!("{}: blocks of type {} are not read", tensor.name, tensor.kind.name);
        return Err(Error::refused(what, "take a file whose matrices have types that are"));
    }
    if values.iter().any(|x| !x.is_finite()) {
        let what = format!("{}: some values are not finite", tensor.name);
        return Err(Error::numeric(what, "fetch the file again"));
    }
    Ok(values.into_iter().map(f64::from).collect())
}

/// A tensor as it is to be written.
pub struct NewTensor {
    /// Its type of block.
    pub kind: &'static BlockType,
    /// Its blocks.
    pub bytes: Vec<u8>,
    /// What became of it.
    pub report: RoundedTensor,
}

/// The tensor with all changes. `original` are its bytes before any change; with `raise`, a type of
/// fewer bits than [`RAISED`] becomes that. Without a moment only numbers are rounded.
///
/// # Errors
///
/// A type that is not read; statistics that are none, or missing for a type with codes; values that
/// the type cannot hold.
pub fn round(
    tensor: &GgufTensor,
    original: &[u8],
    changes: &[PatchChange],
    moment: Option<&Moment>,
    raise: bool,
) -> Result<NewTensor> {
    let &[out, inner] = &tensor.shape[..] else {
        let what = format!("{}: has the shape {:?}, and is no matrix", tensor.name, tensor.shape);
        return Err(Error::refused(what, "name a file of this model"));
    };
    let w0 = values(tensor, original)?;
    let changes = in_order(changes);
    let mut delta = vec![0.0; out * inner];
    for PatchChange { change, .. } in &changes {
        let terms = dense(&change.delta, [out, inner]);
        delta.iter_mut().zip(terms).for_each(|(sum, x)| *sum += x);
    }
    let wanted: Vec<f64> = w0.iter().zip(&delta).map(|(w, d)| w + d).collect();
    let c = moment.map(|moment| (moment.layer, keys::second_moment(moment)));
    let of =
        |one: &PatchChange| keys::keys(one.change, &one.patch.metadata, c.as_ref().map(|(_, c)| c));
    let all: Vec<Option<Mat<f64>>> = changes.iter().map(of).collect();
    let mut keyless = all.iter().filter(|k| k.is_none()).count();
    let k = side_by_side(inner, &all.into_iter().flatten().collect::<Vec<_>>());
    let (kind, blocks) = match raise {
        true => raised_type(tensor, original, &wanted)?,
        false => (tensor.kind, Cow::Borrowed(original)),
    };
    let made = match TensorGrid::read(kind, inner, &blocks) {
        Some(grid) => {
            let (layer, c) = c.as_ref().ok_or_else(statistics_needed)?;
            on_grid(&grid, &blocks, (&wanted, &delta), *layer, (c, &k))?
        }
        None => {
            keyless = 0;
            plain(tensor, &wanted)?
        }
    };
    let Made { bytes, error, soft, shares: [changed, saturated] } = made;
    let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let [lost, did] = [&error, &delta].map(|x| lengths_at(x, &k));
    let worst = lost.iter().zip(&did).map(|(lost, did)| ratio(*lost, *did)).reduce(f64::max);
    let text = c.map(|(_, c)| {
        let [paid, costs] = [&error, &delta].map(|x| energy(x, &c).max(0.0).sqrt());
        ratio(paid, costs)
    });
    let report = RoundedTensor {
        name: tensor.name.clone(),
        kind: kind.name,
        weight: norm(&w0),
        change: norm(&delta),
        lost: ratio(norm(&error), norm(&delta)),
        text,
        worst_key: worst,
        keys: k.ncols(),
        soft_keys: soft,
        keyless,
        saturated,
        changed,
    };
    Ok(NewTensor { kind, bytes, report })
}

/// What is said where few bits are to be chosen and nothing says what text asks.
fn statistics_needed() -> Error {
    let remedy = Remedy::from("name the folder that the patch was planned with");
    let what = "rounding to few bits needs the key statistics of the edited layers";
    Error::refused(what, remedy.option("statistics", None))
}

/// The type of more bits that a tensor is raised to, and blocks of it near what is wanted.
fn raised_type<'a>(
    tensor: &GgufTensor,
    original: &'a [u8],
    wanted: &[f64],
) -> Result<(&'static BlockType, Cow<'a, [u8]>)> {
    let kind = BlockType::by_name(RAISED).expect("a type that is read");
    if tensor.kind.bytes * kind.elements >= kind.bytes * tensor.kind.elements {
        return Ok((tensor.kind, Cow::Borrowed(original)));
    }
    let blocks = raised(wanted, tensor.shape[1]).ok_or_else(|| {
        let what = format!("{}: {RAISED} does not hold it", tensor.name);
        Error::numeric(what, "leave the type as it is")
    })?;
    Ok((kind, Cow::Owned(blocks)))
}

/// The changes in an order that does not depend on how they came: by a hash of what they add.
fn in_order<'a>(changes: &[PatchChange<'a>]) -> Vec<PatchChange<'a>> {
    let mut changes = changes.to_vec();
    changes.sort_by_cached_key(|one| patch_hash(one.patch));
    changes
}

/// The fingerprint of a patch's bytes.
pub fn patch_hash(patch: &Patch) -> String {
    let mut all = Fingerprint::default();
    patch.write_to(&mut all).expect("a hash takes all bytes");
    all.hex()
}

fn side_by_side(rows: usize, all: &[Mat<f64>]) -> Mat<f64> {
    let mut k = Mat::zeros(rows, all.iter().map(|k| k.ncols()).sum());
    let mut at = 0;
    for one in all {
        k.subcols_mut(at, one.ncols()).copy_from(one);
        at += one.ncols();
    }
    k
}

/// New bytes, E, how many keys were soft, and the shares of codes changed and held back.
struct Made {
    bytes: Vec<u8>,
    error: Vec<f64>,
    soft: usize,
    shares: [f64; 2],
}

fn on_grid(
    grid: &TensorGrid,
    original: &[u8],
    (wanted, delta): (&[f64], &[f64]),
    layer: usize,
    (c, k): (&Mat<f64>, &Mat<f64>),
) -> Result<Made> {
    let RoundingMetric { h, soft } = RoundingMetric::of(layer, c, delta, k)?;
    let plane = NearestPlane::of(&h).ok_or_else(|| indefinite(layer))?;
    let Rounded { codes, error } = plane.round(wanted, grid);
    let shares = grid.shares(&codes, wanted);
    Ok(Made { bytes: grid.with_codes(original, &codes), error, soft, shares })
}

/// Of a type whose elements are numbers.
fn plain(tensor: &GgufTensor, wanted: &[f64]) -> Result<Made> {
    let Content::Plain(dtype) = tensor.kind.content else {
        unreachable!("the values of a type are on a grid or plain")
    };
    let (mut bytes, mut now) = (Vec::new(), vec![0.0; wanted.len()]);
    dtype.narrow(wanted, &mut bytes);
    dtype.widen(&bytes, &mut now);
    if now.iter().any(|x: &f64| !x.is_finite()) {
        let what = format!("{}: some values do not fit {}", tensor.name, dtype.name());
        return Err(Error::numeric(what, "make a smaller change"));
    }
    let error = now.iter().zip(wanted).map(|(now, wanted)| now - wanted).collect();
    Ok(Made { bytes, error, soft: 0, shares: [0.0; 2] })
}
