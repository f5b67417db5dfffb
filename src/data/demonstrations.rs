//! MQuAKE's published demonstrations (Zhong et al. 2023): texts before a question that show how
//! one is answered.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::file::read_text;
use crate::base::json::UniqueKeys;
use crate::base::{Error, Result};

const RELATIONS: &str = "rel-prompts.json";
const MULTI_HOP: &str = "multihop-prompts.txt";
const THOUGHTS: &str = "multihop-cot-prompts.txt";

/// Far above any that was published.
const MAX_BYTES: u64 = 1 << 24;

/// Demonstrations, as they are written, without white space around them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demonstrations {
    /// For questions over one fact, by Wikidata's property: lines `Q: … A: …`.
    pub relations: BTreeMap<String, String>,
    /// For questions over several facts: lines `Q: … A: …`.
    pub multi_hop: Option<String>,
    /// The same with a chain of thought: blocks of `Question:`, `Thoughts:` and `Answer:`.
    pub thoughts: Option<String>,
}

impl Demonstrations {
    /// Those of a folder, under their published names: `rel-prompts.json`, `multihop-prompts.txt`,
    /// `multihop-cot-prompts.txt`, of which some may be missing.
    ///
    /// # Errors
    /// A folder with none of them; one that cannot be read, is empty, or is not as published.
    pub fn read(folder: impl AsRef<Path>) -> Result<Demonstrations> {
        let folder = folder.as_ref();
        let text = |name| {
            let path = folder.join(name);
            if !path.exists() {
                return Ok(None);
            }
            filled(&path, "text", &read_text(&path, MAX_BYTES)?).map(Some)
        };
        let path = folder.join(RELATIONS);
        let relations = match text(RELATIONS)? {
            Some(json) => by_relation(&path, &json)?,
            None => BTreeMap::new(),
        };
        let read =
            Demonstrations { relations, multi_hop: text(MULTI_HOP)?, thoughts: text(THOUGHTS)? };
        if read == Demonstrations::default() {
            let what = format!("has none of {RELATIONS}, {MULTI_HOP} and {THOUGHTS}");
            return Err(Error::input(
                folder,
                "demonstrations",
                what,
                "name MQuAKE's prompts folder",
            ));
        }
        Ok(read)
    }
}

/// The demonstrations of each relation.
fn by_relation(path: &Path, json: &str) -> Result<BTreeMap<String, String>> {
    let remedy = "write one JSON object: a text of demonstrations for every relation";
    let wrong = |what: String| Error::input(path, "relations", what, remedy);
    let UniqueKeys(value) =
        serde_json::from_str(json).map_err(|e| wrong(format!("is not JSON: {e}")))?;
    let relations: BTreeMap<String, String> =
        serde_json::from_value(value).map_err(|e| wrong(format!("is not as published: {e}")))?;
    let trimmed = |(name, text): (String, String)| {
        let text = filled(path, &name, &text)?;
        Ok((name, text))
    };
    relations.into_iter().map(trimmed).collect()
}

/// A text without white space around it.
fn filled(path: &Path, field: &str, text: &str) -> Result<String> {
    match text.trim() {
        "" => Err(Error::input(path, field, "is empty", "fill it in")),
        text => Ok(text.to_owned()),
    }
}
