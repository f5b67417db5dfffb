//! The border: arguments in, results and errors out, and no panic passes.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::error::ErrorHandle;

/// What a function of the border does, or the error for its caller.
pub type Outcome<T> = Result<T, ErrorHandle>;

/// Runs what a function of the border does. Its error, or the panic that it met, goes to the
/// caller's place; without one the place gets null. What is there before is not read.
///
/// Unwinding leaves no handle half changed: an editor and an edit are not changed after they are
/// made, but for what is kept behind locks, which is put there whole.
pub fn guard<T>(
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
    run: impl FnOnce() -> Outcome<T>,
) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    let outcome = outcome.unwrap_or_else(|payload| Err(ErrorHandle::panic(payload)));
    let (value, failed) = match outcome {
        Ok(value) => (Some(value), None),
        Err(e) => (None, Some(e)),
    };
    if let Some(place) = error {
        place.write(failed.map_or(ptr::null_mut(), |e| Box::into_raw(Box::new(e))));
    }
    value
}

/// Frees a handle, if one was given.
pub fn free<T>(handle: Option<Box<T>>) {
    guard(None, || {
        drop(handle);
        Ok(())
    });
}

/// A handle that was given.
pub fn handle<'a, T>(name: &str, handle: Option<&'a T>) -> Outcome<&'a T> {
    handle.ok_or_else(|| null(name))
}

/// A place for a result that was given.
pub fn place<'a, T>(
    name: &str,
    place: Option<&'a mut MaybeUninit<T>>,
) -> Outcome<&'a mut MaybeUninit<T>> {
    place.ok_or_else(|| null(name))
}

/// A text that was given.
///
/// # Safety
///
/// `text` is null, or a text that a zero byte ends, and stays as it is for 'a.
pub unsafe fn text<'a>(name: &str, text: *const c_char) -> Outcome<&'a str> {
    // SAFETY: as the function's.
    let text = unsafe { optional_text(name, text) }?;
    text.ok_or_else(|| null(name))
}

/// A text that may be left out.
///
/// # Safety
///
/// As [`text`].
pub unsafe fn optional_text<'a>(name: &str, text: *const c_char) -> Outcome<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, and the rest is the function's to ask.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|e| {
        let at = e.valid_up_to();
        ErrorHandle::argument(name, &format!("is not UTF-8 at byte {at}"), "encode it as UTF-8")
    })
}

fn null(name: &str) -> ErrorHandle {
    ErrorHandle::argument(name, "is a null pointer", "check what the call before it returned")
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use incise::Error;

    use super::*;
    use crate::error::{incise_error_code, incise_error_free, incise_error_message};

    /// The code and message of what a function of the border leaves behind.
    fn left(run: impl FnOnce() -> Outcome<u8>) -> Option<[String; 2]> {
        let mut place = MaybeUninit::uninit();
        let value = guard(Some(&mut place), run);
        // SAFETY: guard wrote it.
        let error = unsafe { place.assume_init() };
        assert_eq!(value.is_none(), !error.is_null());
        // SAFETY: it is null, or guard made it of a box.
        let error = unsafe { (!error.is_null()).then(|| Box::from_raw(error)) }?;
        let texts = [incise_error_code, incise_error_message].map(|of| {
            // SAFETY: an error's texts end in a zero byte, and live as long as it does.
            unsafe { CStr::from_ptr(of(Some(&error))) }.to_str().unwrap().to_owned()
        });
        incise_error_free(Some(error));
        Some(texts)
    }

    #[test]
    fn a_panic_is_an_error() {
        assert!(left(|| Ok(1)).is_none());
        let [code, message] = left(|| panic!("words\nand \0 {}", "more")).unwrap();
        assert_eq!(code, "panic");
        assert!(message.contains(r"words\nand \u{0} more; report it"), "{message}");
        let [code, message] = left(|| std::panic::panic_any(7)).unwrap();
        assert!(code == "panic" && message.contains("it says nothing"), "{message}");
        assert_eq!(guard(None, || -> Outcome<u8> { panic!("nobody listens") }), None);
    }

    #[test]
    fn an_error_that_unwinds_stays_what_it_is() {
        let thrown = || Error::DeviceMemory { wanted: 3, used: 2, limit: 4 };
        let [code, message] = left(|| std::panic::resume_unwind(Box::new(thrown()))).unwrap();
        assert_eq!(code, "device-memory");
        assert!(message.ends_with("(memory or device = cpu)"), "{message}");
    }
}
