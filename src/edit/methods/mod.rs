//! The methods, one a file. To add one: its file, its `mod` line and its entry in [`METHODS`].

pub mod alphaedit;
pub mod emmet;
pub mod memit;
pub mod pmet;
pub mod rome;

use super::method::Method;
use crate::base::{Error, Result};

/// All methods, in the order in which they are listed.
pub static METHODS: [&dyn Method; 6] =
    [&rome::ROME, &rome::R_ROME, &memit::MEMIT, &emmet::EMMET, &pmet::PMET, &alphaedit::ALPHAEDIT];

/// A method by the name users give.
///
/// # Errors
///
/// No method of that name; those there are, are listed.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    let found = METHODS.into_iter().find(|method| method.about().name == name);
    found.ok_or_else(|| {
        let names = METHODS.map(|method| method.about().name).join(", ");
        let what = format!("`{name}` is not a method of this version");
        Error::refused(what, format!("use one of {names}"))
    })
}
