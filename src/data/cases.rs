//! The cases of a file, one after the other: what an edit is evaluated on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::broken::Broken;
use super::case::Case;
use super::forms;
use super::record::{Fields, JsonRecord};
use super::request::MAX_BYTES;
use super::values::Values;
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// The cases of a file in its order, in any form that [`request`](super::request) reads. A record
/// that is none is an item too: it does not stop the others.
pub struct Cases {
    file: PathBuf,
    values: Values<'static>,
    /// Where the first case of an id is.
    positions: HashMap<String, String>,
}

/// The cases of a file. It is held as it is, and one record parsed.
///
/// # Errors
/// A file that cannot be read; one without a record; a JSON array that is not JSON.
pub fn cases(path: impl AsRef<Path>) -> Result<Cases> {
    let path = path.as_ref();
    Cases::new(path, read_file(path, MAX_BYTES)?)
}

impl Cases {
    /// The cases of a file's contents; `name` is that of the file, for errors.
    ///
    /// # Errors
    /// As [`cases`].
    pub fn new(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Cases> {
        let file = name.as_ref().to_owned();
        let values = Values::new(&file, Cow::Owned(bytes))?;
        if !values.check()? {
            let (what, remedy) = ("holds no record", "write one JSON object a line");
            return Err(Error::input(file, "line 1", what, remedy));
        }
        Ok(Cases { file, values, positions: HashMap::new() })
    }

    /// The case of a record, or why there is none, and the id that the record gives it.
    fn case(&self, place: (&str, usize), value: &Value) -> (Option<String>, Result<Case>) {
        let record = match JsonRecord::new(&self.file, place, value, Fields::All) {
            Ok(record) => record,
            Err(e) => return (None, Err(e)),
        };
        let read = forms::draft(&record).and_then(|(form, draft)| draft.case(record.id()?, form));
        let case = read.and_then(|case| match self.positions.get(&case.id) {
            None => Ok(case),
            Some(first) => {
                let what = format!("{:?} is also the id of {first}", case.id);
                Err(record.error("id", what, "give every record an id of its own"))
            }
        });
        (record.own_id().ok().flatten(), case)
    }
}

impl Iterator for Cases {
    type Item = std::result::Result<Case, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.values.count;
        // An array was read to its end before, so that there is no error.
        let (position, value) = self.values.next().ok()??;
        let (id, case) = match value {
            Ok(value) => self.case((&position, index), &value),
            Err(e) => (None, Err(e)),
        };
        Some(match case {
            Ok(case) => {
                self.positions.insert(case.id.clone(), position);
                Ok(case)
            }
            Err(e) => Err(Broken::new(id.unwrap_or(index.to_string()), &e)),
        })
    }
}
