//! Patches into weights: in a new folder, in a file of their own, or in place with a way back.
//!
//! ```text
//! W_p = round(W_0 + Δ_1 + … + Δ_p)
//! ```
//!
//! W_0 is the tensor before any change: what the oldest record of the journal kept, else what is in
//! the file. So a second change costs no second rounding, whether it comes alone or with the first.
//! A patch says by fingerprint which bytes it is to be added to; of several, the first must fit
//! what is in the file, and each of the others what its predecessors make of it.
//!
//! A device adds up factors too, to the same bytes.
//!
//! A folder made by [`to_folder`] starts anew: what was rounded there is its W_0. Its lineage goes
//! on, and says which model's statistics are for it still.

mod descent;
mod target;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

use super::quantised;
use crate::base::{DType, Error, Progress, Result, Stage, catch_device_error};
use crate::ops::proof;
use crate::ops::update::Sums;
use crate::store::disk::Os;
use crate::store::gguf::is_gguf;
use crate::store::history::History;
use crate::store::journal::{self, Journal, NewLineage, Undone};
use crate::store::place::{check_place, check_replaced};
use crate::store::record::LogEntry;
use crate::store::write::{self, Item};
use crate::store::{Checkpoint, Fingerprint, Lineage, Patch, Shard, folder};
use crate::tensor::{Compute, Device};

use descent::Descent;
use target::{Addition, Meter, Plan, Target};

/// What was done to the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Sorted by name.
    pub tensors: Vec<Changed>,
}

/// What was done to one tensor. Norms are Frobenius'.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// Its name in the checkpoint.
    pub name: String,
    /// ‖W_0‖.
    pub weight: f64,
    /// ‖ΣΔ‖, everything added to W_0.
    pub change: f64,
    /// ‖W_0 + ΣΔ − W‖ / ‖ΣΔ‖: the share of the change that rounding to the stored type lost.
    pub lost: f64,
}

/// Writes a copy of the model with the patches applied. The copy has no journal; its lineage says
/// what it was made of.
///
/// # Errors
///
/// Patches that do not fit the model or each other; a folder `out` that is not empty or lies inside
/// the model's; values the stored type cannot hold; cancellation. Nothing is left behind then.
pub fn to_folder(
    model: &Path,
    patches: &[Patch],
    out: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Report> {
    planned(model, patches, device, progress, |Planned { plan, checkpoint, history, after }| {
        let mut after = after.to_vec();
        let mut descent = Descent::new(checkpoint, patches, history, progress)?;
        folder::build(out, |dir| {
            folder::copy(model, dir, progress)?;
            let mut meter = plan.meter(Stage::WriteWeights, progress);
            let mut report = Report::default();
            let mut hashes = BTreeMap::new();
            for (name, target) in &plan.targets {
                let path = dir.join(&target.place.file);
                let file = folder::writable(&path)?;
                let mut hash = Fingerprint::default();
                let sums =
                    target.make(name, patches.len(), history, &mut meter, &mut |at, new| {
                        hash.add(new);
                        file.write_all_at(new, at).map_err(|e| Error::io(&path, "write", e))
                    })?;
                file.sync_all().map_err(|e| Error::io(&path, "sync", e))?;
                hashes.insert(name.clone(), hash.hex());
                after[target.last_patch()].insert(name.clone(), sums);
                report.tensors.push(Changed::of(name, sums));
            }
            checkpoint.unchanged()?;
            if let Some(descent) = &mut descent {
                for (p, made) in after.iter().enumerate() {
                    descent.after(p, made);
                }
                descent.with(hashes).write(dir)?;
            }
            Ok(report)
        })
    })
}

/// Which bytes of the tensors that patches change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchSide {
    /// As the checkpoint holds them now, without the patches.
    Before,
    /// With the patches, as [`to_folder`] writes them.
    After,
}

/// Refuses a file for the tensors that patches change, where it is among what is read, or would
/// replace anything but an older one of the same tensors.
///
/// # Errors
///
/// That; a folder that cannot be written.
pub fn check_tensors_file(file: &Path, patches: &[Patch], inputs: &[&Path]) -> Result<()> {
    check_place(file, inputs)?;
    let changes = patches.iter().flat_map(|patch| &patch.changes);
    let ours: BTreeSet<&String> = changes.map(|change| &change.tensor).collect();
    let older = Shard::open(file)
        .is_ok_and(|shard| shard.header().tensors.keys().collect::<BTreeSet<_>>() == ours);
    check_replaced(file, older, "file of these tensors")
}

/// Writes the tensors that patches change, and no other, into one safetensors file: in full, under
/// their names, in the type and orientation of the checkpoint.
///
/// # Errors
///
/// As [`to_folder`]; a file that is there already is replaced, by a whole one.
pub fn to_file(
    model: &Path,
    patches: &[Patch],
    side: PatchSide,
    out: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Report> {
    planned(model, patches, device, progress, |planned| {
        let targets: Vec<_> = planned.plan.targets.iter().collect();
        let item = |(name, target): &(&String, &Target)| Item {
            name: (*name).clone(),
            dtype: target.stored.dtype.into(),
            shape: target.stored.sides().to_vec(),
        };
        let items: Vec<Item> = targets.iter().map(item).collect();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let mut meter = planned.plan.meter(Stage::WriteWeights, progress);
        let (mut sums, mut failed) = (vec![Sums::default(); targets.len()], None);
        let written = write::write(out, &metadata, &items, &mut |i, file| {
            let (name, target) = targets[i];
            let made = planned.read(side, name, target, &mut meter, &mut |new| {
                file.write_all(new).map_err(|e| Error::io(out, "write", e))
            });
            // The writer knows the system's errors only; ours goes around it.
            let made = made.and_then(|made| planned.checkpoint.unchanged().map(|()| made));
            sums[i] = made.map_err(|e| io::Error::other(failed.insert(e).to_string()))?;
            Ok(())
        });
        failed.map_or(written, Err)?;
        let changed = targets.iter().zip(sums).map(|((name, _), sums)| Changed::of(name, sums));
        Ok(Report { tensors: changed.collect() })
    })
}

/// Writes the same as `model.safetensors` in a new folder, and nothing else: what a server is told
/// to load.
///
/// # Errors
///
/// As [`to_file`]; a folder `out` that is not empty.
pub fn to_file_in_folder(
    model: &Path,
    patches: &[Patch],
    side: PatchSide,
    out: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Report> {
    folder::build(out, |dir| {
        to_file(model, patches, side, &dir.join("model.safetensors"), device, progress)
    })
}

/// A tensor as a checkpoint holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorBytes {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its sizes, in the checkpoint's orientation.
    pub shape: Vec<usize>,
    /// Its elements, row-major and little-endian.
    pub bytes: Vec<u8>,
}

/// The tensors that patches change, in memory, with the bytes that [`to_file`] writes, and what was
/// done to them. `by` computes them.
///
/// # Errors
///
/// As [`to_folder`].
pub fn to_memory(
    model: &Path,
    patches: &[Patch],
    side: PatchSide,
    by: &Compute,
    progress: &dyn Progress,
) -> Result<(Vec<TensorBytes>, Report)> {
    planned_on(by, model, patches, progress, |planned| {
        let mut meter = planned.plan.meter(Stage::RoundWeights, progress);
        let (mut all, mut report) = (Vec::new(), Report::default());
        for (name, target) in &planned.plan.targets {
            let mut bytes = Vec::with_capacity(target.place.len as usize);
            let sums = planned.read(side, name, target, &mut meter, &mut |new| {
                bytes.extend_from_slice(new);
                Ok(())
            })?;
            report.tensors.push(Changed::of(name, sums));
            let (dtype, shape) = (target.stored.dtype, target.stored.sides().to_vec());
            all.push(TensorBytes { name: name.clone(), dtype, shape, bytes });
        }
        planned.checkpoint.unchanged()?;
        Ok((all, report))
    })
}

/// Refuses patches that do not fit the model or each other.
///
/// # Errors
///
/// The same as [`to_folder`]'s of the patches.
pub fn check(
    model: &Path,
    patches: &[Patch],
    device: &Device,
    progress: &dyn Progress,
) -> Result<()> {
    planned(model, patches, device, progress, |_| Ok(()))
}

/// The lineage that the model would have with the patches applied, without fingerprints of what
/// they change; none of a model of an unknown family. Nothing is written.
///
/// # Errors
///
/// As [`to_folder`].
pub fn lineage_with(
    model: &Path,
    patches: &[Patch],
    device: &Device,
    progress: &dyn Progress,
) -> Result<Option<Lineage>> {
    planned(model, patches, device, progress, |Planned { plan, checkpoint, history, after }| {
        let Some(mut descent) = Descent::new(checkpoint, patches, history, progress)? else {
            return Ok(None);
        };
        let mut after = after.to_vec();
        let mut meter = plan.meter(Stage::RoundWeights, progress);
        for (name, target) in &plan.targets {
            let sums = target.make(name, patches.len(), history, &mut meter, &mut |_, _| Ok(()))?;
            after[target.last_patch()].insert(name.clone(), sums);
        }
        for (p, made) in after.iter().enumerate() {
            descent.after(p, made);
        }
        Ok(Some(descent.with([])))
    })
}

/// Patches that fit a model.
struct Planned<'a> {
    plan: &'a Plan<'a>,
    checkpoint: &'a Checkpoint,
    history: &'a History,
    /// Of each patch, what [`Plan::check`] found.
    after: &'a [BTreeMap<String, Sums>],
}

impl Planned<'_> {
    /// The bytes of one side of a tensor, in pieces.
    fn read(
        &self,
        side: PatchSide,
        name: &str,
        target: &Target,
        meter: &mut Meter,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Sums> {
        if side == PatchSide::After {
            let patches = self.after.len();
            return target.make(name, patches, self.history, meter, &mut |_, new| put(new));
        }
        for (_, place) in target.pieces() {
            put(&self.history.current(&place)?)?;
            meter.did(place.len)?;
        }
        Ok(Sums::default())
    }
}

/// Reads a model that nobody writes meanwhile, plans the patches and checks them.
fn planned<T>(
    model: &Path,
    patches: &[Patch],
    device: &Device,
    progress: &dyn Progress,
    then: impl FnOnce(Planned) -> Result<T>,
) -> Result<T> {
    planned_on(&proof::start(device.now(), 0, progress)?[0], model, patches, progress, then)
}

/// The same, computed by `by`.
fn planned_on<T>(
    by: &Compute,
    model: &Path,
    patches: &[Patch],
    progress: &dyn Progress,
    then: impl FnOnce(Planned) -> Result<T>,
) -> Result<T> {
    let _reading = journal::recover(&Os, model)?;
    let checkpoint = Checkpoint::open(model)?;
    let history = History::read(model)?;
    let past = past(&history)?;
    let plan = Plan::new(&checkpoint, &past, patches, by)?;
    catch_device_error(|| {
        let after = plan.check(patches.len(), &history, progress)?;
        then(Planned { plan: &plan, checkpoint: &checkpoint, history: &history, after: &after })
    })
}

/// Applies the patches to the model's own files, each as one entry of its journal.
///
/// # Errors
///
/// As [`to_folder`]; files that are links, or may not be written; a model that another process
/// opens or changes. Each patch is then there as a whole or not at all, and [`log`] lists those
/// that are.
pub fn in_place(
    model: &Path,
    patches: &[Patch],
    device: &Device,
    progress: &dyn Progress,
) -> Result<Report> {
    catch_device_error(|| changed_in_place(model, patches, device, progress))
}

fn changed_in_place(
    model: &Path,
    patches: &[Patch],
    device: &Device,
    progress: &dyn Progress,
) -> Result<Report> {
    let checkpoint = Checkpoint::open(model)?;
    let mut journal = Journal::open(&Os, model)?;
    checkpoint.unchanged()?; // by a writer that came between the two lines above
    let past = past(journal.history())?;
    let computes = proof::start(device.now(), 0, progress)?;
    let plan = Plan::new(&checkpoint, &past, patches, &computes[0])?;
    let mut descent = Descent::new(&checkpoint, patches, journal.history(), progress)?;
    drop(checkpoint); // from here on nothing looks at the bytes through a map
    plan.check(patches.len(), journal.history(), progress)?;
    let mut all = BTreeMap::new();
    for (p, patch) in patches.iter().enumerate() {
        let changed = |name: &str| (name.to_owned(), &plan.targets[name]);
        let targets: BTreeMap<String, &Target> = patch.tensors().map(changed).collect();
        let terms: BTreeMap<&String, Addition> =
            targets.iter().map(|(name, t)| (name, t.terms(p + 1))).collect();
        let mut meter =
            Meter::new(Stage::WriteWeights, targets.values().map(|t| t.place.len), progress);
        let pieces: Vec<_> = targets
            .iter()
            .flat_map(|(name, t)| t.pieces().map(move |(rows, place)| (name, *t, rows, place)))
            .collect();
        let places = pieces.iter().map(|(.., place)| place.clone()).collect();
        let made = RefCell::new(BTreeMap::<String, (Sums, Fingerprint)>::new());
        let mut new_bytes = |i: usize, original: &[u8]| {
            let (name, target, rows, place) = &pieces[i];
            // The journal takes back what an error cut off, and sees no device unwind.
            let state = || target.state(name, &terms[name], rows.clone(), original);
            let (new, more) = catch_device_error(state)?;
            let mut made = made.borrow_mut();
            let (sums, hash) = made.entry((*name).clone()).or_default();
            *sums = sums.and(more);
            hash.add(&new);
            meter.did(place.len)?;
            Ok(new)
        };
        let mut new_lineage = descent.as_mut().map(|descent| {
            || {
                let made = made.borrow();
                let sums = made.iter().map(|(name, (sums, _))| (name.clone(), *sums)).collect();
                descent.after(p, &sums);
                descent.with(made.iter().map(|(name, (_, hash))| (name.clone(), hash.hex())))
            }
        });
        let new_lineage = new_lineage.as_mut().map(|new| new as &mut NewLineage);
        journal.apply(patch, places, &mut new_bytes, new_lineage)?;
        all.extend(made.into_inner().into_iter().map(|(name, (sums, _))| (name, sums)));
    }
    Ok(Report { tensors: all.into_iter().map(|(name, sums)| Changed::of(&name, sums)).collect() })
}

/// Undoes changes of a model's own files, newest first: the newest, or all but the first `keep`.
/// Files may hold different bytes of one tensor: earlier versions changed one of two copies.
///
/// # Errors
///
/// Nothing to undo; files that something else has written since; what [`in_place`] refuses.
pub fn undo(model: &Path, keep: Option<usize>) -> Result<Undone> {
    journal::undo(&Os, &journal_dir(model)?, keep)
}

/// The changes applied to a model's own files, oldest first; empty where there are none.
///
/// # Errors
///
/// No model; one being changed right now; a damaged journal.
pub fn log(model: &Path) -> Result<Vec<LogEntry>> {
    journal::log(&journal_dir(model)?)
}

/// The folder whose journal is a model's: its own, or the one that its GGUF file is in.
fn journal_dir(model: &Path) -> Result<Cow<'_, Path>> {
    if is_gguf(model) {
        return quantised::journal_folder(model).map(Cow::Owned);
    }
    Checkpoint::check(model)?;
    Ok(Cow::Borrowed(model))
}

impl Changed {
    fn of(name: &str, sums: Sums) -> Changed {
        let share = if sums.wanted > 0.0 { sums.lost / sums.wanted } else { 0.0 };
        Changed {
            name: name.to_owned(),
            weight: sums.weight.sqrt(),
            change: sums.wanted.sqrt(),
            lost: share.sqrt(),
        }
    }
}

/// The patches that were applied before, oldest first.
fn past(history: &History) -> Result<Vec<Patch>> {
    history.entries().map(|e| history.patch(e.number)).collect()
}
