//! What can be done with an edit, and undo.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;

use incise::Edit;
use serde_json::{Value, json};

use crate::border::{free, guard, handle, place, text};
use crate::error::{ErrorHandle, c_string};
use crate::tensors::{Kept, Tensors};

/// A planned edit. Several threads may use one at once; what is read of it is computed once and
/// stays until it is freed. It belongs to the caller, who frees it by incise_edit_free.
pub struct EditHandle {
    pub(crate) edit: Edit,
    facts: CString,
    report: CString,
    patch: Kept<Vec<u8>>,
    pub(crate) after: Kept<Tensors>,
    pub(crate) before: Kept<Tensors>,
}

impl EditHandle {
    pub(crate) fn new(edit: Edit) -> EditHandle {
        EditHandle {
            facts: c_string(&Value::from(edit.lines()).to_string()),
            report: c_string(&edit.summary().to_string()),
            edit,
            patch: Kept::default(),
            after: Kept::default(),
            before: Kept::default(),
        }
    }
}

/// Gives a caller JSON of its own, if it wants it.
fn give(place: Option<&mut MaybeUninit<*mut c_char>>, json: &Value) {
    if let Some(place) = place {
        place.write(c_string(&json.to_string()).into_raw());
    }
}

/// Frees a text that a function gave the caller; null is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: `give` made it of such a string, and the caller frees it once.
        drop(unsafe { CString::from_raw(string) });
    }
}

/// Frees an edit, and with it everything that was borrowed from it; null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_free(edit: Option<Box<EditHandle>>) {
    free(edit);
}

/// What became of each request: a JSON list of objects, the lines of the report that
/// incise_edit_write writes. Of each fact `id`, `prompt`, `subject`, `target_new`; `taken`: whether
/// greedy decoding of the edited model says the target; `p_target`: its probability before and
/// after; `failed`: null, or why it was not taken and what to try; and how its search went. After
/// them come requests that others took the place of (`superseded_by`) and records that were skipped
/// (`skipped`). Borrowed: valid until the edit is freed. Null for a null edit.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_facts(edit: Option<&EditHandle>) -> *const c_char {
    edit.map_or(ptr::null(), |edit| edit.facts.as_ptr())
}

/// The edit on the whole: a JSON object of `method`, `facts`, `superseded`, `skipped` (how many),
/// `hyperparameters`, `hyperparameters_from`, `contexts`, `memory`, and `layers`: of each changed
/// matrix its `tensor`, `rank` (null where it is changed in full), `norm` (of the change) and
/// `weight` (norm of the matrix before; both Frobenius'). Borrowed: valid until the edit is freed.
/// Null for a null edit.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_report(edit: Option<&EditHandle>) -> *const c_char {
    edit.map_or(ptr::null(), |edit| edit.report.as_ptr())
}

/// The patch: the bytes of the file that incise_edit_write writes, for programs that keep it
/// elsewhere. `length` gets how many bytes. Borrowed: valid until the edit is freed.
///
/// Returns null and an error where the edit changes no weights: one by "grace", which lives beside
/// them and is written to a file.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_patch(
    edit: Option<&EditHandle>,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const u8 {
    let bytes = guard(error, || {
        let edit = handle("edit", edit)?;
        let length = place("length", length)?;
        let bytes = edit.patch.get_or_make(|| edit.edit.patch()?.to_bytes())?;
        length.write(bytes.len());
        Ok(bytes.as_ptr())
    });
    bytes.unwrap_or(ptr::null())
}

/// Writes the patch to a file, the report beside it (FILE.report.jsonl), and the state if the
/// document names one. Returns whether it did.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_edit_write(
    edit: Option<&EditHandle>,
    file: *const c_char,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> bool {
    let done = guard(error, || {
        // SAFETY: the caller's text ends in a zero byte and stays during the call.
        let file = unsafe { text("file", file) }?;
        Ok(handle("edit", edit)?.edit.write(file)?)
    });
    done.is_some()
}

/// Writes the edited model into a new folder, which any framework loads, and the state if the
/// document names one. The folder must not be there, or be empty; of a failure nothing is left.
///
/// `report` may be null; else it gets a JSON object: of each of `tensors` its `name`, `weight` and
/// `change` (Frobenius norms before, and of the change) and `lost` (the share of the change that
/// rounding to the stored type lost). The caller frees it by incise_string_free. Returns whether
/// the folder was written; of a failure `report` is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_edit_apply(
    edit: Option<&EditHandle>,
    dir: *const c_char,
    report: Option<&mut MaybeUninit<*mut c_char>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> bool {
    let done = guard(error, || {
        // SAFETY: the caller's text ends in a zero byte and stays during the call.
        let dir = unsafe { text("dir", dir) }?;
        let done = handle("edit", edit)?.edit.apply(dir)?;
        give(report, &json!({"tensors": done.tensors}));
        Ok(())
    });
    done.is_some()
}

/// Changes the model's own files, through a journal: incise_undo puts every byte back, and a
/// process that dies meanwhile loses nothing. The state is written too, if the document names one.
/// `report` and the result are as incise_edit_apply's.
///
/// The editor reads the weights where they lie, so it refuses to plan from then on: free it, and
/// open the folder again. Tensors that were asked for before stay as they are.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_apply_in_place(
    edit: Option<&EditHandle>,
    report: Option<&mut MaybeUninit<*mut c_char>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> bool {
    let done = guard(error, || {
        let done = handle("edit", edit)?.edit.apply_in_place()?;
        give(report, &json!({"tensors": done.tensors}));
        Ok(())
    });
    done.is_some()
}

/// Undoes the newest change that was applied in place to the model in a folder, byte for byte. One
/// that was cut off is the newest, and is rolled back.
///
/// `report` may be null; else it gets a JSON object: `undone`, the numbers of the changes that were
/// undone, and `rolled_back`, whether one had been cut off. The caller frees it by
/// incise_string_free. Returns whether something was undone; of a failure `report` is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_undo(
    dir: *const c_char,
    report: Option<&mut MaybeUninit<*mut c_char>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> bool {
    let done = guard(error, || {
        // SAFETY: the caller's text ends in a zero byte and stays during the call.
        let done = incise::undo(unsafe { text("dir", dir) }?)?;
        let numbers: Vec<u32> = done.changes.iter().map(|change| change.number).collect();
        give(report, &json!({"undone": numbers, "rolled_back": done.rolled_back}));
        Ok(())
    });
    done.is_some()
}
