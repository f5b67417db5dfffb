//! Callbacks: how work goes, and whether it is to go on.

use std::ffi::{c_char, c_void};

use incise::{Progress, Remedy, Stage};

use crate::error::{c_string, settings};

/// What is told of work, and asked about it. Each function may be null, and gets `context` first.
///
/// They are called from the calling thread and from the engine's own, at times from several at
/// once, from the plan on until the edit is freed: by everything that is done with it. Until then
/// `context` must be valid, and for any thread. Texts are valid during the call. A callback must
/// return (no longjmp, no C++ exception), and must not call functions on the edit or free a handle.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CallerProgress {
    /// Handed to each function.
    pub context: *mut c_void,
    /// `done` of `total` units of a stage are finished. The stage is a name in English, as "fact",
    /// "layer", "write"; units are facts, layers, bytes.
    pub at:
        Option<extern "C" fn(context: *mut c_void, stage: *const c_char, done: u64, total: u64)>,
    /// What was decided before the work: settings, costs, what was found before.
    pub remark: Option<extern "C" fn(context: *mut c_void, sentence: *const c_char)>,
    /// What the user should read: what happened, what it may mean, what to do.
    pub warn: Option<extern "C" fn(context: *mut c_void, sentence: *const c_char)>,
    /// Returns true once the work is to stop: it then keeps what is finished where the document
    /// names a cache or an output, and fails with the code "interrupted". It is asked often, and
    /// must be quick.
    pub cancelled: Option<extern "C" fn(context: *mut c_void) -> bool>,
}

// SAFETY: the functions are code, and what the context points to is for any thread, as the header
// asks of the caller.
unsafe impl Send for CallerProgress {}
// SAFETY: as above; several threads at once are spoken of there.
unsafe impl Sync for CallerProgress {}

impl Progress for CallerProgress {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        if let Some(at) = self.at {
            at(self.context, c_string(stage.name()).as_ptr(), done, total);
        }
    }

    fn remark(&self, sentence: &str) {
        if let Some(remark) = self.remark {
            remark(self.context, c_string(sentence).as_ptr());
        }
    }

    fn warn(&self, sentence: &str) {
        if let Some(warn) = self.warn {
            warn(self.context, c_string(sentence).as_ptr());
        }
    }

    fn advise(&self, sentence: &str, remedy: &Remedy) {
        self.warn(&format!("{sentence}; {remedy}{}", settings(remedy)));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.is_some_and(|cancelled| cancelled(self.context))
    }
}
