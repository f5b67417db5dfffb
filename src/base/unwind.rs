//! Errors from where the maths has no `?`: a device without room in the middle of a pass. They
//! unwind to the door that called, which [`rescue`]s them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Error, Result};

/// What was asked for; an error unwinds to [`rescue`].
pub fn fits<T>(asked: Result<T>) -> T {
    asked.unwrap_or_else(|e| resume_unwind(Box::new(e)))
}

/// Runs a computation; an error that unwinds from inside it becomes its result.
///
/// # Errors
///
/// The computation's own, and those given to [`fits`].
pub fn rescue<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        match panic.downcast::<Error>() {
            Ok(error) => Err(*error),
            Err(panic) => resume_unwind(panic),
        }
    })
}
