//! Where an edit writes: nowhere over what it reads, over another output or over a stranger's file,
//! and into no tensor that another file holds too.

use std::path::{Path, PathBuf};

use super::opened::Opened;
use super::settings::Settings;
use super::{report, state};
use crate::base::{Error, Result};
use crate::edit::method::Method;
use crate::edit::params::Params;
use crate::edit::state::State;
use crate::edit::value_store::ValueStore;
use crate::memory::is_memory;
use crate::model::MatrixId;
use crate::store::Patch;
use crate::store::place::{check_distinct, check_place, check_replaced};

/// Refuses places before any work: of the state, of what is kept, and of an output with its report.
/// `requests` is the file the facts are from.
///
/// # Errors
///
/// A place that cannot be written, that holds what is read or a file of another kind, or that two
/// outputs have; a model whose editable tensors are stored twice.
pub(super) fn check(
    opened: &Opened,
    settings: &Settings,
    requests: Option<&Path>,
    output: Option<&Path>,
) -> Result<()> {
    let weights = settings.method.is_none_or(|method| !method.makes_memory());
    for l in (0..opened.model.arch.layers).filter(|_| weights) {
        let down = opened.model.matrix(MatrixId::down(l));
        opened.checkpoint.check_single(&down.stored.tensor)?;
    }
    let mut inputs = settings.inputs();
    inputs.push(&opened.dir);
    inputs.extend(requests);
    let mut outputs: Vec<PathBuf> = settings.cache_dir().into_iter().collect();
    if let Some(file) = output {
        let (older, what) = match settings.shard {
            Some(_) => (ValueStore::read(file).is_ok(), "file of values"),
            None if settings.method.is_some_and(|method| method.makes_memory()) => {
                (is_memory(file), "memory")
            }
            None => (Patch::read(file).is_ok(), "patch"),
        };
        check_place(file, &inputs)?;
        check_replaced(file, older, what)?;
        let report = report::path(file);
        check_place(&report, &inputs)?;
        check_replaced(&report, report::is_report(&report), "report of an edit")?;
        outputs.extend([report, file.to_owned()]);
    }
    if let Some(file) = &settings.state {
        let before = state::before(file);
        check_place(file, &inputs)?;
        check_replaced(&before, State::is_state(&before), "state")?;
        outputs.extend([file.clone(), before]);
    }
    let outputs: Vec<&Path> = outputs.iter().map(PathBuf::as_path).collect();
    check_distinct(&outputs)?;
    settings.cache_dir().map_or(Ok(()), |cache| outside(&cache, settings, &inputs))
}

/// Refuses a model in which a tensor that a method changes is stored twice.
///
/// # Errors
///
/// That.
pub(super) fn check_trained(opened: &Opened, method: &dyn Method, by: &Params) -> Result<()> {
    if method.makes_memory() {
        return Ok(());
    }
    for id in by.edited() {
        opened.checkpoint.check_single(&opened.model.matrix(id).stored.tensor)?;
    }
    Ok(())
}

/// Refuses a cache folder that holds what is read, but for values.
fn outside(cache: &Path, settings: &Settings, inputs: &[&Path]) -> Result<()> {
    let Ok(folder) = cache.canonicalize() else { return Ok(()) };
    let inside = |input: &Path| {
        let is_value = settings.values.iter().any(|file| file == input);
        !is_value && input.canonicalize().is_ok_and(|path| path.starts_with(&folder))
    };
    if inputs.iter().any(|input| inside(input)) {
        let what = "is where what is found would be kept, and holds what is read";
        return Err(Error::input(cache, "cache", what, "name another patch"));
    }
    Ok(())
}
