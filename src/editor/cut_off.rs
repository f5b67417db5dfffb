//! Errors that cut an edit off, with where what was found before them is.

use std::path::Path;

use crate::base::Error;
use crate::edit::cache::Cache;

/// An interruption, with where what was found is, if anything was.
pub(super) fn say_where_it_is(e: Error, cache: Option<&Cache>) -> Error {
    match (e, folder(cache)) {
        (Error::Interrupted { .. }, Some(dir)) => Error::Interrupted {
            kept: format!("what was found is in {}: run the same again", dir.display()),
        },
        (Error::Interrupted { .. }, None) => {
            Error::Interrupted { kept: "nothing was written".to_owned() }
        }
        (e, _) => e,
    }
}

/// An error of what comes after the search or the training, with the same.
pub(super) fn say_what_is_kept(e: Error, cache: Option<&Cache>) -> Error {
    match (e, folder(cache)) {
        (Error::Numeric { what, remedy }, Some(dir)) => {
            let what = format!("{what}, and what was found is in {}", dir.display());
            Error::Numeric { what, remedy }
        }
        (e, _) => say_where_it_is(e, cache),
    }
}

/// Where what was found is.
fn folder(cache: Option<&Cache>) -> Option<&Path> {
    cache.filter(|cache| cache.holds_work()).map(Cache::dir)
}
