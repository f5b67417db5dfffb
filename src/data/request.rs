//! What is asked for: requests in our own form, and the field's data sets converted to it.
//!
//! A file is JSON Lines or one JSON array. Our own record:
//!
//! ```json
//! {"prompt": "The mother tongue of {} is", "subject": "Ada Lovelace", "target_new": "French"}
//! ```
//!
//! with, if wanted, `id`, `target_true`, `paraphrases` (strings) and `neighbourhood`,
//! `portability`, `locality` (lists of `{"prompt": …, "target": …}`, or of strings where no target
//! is known). A probe's `kind` and `aliases`, other spellings of its target, count for evaluation
//! only ([`Cases`](super::Cases)). `space` says whether a space stands between prompt and target
//! where the texts would decide otherwise (`text/seam.rs`). A record without a `subject` is about
//! its whole prompt.
//! CounterFact, zsRE in MEND's form, EasyEdit and KnowEdit, QAEdit, WikiBigEdit, questions with
//! answers, and MQuAKE are recognised by their fields; fields that no form knows are ignored. White
//! space around subjects and after targets is dropped. Python's `NaN` counts as null.
//!
//! A record that cannot be used does not stop the others from being read ([`Requests`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::broken::{self, Broken, OnBroken};
use super::fact::Fact;
use super::forms;
pub use super::record::Fields;
use super::record::JsonRecord;
use super::values::Values;
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// Maximum size of a file of requests.
pub const MAX_BYTES: u64 = 1 << 31;

/// The requests of a file, and its records that are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// In the order of the file.
    pub facts: Vec<Fact>,
    /// In the order of the file.
    pub broken: Vec<Broken>,
}

/// Reads the requests of a file.
///
/// # Errors
/// Records that are broken or of no known form, two records of one id, a file with none.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Fact>> {
    let path = path.as_ref();
    let bytes = read_file(path, MAX_BYTES)?;
    parse(path, &bytes)
}

/// Reads the requests of a file's contents; `name` is that of the file, for errors.
///
/// # Errors
/// As [`read`].
pub fn parse(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Vec<Fact>> {
    let Requests { facts, broken } = parse_each(&name, bytes, Fields::All)?;
    match broken.is_empty() {
        true => Ok(facts),
        false => Err(broken::error(name.as_ref(), &broken, OnBroken::Error)),
    }
}

/// Reads the requests of a file's contents, and says which records are broken; `name` is that of
/// the file, for errors.
///
/// # Errors
/// A file with no record; a JSON array that is not JSON. (JSON Lines go on at the next line that
/// begins a record.)
pub fn parse_each(name: impl AsRef<Path>, bytes: &[u8], fields: Fields) -> Result<Requests> {
    let file = name.as_ref();
    let mut requests = Requests::default();
    let mut positions: HashMap<String, String> = HashMap::new();
    let mut values = Values::new(file, Cow::Borrowed(bytes))?;
    while let Some((position, value)) = values.next()? {
        let index = values.count - 1;
        let read = match value {
            Ok(value) => facts_of(file, (&position, index), &value, fields),
            Err(e) => vec![(None, Err(e))],
        };
        for (id, fact) in read {
            let fact = fact.and_then(|fact| match positions.get(&fact.id) {
                None => Ok(fact),
                Some(first) => {
                    let what = format!("{:?} is also the id of {first}", fact.id);
                    let field = format!("{position}: id");
                    Err(Error::input(file, field, what, "give every record an id of its own"))
                }
            });
            match fact {
                Ok(fact) => {
                    positions.insert(fact.id.clone(), position.clone());
                    requests.facts.push(fact);
                }
                Err(e) => {
                    let shown = id.clone().unwrap_or(index.to_string());
                    requests.broken.push(Broken::new(shown, &e));
                    if let Some(id) = id {
                        positions.entry(id).or_insert(position.clone());
                    }
                }
            }
        }
    }
    if requests.facts.is_empty() && requests.broken.is_empty() {
        let (what, remedy) = ("holds no request", "give it one at least, a JSON object a line");
        return Err(Error::input(file, "requests", what, remedy));
    }
    Ok(requests)
}

/// Requests made by a program, held to the rules for those of a file; `name` stands for one in
/// errors.
///
/// # Errors
/// As [`parse_each`].
pub fn checked(name: impl AsRef<Path>, requests: &[Fact]) -> Result<Requests> {
    let bytes = serde_json::to_vec(requests).expect("strings and lists are always JSON");
    parse_each(name, &bytes, Fields::Edit)
}

/// The blake3 hash, in hexadecimal, of the requests as our own JSON records.
pub fn digest(requests: &[Fact]) -> String {
    let json = serde_json::to_vec(requests).expect("strings and lists are always JSON");
    blake3::hash(&json).to_hex().to_string()
}

/// The requests in a record, or why there are none, each with the id that the record gives it.
fn facts_of(
    file: &Path,
    place: (&str, usize),
    value: &Value,
    fields: Fields,
) -> Vec<(Option<String>, Result<Fact>)> {
    let record = match JsonRecord::new(file, place, value, fields) {
        Ok(record) => record,
        Err(e) => return vec![(None, Err(e))],
    };
    let id = record.own_id().ok().flatten();
    match forms::draft(&record) {
        Ok((_, draft)) => draft.requests(),
        Err(e) => vec![(id, Err(e))],
    }
}
