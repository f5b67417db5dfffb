//! Errors from code that returns no `Result`: a device without memory in the middle of a pass. They
//! unwind to the API boundary, where [`catch_device_error`] turns them into its result.
//!
//! `resume_unwind` calls no panic hook, so nothing is printed where an error is thrown. That is
//! right only because it is always caught: whatever computes on a device for a caller outside the
//! crate runs inside `catch_device_error`. The host never throws; and a program that aborts where
//! it should unwind would end without a word, so it is refused a device when it asks for one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Error, Result};

/// The value; an error unwinds to [`catch_device_error`].
pub fn or_unwind<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| resume_unwind(Box::new(e)))
}

/// Runs a computation; an error that unwinds from inside it becomes its result.
///
/// # Errors
///
/// The computation's own, and those given to [`or_unwind`].
pub fn catch_device_error<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        match panic.downcast::<Error>() {
            Ok(error) => Err(*error),
            Err(panic) => resume_unwind(panic),
        }
    })
}
