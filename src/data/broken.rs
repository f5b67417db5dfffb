//! Records that cannot be used: all are named at once, or left out.

use std::path::Path;

use crate::base::{Error, Remedy};

/// What becomes of a file in which some records cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBroken {
    /// Nothing is done: they are an error that names them.
    Error,
    /// The others are edited.
    Skip,
}

impl OnBroken {
    /// Each, by its name.
    pub const NAMED: [(&'static str, OnBroken); 2] =
        [("error", OnBroken::Error), ("skip", OnBroken::Skip)];

    /// Its name.
    pub fn name(self) -> &'static str {
        OnBroken::NAMED[self as usize].0
    }
}

/// A record that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its id; its index from 0 where it has none that can be read.
    pub id: String,
    /// Where it is, and which of its fields is wrong.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: Remedy,
}

/// How many broken records an error or a warning names.
pub const NAMED: usize = 10;

impl Broken {
    /// A record that failed with an error.
    pub fn new(id: impl Into<String>, error: &Error) -> Broken {
        let id = id.into();
        let record = format!("record `{id}`");
        let (field, what) = match error {
            Error::Input { field, what, .. } => (field.clone(), what.clone()),
            Error::Refused { what, .. } => (record, what.clone()),
            other => (record, other.to_string()),
        };
        Broken { id, field, what, remedy: error.remedy().unwrap_or_default() }
    }

    /// Where and what is wrong, in words.
    pub fn reason(&self) -> String {
        format!("{}: {}", self.field, self.what)
    }
}

/// One error for all broken records of a file, of which there is at least one; `rule` is the one
/// they are held to.
pub fn error(file: &Path, broken: &[Broken], rule: OnBroken) -> Error {
    let first = &broken[0];
    let mend = match broken.iter().all(|other| other.remedy == first.remedy) {
        true => first.remedy.clone(),
        false => Remedy::from("mend them"),
    };
    let remedy = match rule {
        OnBroken::Error => {
            let text = format!("{mend}, or go on without what is broken");
            Remedy { text, ..mend }.option("on_broken", Some("skip"))
        }
        OnBroken::Skip => mend,
    };
    if broken.len() == 1 {
        return Error::input(file, &first.field, &first.what, remedy);
    }
    let field = format!("{} broken records", broken.len());
    if broken.iter().all(|other| other.what == first.what) {
        let what = format!("{} first, all of them: {}", first.field, first.what);
        return Error::input(file, field, what, remedy);
    }
    let some: Vec<String> = broken.iter().take(NAMED).map(Broken::reason).collect();
    let more = if broken.len() > NAMED { "; …" } else { "" };
    Error::input(file, field, format!("{}{more}", some.join("; ")), remedy)
}
