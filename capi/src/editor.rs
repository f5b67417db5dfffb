//! Open and plan.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use incise::base::Quiet;
use incise::{Device, Editor};

use crate::border::{free, guard, handle, optional_text, text};
use crate::edit::EditHandle;
use crate::error::ErrorHandle;
use crate::progress::CallerProgress;

/// An open model. It never changes: several threads may plan on one at once, and each gets the edit
/// that it would get alone. It belongs to the caller, who frees it by incise_editor_free; edits
/// that were planned on it keep what they need of it.
pub struct EditorHandle(Editor);

/// Opens a model: a folder with config.json, tokenizer and safetensors files. Weights are mapped
/// and not read, so this takes little time and memory.
///
/// `device` is "cpu", "auto", "cuda:0" or several as "cuda:0,1"; null is "cpu". A GPU is asked the
/// first time whether it computes what it should, which takes some seconds. `threads` is how many
/// threads plan; 0 is one a core, the caller's among them. Results do not depend on it.
///
/// Returns the editor, or null and an error: a folder that is no model of a known family, a device
/// that is not there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_open(
    dir: *const c_char,
    device: *const c_char,
    threads: usize,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Option<Box<EditorHandle>> {
    guard(error, || {
        // SAFETY: the caller's texts end in a zero byte and stay during the call.
        let (dir, device) = unsafe { (text("dir", dir)?, optional_text("device", device)?) };
        let device = Device::parse(device.unwrap_or("cpu"))?;
        let mut editor = Editor::open_on(dir, &device, &Quiet)?;
        if threads > 0 {
            editor = editor.threads(threads)?;
        }
        Ok(Box::new(EditorHandle(editor)))
    })
}

/// Frees an editor; null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn incise_editor_free(editor: Option<Box<EditorHandle>>) {
    free(editor);
}

/// Plans the change of facts. Changes no file but the cache, where the document names one.
///
/// `json` is one JSON object of `requests` and settings; an unknown field is an error that names
/// it.
///
///     requests         list of records in any form that the program reads, as
///                      {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
///                      "target_new": "English"}; or one record; or the path of a file of them
///     method           "memit", "r-rome", "rome", "emmet", "pmet", "alphaedit", "ft-m", ...
///     stats            path of a folder of key statistics, for methods that need them
///     editor           path of a folder of a trained editor, for methods that edit with one
///     hparams          path of a JSON or YAML file of hyperparameters, or a preset's name
///     hyperparameters  object of hyperparameters by name, over those of hparams: {"v_lr": 0.5}
///     contexts         path of a file; without one they are drawn from the model with the seed
///     chat             true, or {"system": "...", "variables": {...}}: prompts are a user's
///                      message in the model's chat template
///     seed             whole number; 0 where it is not given
///     memory           bytes that searches may take
///     sequential       edit in batches of so many facts
///     rounds           plan facts that were not taken again, in up to so many rounds in all
///     state            path of what a sequential method carries from one edit to the next
///     cache            path of a folder that keeps what is found, so that a plan that was cut off
///                      goes on
///     output           path to which the patch will be written; checked before the work, and what
///                      is found is kept beside it
///     values           list of paths of values that were found before
///     without          list of ids of requests to leave out
///     on_broken        "error" or "skip": records that cannot be used
///     on_conflict      "error", "last" or "first": requests that contradict each other
///     no_space         true: no space between prompts and targets
///     precision        "exact" or "fast", of the search on a GPU
///     no_check         true: leaves out what the CPU checks of a GPU
///
/// `progress` may be null; it is copied, and its context must be valid until the edit is freed.
///
/// Returns the edit, which belongs to the caller, or null and an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_plan(
    editor: Option<&EditorHandle>,
    json: *const c_char,
    progress: Option<&CallerProgress>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Option<Box<EditHandle>> {
    guard(error, || {
        // SAFETY: the caller's text ends in a zero byte and stays during the call.
        let json = unsafe { text("json", json) }?;
        let mut editor = handle("editor", editor)?.0.clone();
        if let Some(progress) = progress {
            editor = editor.progress(*progress);
        }
        let edit = editor.prepare_json("json", json.as_bytes())?.plan()?;
        if let Some(progress) = progress {
            edit.warn(progress);
        }
        Ok(Box::new(EditHandle::new(edit)))
    })
}
