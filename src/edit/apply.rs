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
//! A folder made by [`to_folder`] starts anew: what was rounded there is its W_0.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::solve::delta::term;
use crate::base::{DType, Error, Progress, Result, Stage, catch_device_error};
use crate::ops::update::{Stored, Sums, Terms};
use crate::store::checkpoint::float;
use crate::store::disk::Os;
use crate::store::history::History;
use crate::store::journal::{self, Journal};
use crate::store::record::{FileRange, LogEntry};
use crate::store::write::{self, Item};
use crate::store::{Change, Checkpoint, Delta, Fingerprint, Patch, folder};
use crate::tensor::{Compute, Device, Layout};

/// Bytes of weights in work at a time.
const PIECE: usize = 16 << 20;

const REMEDY: &str = "apply the patch to the model it was made on";

/// What was done to the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Sorted by name.
    pub tensors: Vec<Changed>,
}

/// What was done to one tensor. Norms are Frobenius'.
#[derive(Clone, Debug, PartialEq)]
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

/// Writes a copy of the model with the patches applied. The copy has no journal.
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
    planned(model, patches, device, progress, |plan, checkpoint, history| {
        folder::build(out, |dir| {
            folder::copy(model, dir, progress)?;
            let mut meter = plan.meter(Stage::WriteWeights, progress);
            let mut report = Report::default();
            for (name, target) in &plan.targets {
                let path = dir.join(&target.place.file);
                let file = folder::writable(&path)?;
                let sums =
                    target.make(name, patches.len(), history, &mut meter, &mut |at, new| {
                        file.write_all_at(new, at).map_err(|e| Error::io(&path, "write", e))
                    })?;
                file.sync_all().map_err(|e| Error::io(&path, "sync", e))?;
                report.tensors.push(Changed::of(name, sums));
            }
            checkpoint.unchanged()?;
            Ok(report)
        })
    })
}

/// Writes the changed tensors alone into one safetensors file: in full, under their names, in the
/// type and orientation of the checkpoint, with the bytes [`to_folder`] gives them.
///
/// # Errors
///
/// As [`to_folder`]; a file that is there already is replaced, by a whole one.
pub fn to_file(
    model: &Path,
    patches: &[Patch],
    out: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Report> {
    planned(model, patches, device, progress, |plan, checkpoint, history| {
        let targets: Vec<_> = plan.targets.iter().collect();
        let item = |(name, target): &(&String, &Target)| Item {
            name: (*name).clone(),
            dtype: target.stored.dtype.into(),
            shape: target.stored.sides().to_vec(),
        };
        let items: Vec<Item> = targets.iter().map(item).collect();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let mut meter = plan.meter(Stage::WriteWeights, progress);
        let (mut sums, mut failed) = (vec![Sums::default(); targets.len()], None);
        let written = write::write(out, &metadata, &items, &mut |i, file| {
            let (name, target) = targets[i];
            let made = target.make(name, patches.len(), history, &mut meter, &mut |_, new| {
                file.write_all(new).map_err(|e| Error::io(out, "write", e))
            });
            // The writer knows the system's errors only; ours goes around it.
            let made = made.and_then(|made| checkpoint.unchanged().map(|()| made));
            sums[i] = made.map_err(|e| io::Error::other(failed.insert(e).to_string()))?;
            Ok(())
        });
        failed.map_or(written, Err)?;
        let changed = targets.iter().zip(sums).map(|((name, _), sums)| Changed::of(name, sums));
        Ok(Report { tensors: changed.collect() })
    })
}

/// A changed tensor as it would be written.
pub struct Written {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its bytes, in the checkpoint's orientation.
    pub bytes: Vec<u8>,
    /// What was done to it.
    pub changed: Changed,
}

/// The changed tensors in memory, with the bytes [`to_folder`] gives them. `by` computes them.
///
/// # Errors
///
/// As [`to_folder`].
pub fn to_memory(
    model: &Path,
    patches: &[Patch],
    by: &Compute,
    progress: &dyn Progress,
) -> Result<Vec<Written>> {
    planned_on(by, model, patches, progress, |plan, checkpoint, history| {
        let mut meter = plan.meter(Stage::RoundWeights, progress);
        let mut all = Vec::new();
        for (name, target) in &plan.targets {
            let mut bytes = Vec::with_capacity(target.place.len as usize);
            let sums = target.make(name, patches.len(), history, &mut meter, &mut |_, new| {
                bytes.extend_from_slice(new);
                Ok(())
            })?;
            let (name, dtype) = (name.clone(), target.stored.dtype);
            let changed = Changed::of(&name, sums);
            all.push(Written { name, dtype, bytes, changed });
        }
        checkpoint.unchanged()?;
        Ok(all)
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
    planned(model, patches, device, progress, |_, _, _| Ok(()))
}

/// Reads a model that nobody writes meanwhile, plans the patches and checks them.
fn planned<T>(
    model: &Path,
    patches: &[Patch],
    device: &Device,
    progress: &dyn Progress,
    then: impl FnOnce(&Plan, &Checkpoint, &History) -> Result<T>,
) -> Result<T> {
    planned_on(&device.start()?[0], model, patches, progress, then)
}

/// The same, computed by `by`.
fn planned_on<T>(
    by: &Compute,
    model: &Path,
    patches: &[Patch],
    progress: &dyn Progress,
    then: impl FnOnce(&Plan, &Checkpoint, &History) -> Result<T>,
) -> Result<T> {
    let _reading = journal::recover(&Os, model)?;
    let checkpoint = Checkpoint::open(model)?;
    let history = History::read(model)?;
    let past = past(&history)?;
    let plan = Plan::new(&checkpoint, &past, patches, by)?;
    catch_device_error(|| {
        plan.check(&history, progress)?;
        then(&plan, &checkpoint, &history)
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
    let computes = device.start()?;
    let plan = Plan::new(&checkpoint, &past, patches, &computes[0])?;
    drop(checkpoint); // from here on nothing looks at the bytes through a map
    plan.check(journal.history(), progress)?;
    let mut all = BTreeMap::new();
    for (p, patch) in patches.iter().enumerate() {
        let changed = |c: &Change| (c.tensor.clone(), &plan.targets[&c.tensor]);
        let targets: BTreeMap<String, &Target> = patch.changes.iter().map(changed).collect();
        let terms: BTreeMap<&String, Terms> =
            targets.iter().map(|(name, t)| (name, t.terms(p + 1))).collect();
        let mut meter =
            Meter::new(Stage::WriteWeights, targets.values().map(|t| t.place.len), progress);
        let pieces: Vec<_> = targets
            .iter()
            .flat_map(|(name, t)| t.pieces().map(move |(rows, place)| (name, *t, rows, place)))
            .collect();
        let places = pieces.iter().map(|(.., place)| place.clone()).collect();
        let mut sums = BTreeMap::<String, Sums>::new();
        journal.apply(patch, places, &mut |i, original| {
            let (name, target, rows, place) = &pieces[i];
            // The journal takes back what an error cut off, and sees no device unwind.
            let state = || target.state(name, &terms[name], rows.clone(), original);
            let (new, more) = catch_device_error(state)?;
            let sum = sums.entry((*name).clone()).or_default();
            *sum = sum.and(more);
            meter.did(place.len)?;
            Ok(new)
        })?;
        all.extend(sums);
    }
    Ok(Report { tensors: all.into_iter().map(|(name, sums)| Changed::of(&name, sums)).collect() })
}

/// Undoes changes of a model's own files, newest first: the newest, or all but the first `keep`.
///
/// # Errors
///
/// Nothing to undo; files that something else has written since; what [`in_place`] refuses.
pub fn undo(model: &Path, keep: Option<usize>) -> Result<Vec<LogEntry>> {
    Checkpoint::open(model)?;
    journal::undo(&Os, model, keep)
}

/// The changes applied to a model's own files, oldest first; empty where there are none.
///
/// # Errors
///
/// No model; one being changed right now; a damaged journal.
pub fn log(model: &Path) -> Result<Vec<LogEntry>> {
    Checkpoint::open(model)?;
    journal::log(model)
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

/// The tensors that change, by name.
struct Plan<'a> {
    targets: BTreeMap<String, Target<'a>>,
}

/// One tensor, and what is added to it.
struct Target<'a> {
    by: &'a Compute,
    place: FileRange,
    stored: Stored,
    past: Vec<&'a Delta>,
    coming: Vec<(usize, &'a Change)>, // with the number of its patch, from 0
}

impl<'a> Plan<'a> {
    fn new(
        checkpoint: &Checkpoint,
        past: &'a [Patch],
        patches: &'a [Patch],
        by: &'a Compute,
    ) -> Result<Plan<'a>> {
        let mut targets = BTreeMap::<String, Target>::new();
        for (p, patch) in patches.iter().enumerate() {
            patch.check(Path::new("patch"))?;
            for change in &patch.changes {
                let target = Target::find(checkpoint, change, by)?;
                let target = targets.entry(change.tensor.clone()).or_insert(target);
                target.agrees(change)?;
                target.coming.push((p, change));
            }
        }
        for change in past.iter().flat_map(|patch| &patch.changes) {
            if let Some(target) = targets.get_mut(&change.tensor) {
                target.agrees(change)?;
                target.past.push(&change.delta);
            }
        }
        Ok(Plan { targets })
    }

    /// Of making every target once.
    fn meter<'b>(&self, stage: Stage, progress: &'b dyn Progress) -> Meter<'b> {
        Meter::new(stage, self.targets.values().map(|t| t.place.len), progress)
    }

    /// Refuses patches made for other bytes than those they are to be added to.
    fn check(&self, history: &History, progress: &dyn Progress) -> Result<()> {
        let steps = self.targets.values().map(|t| t.place.len * t.coming.len() as u64);
        let mut meter = Meter::new(Stage::CheckWeights, steps, progress);
        for (name, target) in &self.targets {
            for (n, &(p, change)) in target.coming.iter().enumerate() {
                let mut found = Fingerprint::default();
                let before = (n > 0).then(|| target.terms(p));
                for (rows, place) in target.pieces() {
                    found.add(&match &before {
                        None => history.current(&place)?,
                        Some(terms) => {
                            target.state(name, terms, rows, &history.original(&place)?)?.0
                        }
                    });
                    meter.did(place.len)?;
                }
                if found.hex() != change.fingerprint {
                    let (found, want) = (found.hex(), &change.fingerprint);
                    let what = format!("{name} is {found}, and patch {} is for {want}", p + 1);
                    let remedy = "apply patches to the model they were made on, in the order they \
                                  were made; the log lists those already applied";
                    return Err(Error::refused(what, remedy));
                }
            }
        }
        Ok(())
    }
}

impl Target<'_> {
    /// The tensor a change names.
    fn find<'a>(checkpoint: &Checkpoint, change: &Change, by: &'a Compute) -> Result<Target<'a>> {
        let name = &change.tensor;
        let (shard, entry) = checkpoint
            .entry(name)
            .ok_or_else(|| Error::input(checkpoint.dir(), name, "no such tensor", REMEDY))?;
        let layout = if change.fan_in_fan_out { Layout::InOut } else { Layout::OutIn };
        let dtype = float(shard, name, entry)?;
        let stored = Stored { dtype, layout, out: change.out, inner: change.inner };
        if entry.shape != stored.sides() {
            let (have, want) = (&entry.shape, stored.sides());
            let what = format!("has the shape {have:?}, and the patch is for {want:?}");
            return Err(Error::input(shard.path(), name, what, REMEDY));
        }
        let file = shard.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (offset, len) = (entry.range.start, entry.range.end - entry.range.start);
        let place = FileRange { file, offset, len };
        Ok(Target { by, place, stored, past: Vec::new(), coming: Vec::new() })
    }

    /// Refuses a change that takes the tensor for another size or orientation than the first did.
    fn agrees(&self, change: &Change) -> Result<()> {
        let layout = if change.fan_in_fan_out { Layout::InOut } else { Layout::OutIn };
        let Stored { layout: was, out, inner, .. } = self.stored;
        if (layout, change.out, change.inner) == (was, out, inner) {
            return Ok(());
        }
        let what = format!("{}: two changes disagree on its shape", change.tensor);
        Err(Error::refused(what, REMEDY))
    }

    /// The tensor in pieces of whole stored rows.
    fn pieces(&self) -> impl Iterator<Item = (Range<usize>, FileRange)> {
        let ([rows, _], row) = (self.stored.sides(), self.stored.row_bytes());
        let step = (PIECE / row.max(1)).max(1);
        (0..rows).step_by(step).map(move |first| {
            let rows = first..(first + step).min(rows);
            let offset = self.place.offset + (first * row) as u64;
            let (file, len) = (self.place.file.clone(), (rows.len() * row) as u64);
            (rows, FileRange { file, offset, len })
        })
    }

    /// The tensor after the first `patches` of those that come, in pieces: `put` gets the place in
    /// the tensor's file and the bytes.
    fn make(
        &self,
        name: &str,
        patches: usize,
        history: &History,
        meter: &mut Meter,
        put: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<Sums> {
        let (mut sums, terms) = (Sums::default(), self.terms(patches));
        for (rows, place) in self.pieces() {
            let original = history.original(&place)?;
            let (new, more) = self.state(name, &terms, rows, &original)?;
            put(place.offset, &new)?;
            sums = sums.and(more);
            meter.did(place.len)?;
        }
        Ok(sums)
    }

    /// All that was added before, and the first `patches` of those that come.
    fn terms(&self, patches: usize) -> Terms<'_> {
        let coming = self.coming.iter().filter(|(p, _)| *p < patches).map(|(_, c)| &c.delta);
        let all = self.past.iter().copied().chain(coming).map(term).collect();
        Terms::new(self.by, self.stored, all)
    }

    /// Some rows with the terms added, from their original bytes.
    fn state(
        &self,
        name: &str,
        terms: &Terms,
        rows: Range<usize>,
        original: &[u8],
    ) -> Result<(Vec<u8>, Sums)> {
        let mut new = vec![0; original.len()];
        let sums = terms.add(original, rows, &mut new);
        if sums.overflowed > 0 {
            let (n, dtype) = (sums.overflowed, self.stored.dtype.name());
            return Err(Error::numeric(
                format!("{name}: {n} values do not fit {dtype} after the change"),
                "store the model in F32 or BF16, or make a smaller change",
            ));
        }
        Ok((new, sums))
    }
}

/// Reports how far the work is, and ends it where the user cancelled.
struct Meter<'a> {
    stage: Stage,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<'a> Meter<'a> {
    fn new(
        stage: Stage,
        bytes: impl Iterator<Item = u64>,
        progress: &'a dyn Progress,
    ) -> Meter<'a> {
        Meter { stage, done: 0, total: bytes.sum(), progress }
    }

    fn did(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        self.progress.at(self.stage, self.done, self.total);
        if self.progress.cancelled() {
            let kept = "every change is whole or absent, as the log says";
            return Err(Error::Interrupted { kept: kept.into() });
        }
        Ok(())
    }
}
