//! Patches into a GGUF file: only the matrices that they change, in their types and places.
//!
//! A tensor of few bits cannot hold W₀ + Δ, and the nearest values lose facts: rounding is as large
//! as the change. So the codes are chosen together, such that what is lost is lost where neither
//! text nor the facts look (`quantised/tensor.rs`). Scales stay, the file keeps its length, and the
//! rest of it every byte.
//!
//! ```text
//! to a file    a copy with other codes                its W₀ is what was rounded there
//! in place     through the journal beside the file    W₀ is what the oldest change kept
//! ```
//!
//! A patch is taken whose base is this file: one planned on an import of it, in whichever type
//! (`quantised/base.rs`). One that was planned on another checkpoint of the model is taken where
//! the caller says so. Down projections can be changed, which lie in GGUF files as they do in
//! checkpoints; of other matrices some have their rows in another order there.

mod base;
mod keys;
mod tensor;
mod tensor_grid;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::model::families::FAMILIES;
use crate::stats::Moment;
use crate::store::disk::Os;
use crate::store::gguf::rewrite::rewrite;
use crate::store::gguf::{GgufFile, GgufTensor};
use crate::store::history::History;
use crate::store::journal::{self, Journal};
use crate::store::record::FileRange;
use crate::store::{Change, Patch, folder, write};

use tensor::{NewTensor, PatchChange};

pub use keys::TAU;
pub use tensor::RoundedTensor;

/// The most that rounding may cost text, as a multiple of what the edit itself costs it
/// (‖E‖_C/‖ΣΔ‖_C). Rounding a type of four bits is about 1.2.
pub const MOST_TEXT: f64 = 3.0;

const REMEDY: &str = "apply the patch to a file of the model that it was made on";

/// How patches are rounded into a file.
#[derive(Clone, Copy, Debug)]
pub struct Rounding<'a> {
    /// The folder of key statistics that the patches were planned with; not needed where tensors
    /// are numbers.
    pub statistics: Option<&'a Path>,
    /// Takes patches that were planned on another checkpoint of this model.
    pub other_base: bool,
    /// Writes changed tensors of fewer bits as Q8_0: a longer file, which loses less.
    pub raise: bool,
}

/// Writes a copy of the file with the patches in it, whole or not at all.
///
/// # Errors
///
/// Patches of another model or base, of other matrices than down projections, or that are in the
/// file already; statistics that are missing, of another model or others than a patch was planned
/// with; a file that was written since its newest change; a rounding that costs text more than
/// [`MOST_TEXT`]; what the system refuses; cancellation.
pub fn to_file(
    file: &Path,
    patches: &[Patch],
    how: Rounding,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Vec<RoundedTensor>> {
    // A link's journal is beside the file that it names.
    let file = &file.canonicalize().map_err(|e| Error::io(file, "open", e))?;
    let _reading = journal::recover(&Os, write::folder(file))?;
    let gguf = GgufFile::open(file)?;
    let history = History::read(write::folder(file))?;
    let past = history.patches_of(&name(file))?;
    check_new(patches, &past)?;
    let plan = Plan { gguf: &gguf, history: &history, past: &past, patches, how, progress };
    let made = plan.make(patches.len(), &|_| true)?;
    if how.raise {
        let blocks = |made: &MadeTensor| {
            (made.new.report.name.clone(), (made.new.kind, made.new.bytes.clone()))
        };
        rewrite(&gguf, &made.iter().map(blocks).collect(), out)?;
        gguf.unchanged()?;
        return Ok(made.into_iter().map(|made| made.new.report).collect());
    }
    let failed = |e| Error::io(out, "write", e);
    let copy = write::temporary(out)?;
    // Replaces the empty file, sharing blocks with the original where the file system can.
    fs::remove_file(copy.path()).map_err(failed)?;
    reflink_copy::reflink_or_copy(file, copy.path()).map_err(failed)?;
    let written = folder::writable(copy.path())?;
    for MadeTensor { place, new } in &made {
        written.write_all_at(&new.bytes, place.offset).map_err(failed)?;
    }
    gguf.unchanged()?;
    written.sync_all().map_err(failed)?;
    copy.persist(out).map_err(|e| failed(e.error))?;
    write::sync_dir(write::folder(out))?;
    Ok(made.into_iter().map(|made| made.new.report).collect())
}

/// Changes the file itself, each patch as one entry of the journal in `.incise` beside it;
/// [`undo`](crate::edit::apply::undo) puts every byte back. Whatever the order in which patches
/// came, the file is that of their set.
///
/// # Errors
///
/// As [`to_file`]; types that are to be raised; a file that is a link or may not be written;
/// changes of another file in the same folder; a file that another process opens or changes.
pub fn in_place(
    file: &Path,
    patches: &[Patch],
    how: Rounding,
    progress: &dyn Progress,
) -> Result<Vec<RoundedTensor>> {
    if how.raise {
        let what = "tensors of more bits make a longer file";
        return Err(Error::refused(what, "write another file instead of changing this one"));
    }
    GgufFile::open(file)?; // what is no such file gets no journal
    let mut journal = Journal::open(&Os, write::folder(file))?;
    check_own(file, journal.history())?;
    let gguf = GgufFile::open(file)?;
    let history = journal.history().clone();
    let past = history.patches_of(&name(file))?;
    check_new(patches, &past)?;
    let plan = Plan { gguf: &gguf, history: &history, past: &past, patches, how, progress };
    // All that could be refused is asked before the first byte is written.
    let steps: Vec<Vec<MadeTensor>> = (0..patches.len())
        .map(|p| plan.make(p + 1, &|names| names.contains(&p)))
        .collect::<Result<_>>()?;
    gguf.unchanged()?;
    drop(gguf); // from here on nothing looks at the bytes through a map
    let mut reports = BTreeMap::new();
    for (patch, made) in patches.iter().zip(steps) {
        let places = made.iter().map(|made| made.place.clone()).collect();
        journal.apply(patch, places, &mut |i, _| Ok(made[i].new.bytes.clone()), None)?;
        let reported = made.into_iter().map(|made| made.new.report);
        reports.extend(reported.map(|report| (report.name.clone(), report)));
    }
    Ok(reports.into_values().collect())
}

/// The journal's folder of a model that is one file: the one it is in.
///
/// # Errors
///
/// No GGUF file; changes of another file in that folder.
pub fn journal_folder(file: &Path) -> Result<PathBuf> {
    GgufFile::open(file)?;
    // A link's journal is beside the file that it names.
    let file = file.canonicalize().map_err(|e| Error::io(file, "open", e))?;
    own_history(&file)?;
    Ok(write::folder(&file).to_owned())
}

fn own_history(file: &Path) -> Result<History> {
    let history = History::read(write::folder(file))?;
    check_own(file, &history)?;
    Ok(history)
}

/// Refuses changes of other files: one journal is for one model.
fn check_own(file: &Path, history: &History) -> Result<()> {
    let name = name(file);
    let Some(other) = history.files().find(|other| *other != name) else { return Ok(()) };
    let what = format!("{other}, in the same folder, was changed in place");
    let remedy = "undo that first, or move one of the two into a folder of its own";
    Err(Error::input(file, "journal", what, remedy))
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Refuses a patch that is in the file already, or comes twice: its change would be added again.
fn check_new(patches: &[Patch], past: &[Patch]) -> Result<()> {
    let mut there: BTreeSet<String> = past.iter().map(tensor::patch_hash).collect();
    match patches.iter().find(|patch| !there.insert(tensor::patch_hash(patch))) {
        None => Ok(()),
        Some(patch) => {
            let path = patch.file.as_deref().unwrap_or(Path::new("patch"));
            let what = "is in the file already, or is named twice";
            Err(Error::input(path, "patch", what, "see the log of the file"))
        }
    }
}

/// A tensor as it is to be written.
struct MadeTensor {
    place: FileRange, // of the tensor in the file as it is
    new: NewTensor,
}

/// Patches for a file.
struct Plan<'a> {
    gguf: &'a GgufFile,
    history: &'a History,
    past: &'a [Patch],
    patches: &'a [Patch],
    how: Rounding<'a>,
    progress: &'a dyn Progress,
}

/// The changes of one tensor by the patches that come, with the numbers of these.
struct Coming<'a> {
    layer: usize,
    patches: BTreeSet<usize>,
    past: Vec<PatchChange<'a>>,
    changes: Vec<(usize, PatchChange<'a>)>,
}

impl<'a> Plan<'a> {
    /// The tensors with the first `count` of the patches, as far as `wanted` takes them by the
    /// numbers of the patches that change them.
    fn make(
        &self,
        count: usize,
        wanted: &dyn Fn(&BTreeSet<usize>) -> bool,
    ) -> Result<Vec<MadeTensor>> {
        let coming = self.coming(count)?;
        let coming: Vec<_> = coming.into_iter().filter(|(_, c)| wanted(&c.patches)).collect();
        let mut made = Vec::new();
        for (i, (name, tensor)) in coming.iter().enumerate() {
            self.progress.at(Stage::RoundWeights, i as u64, coming.len() as u64);
            if self.progress.cancelled() {
                let kept = "every change is whole or absent, as the log says";
                return Err(Error::Interrupted { kept: kept.into() });
            }
            made.push(self.round(name, tensor)?);
        }
        self.progress.at(Stage::RoundWeights, coming.len() as u64, coming.len() as u64);
        Ok(made)
    }

    fn coming(&self, count: usize) -> Result<BTreeMap<String, Coming<'a>>> {
        let mut all = BTreeMap::<String, Coming>::new();
        for (p, patch) in self.patches[..count].iter().enumerate() {
            patch.check(patch.file.as_deref().unwrap_or(Path::new("patch")))?;
            for change in &patch.changes {
                let (layer, name) = place(change)?;
                let coming = all.entry(name).or_insert_with(|| Coming {
                    layer,
                    patches: BTreeSet::new(),
                    past: Vec::new(),
                    changes: Vec::new(),
                });
                coming.patches.insert(p);
                coming.changes.push((p, PatchChange { patch, change }));
            }
        }
        for patch in self.past {
            for change in &patch.changes {
                if let Some(coming) = all.get_mut(&place(change)?.1) {
                    coming.past.push(PatchChange { patch, change });
                }
            }
        }
        Ok(all)
    }

    fn round(&self, name: &str, coming: &Coming) -> Result<MadeTensor> {
        let tensor = self
            .gguf
            .header()
            .tensor(name)
            .ok_or_else(|| Error::input(self.gguf.path(), name, "no such tensor", REMEDY))?;
        let place = FileRange {
            file: self::name(self.gguf.path()),
            offset: tensor.range.start,
            len: tensor.range.end - tensor.range.start,
        };
        self.history.check_written(&place)?;
        let original = self.history.original(&place)?;
        self.check_base(tensor, coming, &original, &place)?;
        let statistics = self.how.statistics;
        let moment = statistics.map(|dir| self.moment(dir, coming, tensor.shape[1])).transpose()?;
        let changes = coming.past.iter().chain(coming.changes.iter().map(|(_, change)| change));
        let changes: Vec<PatchChange> = changes.copied().collect();
        let new = tensor::round(tensor, &original, &changes, moment.as_ref(), self.how.raise)?;
        let report = &new.report;
        if let Some(text) = report.text.filter(|text| *text > MOST_TEXT) {
            let what = format!(
                "{name}: rounding to {} would cost running text {text:.1} times what the edit \
                 costs it, more than {MOST_TEXT}",
                report.kind,
            );
            let remedy = "edit fewer facts at a time, or take a file of more bits";
            return Err(Error::refused(what, remedy));
        }
        Ok(MadeTensor { place, new })
    }

    /// Refuses changes of a tensor of another shape, and those planned on other weights.
    fn check_base(
        &self,
        tensor: &GgufTensor,
        coming: &Coming,
        original: &[u8],
        place: &FileRange,
    ) -> Result<()> {
        let file = self.gguf.path();
        let mut before: Vec<&Change> = coming.past.iter().map(|one| one.change).collect();
        let now = self.history.current(place)?;
        let mut values = vec![tensor::values(tensor, original)?];
        if now != original {
            values.push(tensor::values(tensor, &now)?);
        }
        for (_, PatchChange { patch, change }) in &coming.changes {
            let sizes = [change.out, change.inner];
            if tensor.shape != sizes {
                let (have, want) = (&tensor.shape, sizes);
                let what = format!("has the shape {have:?}, and the patch is for {want:?}");
                return Err(Error::input(file, &tensor.name, what, REMEDY));
            }
            let known = || values.iter().any(|values| base::is_import(change, values, &before));
            if !self.how.other_base && !known() {
                let patch = patch.file.as_deref().unwrap_or(Path::new("the patch"));
                let what =
                    format!("{} was planned on other weights than this file's", patch.display());
                let remedy = Remedy::from(
                    "plan it on an import of this file, or say that its base is another \
                     checkpoint of the same model, with the same tokenizer",
                );
                let remedy = remedy.option("other_base", Some("true"));
                return Err(Error::input(file, &tensor.name, what, remedy));
            }
            before.push(change);
        }
        Ok(())
    }

    /// C of a layer, of a model that one of the patches was planned on, and the very one that the
    /// keys of any of them follow from.
    fn moment(&self, dir: &Path, coming: &Coming, f: usize) -> Result<Moment> {
        let layer = coming.layer;
        let moment = Moment::open(dir, layer)?;
        keys::check(&moment, f)?;
        let mut models = coming.changes.iter().map(|(_, one)| &one.patch.metadata.model);
        if models.all(|model| *model != moment.origin.model) {
            let what = format!(
                "the statistics of layer {layer} are of the model {}, and no patch was planned on \
                 it",
                moment.origin.model,
            );
            let remedy = Remedy::from("name those that the patch was planned with");
            return Err(Error::refused(what, remedy.option("statistics", None)));
        }
        let given = moment.source();
        let all = coming.past.iter().chain(coming.changes.iter().map(|(_, one)| one));
        for PatchChange { patch, change } in all {
            let planned = keys::planned_with(change, &patch.metadata, layer);
            let Some(planned) = planned.filter(|planned| *planned != given) else { continue };
            let name = patch.file.as_deref().unwrap_or(Path::new("a patch")).display();
            let what = format!(
                "the statistics of layer {layer} are of {given}, and the keys of {name} follow \
                 from others, of {planned}",
            );
            let remedy = Remedy::from(
                "name the statistics that all patches of the file were planned with; one that was \
                 planned with others goes into a file without them, or is planned again",
            );
            return Err(Error::refused(what, remedy.option("statistics", None)));
        }
        let unsaid = |one: &&PatchChange| {
            let (change, of) = (one.change, &one.patch.metadata);
            change.keys.is_none() && change.keys_follow(of) && of.statistics_of(layer).is_none()
        };
        let mut all = coming.past.iter().chain(coming.changes.iter().map(|(_, one)| one));
        if all.any(|one| unsaid(&one)) {
            self.progress.warn(&format!(
                "layer {layer}: a patch of an earlier version does not say which statistics it was \
                 planned with, and is taken to be planned with these",
            ));
        }
        Ok(moment)
    }
}

/// The layer of a change, and the tensor of a GGUF file that it is of.
fn place(change: &Change) -> Result<(usize, String)> {
    let layer = FAMILIES.iter().find_map(|family| {
        let names = &family.names;
        let inside = &change.module[change.module.find(names.layer)? + names.layer.len()..];
        let (layer, name) = inside.split_once('.')?;
        (name == names.down).then(|| layer.parse::<usize>().ok()).flatten()
    });
    match layer.filter(|_| change.rows.is_none()) {
        Some(layer) => Ok((layer, format!("blk.{layer}.ffn_down.weight"))),
        None => {
            let what = format!("{} is no down projection", change.module);
            let remedy = "apply the patch to a folder, and convert that to GGUF";
            Err(Error::refused(what, remedy))
        }
    }
}
