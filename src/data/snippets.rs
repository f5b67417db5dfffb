//! Texts about things, as ROME's evaluation compares with (Meng et al. 2022): the published
//! `attribute_snippets.json`, or a file of the same form.
//!
//! ```text
//! {"relation_id": "P30", "target_id": "Q51", "samples": [{"name": "…", "text": "…"}, …]}
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::values::Values;
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// Far above the published file, of 0.6 GB.
const MAX_BYTES: u64 = 1 << 33;

/// Texts by Wikidata's property and the item that things of them have there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snippets {
    /// In the order of the file.
    pub texts: BTreeMap<(String, String), Vec<String>>,
}

#[derive(Deserialize)]
struct Record {
    relation_id: String,
    target_id: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    text: String,
}

impl Snippets {
    /// Those of a file: JSON Lines or a JSON array.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, has none, or is not as published.
    pub fn read(path: impl AsRef<Path>) -> Result<Snippets> {
        let path = path.as_ref();
        let mut values = Values::new(path, Cow::Owned(read_file(path, MAX_BYTES)?))?;
        let remedy = "write relation_id, target_id and samples, each with its text";
        let mut snippets = Snippets::default();
        while let Some((place, value)) = values.next()? {
            let wrong = |what: String| Error::input(path, place.clone(), what, remedy);
            let record: Record = serde_json::from_value(value?)
                .map_err(|e| wrong(format!("is no snippets: {e}")))?;
            let own = snippets.texts.entry((record.relation_id, record.target_id)).or_default();
            own.extend(record.samples.into_iter().map(|sample| sample.text));
        }
        match snippets.texts.values().any(|texts| !texts.is_empty()) {
            true => Ok(snippets),
            false => Err(Error::input(path, "samples", "there are none", remedy)),
        }
    }
}
