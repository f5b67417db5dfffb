//! What an edit changes, as bytes.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use incise::base::DType;
use incise::{Edit, TensorBytes};

use crate::border::{Outcome, guard, handle, place, text};
use crate::edit::EditHandle;
use crate::error::{ErrorHandle, c_string};

/// A tensor as the model's files have it. All of it is borrowed from the edit.
#[repr(C)]
pub struct TensorView {
    /// Its name in the files.
    pub name: *const c_char,
    /// The type of its elements: "F32", "F16" or "BF16".
    pub dtype: *const c_char,
    /// How many sizes it has.
    pub dimensions: usize,
    /// Its sizes, in the files' orientation, the slowest first.
    pub shape: *const usize,
    /// Its elements, row-major and little-endian. They may lie at any address: copy them, and do
    /// not read floats through a cast.
    pub data: *const u8,
    /// How many bytes they are: the product of the sizes, times 4 for "F32" and 2 for the others.
    pub byte_length: usize,
}

/// What is computed when it is first asked for, once, and kept.
pub(crate) struct Kept<T> {
    value: OnceLock<T>,
    turn: Mutex<()>,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { value: OnceLock::new(), turn: Mutex::new(()) }
    }
}

impl<T> Kept<T> {
    /// The value; threads that ask meanwhile wait. A failure is not kept.
    pub fn get_or_make(&self, make: impl FnOnce() -> incise::Result<T>) -> incise::Result<&T> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.value.get() {
            Some(value) => Ok(value),
            None => make().map(|value| self.value.get_or_init(|| value)),
        }
    }
}

/// The tensors of one side of an edit, and what shows them to C.
pub(crate) struct Tensors {
    /// What the views point into; never changed.
    owned: Vec<(CString, TensorBytes)>,
    views: Vec<TensorView>,
}

// SAFETY: the views point into `owned`, which goes where they go, and neither is changed.
unsafe impl Send for Tensors {}
// SAFETY: as above: threads only read.
unsafe impl Sync for Tensors {}

impl Tensors {
    fn new(tensors: Vec<TensorBytes>) -> Tensors {
        let owned: Vec<_> = tensors.into_iter().map(|t| (c_string(&t.name), t)).collect();
        let view = |(name, tensor): &(CString, TensorBytes)| TensorView {
            name: name.as_ptr(),
            dtype: dtype_name(tensor.dtype),
            dimensions: tensor.shape.len(),
            shape: tensor.shape.as_ptr(),
            data: tensor.bytes.as_ptr(),
            byte_length: tensor.bytes.len(),
        };
        let views = owned.iter().map(view).collect();
        Tensors { owned, views }
    }

    fn find(&self, name: &str) -> Outcome<&TensorView> {
        let at = self.owned.iter().position(|(_, tensor)| tensor.name == name);
        at.map(|at| &self.views[at]).ok_or_else(|| {
            let names: Vec<&str> = self.owned.iter().map(|(_, tensor)| &*tensor.name).collect();
            let remedy = format!("name one of {}", names.join(", "));
            ErrorHandle::argument("name", &format!("the edit changes no tensor {name}"), &remedy)
        })
    }
}

/// The name of a type, for C.
fn dtype_name(dtype: DType) -> *const c_char {
    match dtype {
        DType::F32 => c"F32",
        DType::F16 => c"F16",
        DType::BF16 => c"BF16",
    }
    .as_ptr()
}

/// Which side of an edit: with it, or without.
type Side = fn(&EditHandle) -> incise::Result<&Tensors>;

fn after(edit: &EditHandle) -> incise::Result<&Tensors> {
    edit.after.get_or_make(|| Edit::tensors(&edit.edit).map(Tensors::new))
}

fn before(edit: &EditHandle) -> incise::Result<&Tensors> {
    edit.before.get_or_make(|| Edit::tensors_before(&edit.edit).map(Tensors::new))
}

fn all(
    side: Side,
    edit: Option<&EditHandle>,
    count: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const TensorView {
    let views = guard(error, || {
        let (edit, count) = (handle("edit", edit)?, place("count", count)?);
        let views = &side(edit)?.views;
        count.write(views.len());
        Ok(views.as_ptr())
    });
    views.unwrap_or(ptr::null())
}

/// # Safety
///
/// As [`text`] of the name.
unsafe fn one(
    side: Side,
    edit: Option<&EditHandle>,
    name: *const c_char,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const TensorView {
    let view = guard(error, || {
        // SAFETY: as the function's.
        let name = unsafe { text("name", name) }?;
        side(handle("edit", edit)?)?.find(name).map(ptr::from_ref)
    });
    view.unwrap_or(ptr::null())
}

/// The tensors that the edit changes, in full, as incise_edit_apply writes them: for a program that
/// has the model in its memory. `count` gets how many. The first call computes them, and writes the
/// state if the document names one; ask before incise_edit_apply_in_place. They take the memory of
/// these tensors until the edit is freed.
///
/// Returns the first of them, borrowed: valid until the edit is freed. Null and an error where the
/// files changed since they were opened, or the edit changes no weights.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_tensors(
    edit: Option<&EditHandle>,
    count: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const TensorView {
    all(after, edit, count, error)
}

/// The same tensors as the files hold them, without the edit: what puts such a program's model
/// back. Everything else is as with incise_edit_tensors.
#[unsafe(no_mangle)]
pub extern "C" fn incise_edit_tensors_before(
    edit: Option<&EditHandle>,
    count: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const TensorView {
    all(before, edit, count, error)
}

/// Of incise_edit_tensors the one of that name; null and an error where the edit does not change
/// it. Borrowed: valid until the edit is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_edit_tensor(
    edit: Option<&EditHandle>,
    name: *const c_char,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const TensorView {
    // SAFETY: the caller's text ends in a zero byte and stays during the call.
    unsafe { one(after, edit, name, error) }
}

/// Of incise_edit_tensors_before the one of that name; null and an error where the edit does not
/// change it. Borrowed: valid until the edit is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn incise_edit_tensor_before(
    edit: Option<&EditHandle>,
    name: *const c_char,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> *const TensorView {
    // SAFETY: the caller's text ends in a zero byte and stays during the call.
    unsafe { one(before, edit, name, error) }
}
