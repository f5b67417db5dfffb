//! The tensors that change, what is added to each, and the bytes they come to, in pieces.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter;
use std::ops::Range;
use std::path::Path;

use crate::base::{Error, Progress, Result, Stage};
use crate::model::change::term;
use crate::ops::update::{Stored, Sums, Terms};
use crate::store::checkpoint::float;
use crate::store::history::History;
use crate::store::record::FileRange;
use crate::store::{Change, Checkpoint, Delta, Fingerprint, Patch, RowBlocks};
use crate::tensor::{Compute, Layout};

/// Bytes of weights in work at a time.
const PIECE: usize = 16 << 20;

const REMEDY: &str = "apply the patch to the model it was made on";

/// The tensors that change, by name.
pub(super) struct Plan<'a> {
    pub targets: BTreeMap<String, Target<'a>>,
    patches: &'a [Patch],
}

/// One tensor, and what is added to it.
pub(super) struct Target<'a> {
    by: &'a Compute,
    pub place: FileRange,
    pub stored: Stored,
    past: Vec<Added<'a>>,
    coming: Vec<(usize, Added<'a>)>, // with the number of its patch, from 0
}

/// A change of the tensor.
struct Added<'a> {
    change: &'a Change,
    whole: Cow<'a, Delta>,
}

/// All that is added to a tensor, and its rows to which nothing is: their bytes stay, though adding
/// 0 to a -0 would make it a 0.
pub(super) struct Addition<'a> {
    terms: Terms<'a>,
    kept: Vec<Range<usize>>,
}

impl<'a> Plan<'a> {
    pub fn new(
        checkpoint: &Checkpoint,
        past: &'a [Patch],
        patches: &'a [Patch],
        by: &'a Compute,
    ) -> Result<Plan<'a>> {
        let mut targets = BTreeMap::<String, Target>::new();
        for (p, patch) in patches.iter().enumerate() {
            patch.check(patch.file.as_deref().unwrap_or(Path::new("patch")))?;
            for change in &patch.changes {
                let target = Target::find(checkpoint, change, by)?;
                let target = targets.entry(change.tensor.clone()).or_insert(target);
                target.agrees(change)?;
                target.coming.push((p, Added::of(change)));
            }
        }
        for change in past.iter().flat_map(|patch| &patch.changes) {
            if let Some(target) = targets.get_mut(&change.tensor) {
                target.agrees(change)?;
                target.past.push(Added::of(change));
            }
        }
        Ok(Plan { targets, patches })
    }

    /// Of making every target once.
    pub fn meter<'b>(&self, stage: Stage, progress: &'b dyn Progress) -> Meter<'b> {
        Meter::new(stage, self.targets.values().map(|t| t.place.len), progress)
    }

    /// Refuses patches made for other bytes than those they are to be added to. Returns, for each
    /// patch, sums of the tensors it changes as it leaves them, but for tensors that no later patch
    /// changes: those are not made here.
    pub fn check(
        &self,
        patches: usize,
        history: &History,
        progress: &dyn Progress,
    ) -> Result<Vec<BTreeMap<String, Sums>>> {
        let steps = self.targets.values().map(|t| t.place.len * t.patches().len() as u64);
        let mut meter = Meter::new(Stage::CheckWeights, steps, progress);
        let mut after = vec![BTreeMap::<String, Sums>::new(); patches];
        for (name, target) in &self.targets {
            let mut last: Option<usize> = None;
            for (p, wanted) in target.patches() {
                let mut found = Fingerprint::default();
                let before = last.map(|last| (last, target.terms(p)));
                for (rows, place) in target.pieces() {
                    found.add(&match &before {
                        None => history.current(&place)?,
                        Some((last, terms)) => {
                            let original = history.original(&place)?;
                            let (bytes, sums) = target.state(name, terms, rows, &original)?;
                            let made = after[*last].entry(name.clone()).or_default();
                            *made = made.and(sums);
                            bytes
                        }
                    });
                    meter.did(place.len)?;
                }
                last = Some(p);
                if found.hex() != wanted {
                    let (found, want) = (found.hex(), wanted);
                    let patch = match &self.patches[p].file {
                        Some(file) => file.display().to_string(),
                        None => format!("patch {}", p + 1),
                    };
                    let what = format!("{name} is {found}, and {patch} is for {want}");
                    let remedy = "apply patches to the model they were made on, in the order they \
                                  were made; the log lists those already applied";
                    return Err(Error::refused(what, remedy));
                }
            }
        }
        Ok(after)
    }
}

impl Added<'_> {
    fn of(change: &Change) -> Added<'_> {
        Added { change, whole: change.whole() }
    }
}

impl Target<'_> {
    /// The tensor a change names.
    fn find<'a>(checkpoint: &Checkpoint, change: &Change, by: &'a Compute) -> Result<Target<'a>> {
        let name = &change.tensor;
        let (shard, entry) = checkpoint
            .entry(name)
            .ok_or_else(|| Error::input(checkpoint.dir(), name, "no such tensor", REMEDY))?;
        checkpoint.check_single(name)?;
        let layout = if change.fan_in_fan_out { Layout::InOut } else { Layout::OutIn };
        let dtype = float(shard, name, entry)?;
        let [out, inner] = change.tensor_sizes();
        let stored = Stored { dtype, layout, out, inner };
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
        if (layout, change.tensor_sizes()) == (was, [out, inner]) {
            return Ok(());
        }
        let what = format!("{}: two changes disagree on its shape", change.tensor);
        Err(Error::refused(what, REMEDY))
    }

    /// The patches that change it, from 0, each with the fingerprint of the bytes it is for. All
    /// changes by one patch have the same.
    fn patches(&self) -> BTreeMap<usize, &str> {
        self.coming.iter().map(|(p, added)| (*p, &*added.change.fingerprint)).collect()
    }

    /// The last patch that changes it.
    pub fn last_patch(&self) -> usize {
        self.coming.iter().map(|&(p, _)| p).max().unwrap_or(0)
    }

    /// The tensor in pieces of whole stored rows.
    pub fn pieces(&self) -> impl Iterator<Item = (Range<usize>, FileRange)> {
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
    pub fn make(
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
    pub fn terms(&self, patches: usize) -> Addition<'_> {
        let coming = self.coming.iter().filter(|(p, _)| *p < patches).map(|(_, added)| added);
        let all: Vec<&Added> = self.past.iter().chain(coming).collect();
        let terms = all.iter().map(|added| term(&added.whole)).collect();
        let kept = kept(self.stored.out, &all);
        Addition { terms: Terms::new(self.by, self.stored, terms), kept }
    }

    /// Some rows with the terms added, from their original bytes.
    pub fn state(
        &self,
        name: &str,
        Addition { terms, kept }: &Addition,
        rows: Range<usize>,
        original: &[u8],
    ) -> Result<(Vec<u8>, Sums)> {
        let mut new = vec![0; original.len()];
        let sums = terms.add(original, rows.clone(), &mut new);
        for kept in kept {
            self.keep(kept.clone(), rows.clone(), original, &mut new);
        }
        if sums.overflowed > 0 {
            let (n, dtype) = (sums.overflowed, self.stored.dtype.name());
            return Err(Error::numeric(
                format!("{name}: {n} values do not fit {dtype} after the change"),
                "store the model in F32 or BF16, or make a smaller change",
            ));
        }
        Ok((new, sums))
    }

    /// Puts the original bytes of some rows of W back in some stored rows.
    fn keep(&self, kept: Range<usize>, rows: Range<usize>, original: &[u8], new: &mut [u8]) {
        let (row, size) = (self.stored.row_bytes(), self.stored.dtype.size());
        match self.stored.layout {
            Layout::OutIn => {
                let (from, to) = (kept.start.max(rows.start), kept.end.min(rows.end));
                if from < to {
                    let at = (from - rows.start) * row..(to - rows.start) * row;
                    new[at.clone()].copy_from_slice(&original[at]);
                }
            }
            Layout::InOut => {
                for i in 0..rows.len() {
                    let at = i * row + kept.start * size..i * row + kept.end * size;
                    new[at.clone()].copy_from_slice(&original[at]);
                }
            }
        }
    }
}

/// The rows of a tensor that no change touches.
fn kept(out: usize, changes: &[&Added]) -> Vec<Range<usize>> {
    let Some(blocks) = changes.iter().map(|added| added.change.rows).collect::<Option<Vec<_>>>()
    else {
        return Vec::new();
    };
    let mut changed: Vec<Range<usize>> = blocks.into_iter().flat_map(RowBlocks::ranges).collect();
    changed.sort_by_key(|range| range.start);
    let mut kept = Vec::new();
    let mut next = 0;
    for range in changed.into_iter().chain(iter::once(out..out)) {
        if next < range.start {
            kept.push(next..range.start);
        }
        next = next.max(range.end);
    }
    kept
}

/// Reports how far the work is, and ends it where the user cancelled.
pub(super) struct Meter<'a> {
    stage: Stage,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<'a> Meter<'a> {
    pub fn new(
        stage: Stage,
        bytes: impl Iterator<Item = u64>,
        progress: &'a dyn Progress,
    ) -> Meter<'a> {
        Meter { stage, done: 0, total: bytes.sum(), progress }
    }

    pub fn did(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        self.progress.at(self.stage, self.done, self.total);
        if self.progress.cancelled() {
            let kept = "every change is whole or absent, as the log says";
            return Err(Error::Interrupted { kept: kept.into() });
        }
        Ok(())
    }
}
