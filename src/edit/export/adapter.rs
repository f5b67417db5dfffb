//! A patch as a LoRA adapter, for programs that add a low-rank change to weights they keep.
//!
//! ```text
//! PEFT     W x + (α/r) B A x        A (r, in)   B (out, r)   one r for all modules, α = r
//!
//! k ≤ r    Δ = left·rightᵀ of rank k:   B = [left·S  0],   Aᵀ = [right·S⁻¹  0]      exact
//! k > r    B A = Δ_r, the nearest matrix of rank r (linalg/low_rank.rs)
//! lost     ‖Δ − Δ_r‖ / ‖Δ‖, Frobenius: 0 in the first case
//! ```
//!
//! S is diagonal and brings the norms of a column of B and of its row of A within a factor of 2:
//! a server keeps adapters in f16 or bf16, a method's factors can be orders of magnitude apart,
//! and f16 loses digits below 6e-5. S is made of powers of two, so B A has the products of
//! left·rightᵀ to the bit (as long as none of its factors is below the least normal f32). The
//! nearest matrix is balanced as it comes, and rounded to f32 once.
//!
//! Servers apply one α/r and one rank to all modules and ignore patterns, so no pattern is
//! written, shorter factors are padded with zeros, and r is one of [`RANKS`]. `target_modules` are
//! whole paths: PEFT then takes these modules and no other, and servers look at their last part.
//!
//! An adapter is of a whole module. Where a patch changes some rows of its tensor alone (q of q, k
//! and v), the rows of several changes are stacked, and those of B that nothing changes are 0.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use faer::{Mat, MatRef};
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::linalg::low_rank::{self, Nearest};
use crate::model::change::dense;
use crate::ops::update::side_by_side;
use crate::store::write::{self, Item};
use crate::store::{Change, Delta, Patch, RowBlocks, folder};

/// The ranks that servers take: those of vLLM's `max_lora_rank`, but for 1. Others take any up to
/// the largest they were started or built for, which for some is 256.
pub const RANKS: [usize; 8] = [8, 16, 32, 64, 128, 256, 320, 512];

/// ε: half a unit in the last place of 1 in f32.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// Where an adapter cannot say what a patch does.
fn in_full() -> Remedy {
    Remedy::from("write the tensors in full").option("delta", None)
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// r, and α.
    pub rank: usize,
    /// Whether the checkpoint stores its matrices (in, out).
    pub fan_in_fan_out: bool,
    /// One a changed tensor, in the patch's order.
    pub modules: Vec<Module>,
}

/// The adapter of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The framework's path of the module.
    pub module: String,
    /// Rows of W.
    pub out: usize,
    /// Columns of W.
    pub inner: usize,
    /// A (r, in), row-major.
    pub a: Vec<f32>,
    /// B (out, r), row-major.
    pub b: Vec<f32>,
    /// k, the rank the change can have.
    pub rank: usize,
    /// ‖Δ − Δ_r‖ / ‖Δ‖; its square is the part of the energy ‖Δ‖² that was lost.
    pub lost: f64,
}

impl Adapter {
    /// The adapter of a patch: of rank `rank`, or of the smallest that holds the patch.
    ///
    /// # Errors
    ///
    /// A rank that is none of [`RANKS`], a patch that does not agree on `fan_in_fan_out`, factors
    /// that f32 cannot hold, cancellation.
    pub fn of(patch: &Patch, rank: Option<usize>, progress: &dyn Progress) -> Result<Adapter> {
        let path = Path::new("patch");
        patch.check(path)?;
        let rank = check_rank(match rank {
            Some(rank) => rank,
            None => fitting(patch)?,
        })?;
        let first = &patch.changes[0];
        for change in &patch.changes {
            if change.module.is_empty() {
                let remedy = "make the patch again";
                return Err(Error::input(path, &change.tensor, "names no module", remedy));
            }
            if change.fan_in_fan_out != first.fan_in_fan_out {
                let what = format!(
                    "fan_in_fan_out is {}, and {} for {}: an adapter has one for all",
                    change.fan_in_fan_out, first.fan_in_fan_out, first.tensor
                );
                return Err(Error::input(path, &change.tensor, what, in_full()));
            }
        }
        let mut modules = Vec::new();
        let tensors = by_tensor(patch);
        for (i, changes) in tensors.iter().enumerate() {
            progress.at(Stage::Matrix, i as u64, tensors.len() as u64);
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".into() });
            }
            modules.push(Module::of(changes, rank)?);
        }
        Ok(Adapter { rank, fan_in_fan_out: first.fan_in_fan_out, modules })
    }

    /// Writes the folder: `adapter_config.json` and `adapter_model.safetensors`. `base` is what the
    /// configuration names as the model it belongs to.
    fn write_into(&self, dir: &Path, base: Option<&str>) -> Result<()> {
        let tensor = |module: &Module, side: &str, shape| Item {
            name: format!("base_model.model.{}.lora_{side}.weight", module.module),
            dtype: Dtype::F32,
            shape,
        };
        let r = self.rank;
        let sides = |m: &Module| [tensor(m, "A", vec![r, m.inner]), tensor(m, "B", vec![m.out, r])];
        let items: Vec<Item> = self.modules.iter().flat_map(sides).collect();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let weights = dir.join("adapter_model.safetensors");
        write::write(&weights, &metadata, &items, &mut |i, out| {
            let module = &self.modules[i / 2];
            out.write_all(bytemuck::cast_slice(if i % 2 == 0 { &module.a } else { &module.b }))
        })?;
        let path = dir.join("adapter_config.json");
        let failed = |e| Error::io(&path, "write", e);
        let mut file = File::create(&path).map_err(failed)?;
        let config = format!("{:#}\n", self.config(base));
        file.write_all(config.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    fn config(&self, base: Option<&str>) -> serde_json::Value {
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": true,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": self.fan_in_fan_out,
            "target_modules": self.modules.iter().map(|m| &m.module).collect::<Vec<_>>(),
            "layers_to_transform": null,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_rslora": false,
            "use_dora": false,
        })
    }
}

/// Writes the adapter of a patch as the new folder `out`, which appears whole or not at all; `base`
/// is what its configuration names as the model it belongs to.
///
/// # Errors
///
/// A folder that is there and not empty; what [`Adapter::of`] refuses.
pub fn write(
    patch: &Patch,
    rank: Option<usize>,
    base: Option<&str>,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Adapter> {
    folder::build(out, |dir| {
        let adapter = Adapter::of(patch, rank, progress)?;
        adapter.write_into(dir, base)?;
        Ok(adapter)
    })
}

/// How an adapter names a checkpoint as its base: by its whole path, as a server has to be started
/// with it. One that is not there has the name as given.
pub fn name_of(model: &Path) -> String {
    model.canonicalize().unwrap_or_else(|_| model.to_owned()).display().to_string()
}

/// The rank, if it is one that servers take.
///
/// # Errors
///
/// One that is not.
pub fn check_rank(rank: usize) -> Result<usize> {
    match RANKS.contains(&rank) {
        true => Ok(rank),
        false => {
            let what = format!("an adapter of rank {rank} is not what servers take");
            Err(Error::refused(what, format!("ask for one of {RANKS:?}")))
        }
    }
}

/// The smallest rank that holds the change of every tensor, or the largest there is.
fn fitting(patch: &Patch) -> Result<usize> {
    let mut most = 0;
    for changes in by_tensor(patch) {
        most = most.max(match &changes[..] {
            [change] => rank_of(change),
            _ => joint_rank(&stacked(&changes))?,
        });
    }
    Ok(RANKS.into_iter().find(|&r| r >= most).unwrap_or(RANKS[RANKS.len() - 1]))
}

/// The rank a change can have.
fn rank_of(change: &Change) -> usize {
    match change.delta {
        Delta::LowRank { r, .. } => r.min(change.out).min(change.inner),
        Delta::Dense(_) => change.out.min(change.inner),
    }
}

/// The rank of changes of rows of one tensor, stacked: the parts of each may be those of the
/// others. What is below it is less than one rounding of Δ to f32:
///
/// ```text
/// Σ_{i>k} σ_i² ≤ ε² ‖Δ‖²
/// ```
fn joint_rank(change: &Change) -> Result<usize> {
    let most = rank_of(change);
    if most <= RANKS[0] {
        return Ok(most);
    }
    let found = nearest(change, most)?;
    let (mut left, mut k) = (UNIT * UNIT * found.energy, found.left.ncols());
    // Column i of either factor has the norm √σ_i.
    while k > 0 {
        left -= found.left.col(k - 1).norm_l2().powi(4);
        if left < 0.0 {
            break;
        }
        k -= 1;
    }
    Ok(k)
}

/// The matrix of rank `r` that is nearest to a change.
fn nearest(change: &Change, r: usize) -> Result<Nearest> {
    let (out, inner) = (change.out, change.inner);
    let found = match &change.delta {
        Delta::LowRank { left, right, r: k } => {
            let (left, right) = (widened(left, out, *k), widened(right, inner, *k));
            low_rank::of_product(left.as_ref(), right.as_ref(), r)
        }
        Delta::Dense(delta) => low_rank::of_matrix(widened(delta, out, inner).as_ref(), r),
    };
    found.ok_or_else(|| fails(change, "the singular values cannot be found"))
}

fn fails(change: &Change, what: &str) -> Error {
    Error::numeric(format!("{}: {what}", change.tensor), in_full())
}

/// The changes of each tensor, in the patch's order.
fn by_tensor(patch: &Patch) -> Vec<Vec<&Change>> {
    let mut all: Vec<Vec<&Change>> = Vec::new();
    for change in &patch.changes {
        match all.iter_mut().find(|same| same[0].tensor == change.tensor) {
            Some(same) => same.push(change),
            None => all.push(vec![change]),
        }
    }
    all
}

/// Changes of rows of one tensor as a change of all these rows, one after the other.
fn stacked(changes: &[&Change]) -> Change {
    let (first, inner) = (changes[0], changes[0].inner);
    let out = changes.iter().map(|c| c.out).sum();
    let factors = changes.iter().map(|c| match &c.delta {
        Delta::LowRank { left, right, r } => Some((c.out, &left[..], &right[..], *r)),
        Delta::Dense(_) => None,
    });
    let delta = match factors.collect::<Option<Vec<_>>>() {
        None => {
            let rows = changes.iter().flat_map(|c| dense(&c.delta, [c.out, inner]));
            Delta::Dense(rows.map(|x| x as f32).collect())
        }
        Some(factors) => {
            let r = factors.iter().map(|&(.., r)| r).sum();
            let (mut left, mut before) = (Vec::new(), 0);
            for &(rows, own, _, k) in &factors {
                for row in 0..rows {
                    let at = left.len() + before;
                    left.resize(left.len() + r, 0.0);
                    left[at..at + k].copy_from_slice(&own[row * k..][..k]);
                }
                before += k;
            }
            let right = side_by_side(inner, factors.iter().map(|&(_, _, right, r)| (right, r)));
            Delta::LowRank { left, right, r }
        }
    };
    Change { out, rows: None, delta, ..first.clone() }
}

impl Module {
    /// Of the changes of one tensor.
    fn of(changes: &[&Change], r: usize) -> Result<Module> {
        if changes[0].rows.is_none() {
            return Module::of_matrix(changes[0], r);
        }
        let mut module = Module::of_matrix(&stacked(changes), r)?;
        if module.lost <= UNIT {
            (module.rank, module.lost) = (module.rank.min(r), 0.0); // as in `joint_rank`
        }
        module.out = changes[0].tensor_sizes()[0];
        let rows = std::mem::replace(&mut module.b, vec![0.0; module.out * r]);
        let mut rows = rows.chunks_exact(r);
        for row in changes.iter().filter_map(|c| c.rows).flat_map(RowBlocks::ranges).flatten() {
            let stacked = rows.next().expect("as many rows as the changes name");
            module.b[row * r..][..r].copy_from_slice(stacked);
        }
        Ok(module)
    }

    fn of_matrix(change: &Change, r: usize) -> Result<Module> {
        let (out, inner) = (change.out, change.inner);
        let found = match &change.delta {
            Delta::LowRank { left, right, r: k } if *k <= r => {
                balanced(widened(left, out, *k), widened(right, inner, *k))
            }
            _ => nearest(change, r)?,
        };
        let (mut a, mut b) = (vec![0.0; r * inner], vec![0.0; out * r]);
        for j in 0..found.left.ncols() {
            (0..inner).for_each(|i| a[j * inner + i] = found.right[(i, j)] as f32);
            (0..out).for_each(|i| b[i * r + j] = found.left[(i, j)] as f32);
        }
        if !a.iter().chain(&b).all(|x| x.is_finite()) {
            return Err(fails(change, "the factors do not fit F32"));
        }
        let part = if found.lost > 0.0 { found.lost / found.energy } else { 0.0 };
        let (tensor, module) = (change.tensor.clone(), change.module.clone());
        Ok(Module { tensor, module, out, inner, a, b, rank: rank_of(change), lost: part.sqrt() })
    }
}

/// A row-major matrix in f64.
fn widened(values: &[f32], rows: usize, cols: usize) -> Mat<f64> {
    let matrix = MatRef::from_row_major_slice(values, rows, cols);
    Mat::from_fn(rows, cols, |i, j| matrix[(i, j)].into())
}

/// left·S and right·S⁻¹.
fn balanced(mut left: Mat<f64>, mut right: Mat<f64>) -> Nearest {
    for j in 0..left.ncols() {
        let [l, r] = [&left, &right].map(|m| m.col(j).norm_l2());
        if l > 0.0 && r > 0.0 {
            let scale = 2f64.powi((libm::log2(r / l) / 2.0).round() as i32);
            left.col_mut(j).iter_mut().for_each(|x| *x *= scale);
            right.col_mut(j).iter_mut().for_each(|x| *x /= scale);
        }
    }
    Nearest { left, right, lost: 0.0, energy: 0.0 }
}
