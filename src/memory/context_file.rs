//! Facts in context as a safetensors file.
//!
//! ```text
//! tokens    U32 (n)        of each fact its context and then its prompt, one fact after the other
//! spaced    U32 (p, 2)     tokens at the start of a text, and the same with a space before them;
//!                          ascending
//! metadata  kind "ike"; lengths: a JSON list of [tokens of the context, tokens of the prompt];
//!           begin: the token that begins a text, where there is one. The rest: `format.rs`
//! ```

use std::path::Path;

use safetensors::Dtype;
use serde_json::json;

use super::context::{ContextEntry, ContextMemory};
use super::format::{REMEDY, check_made_for, metadata};
use crate::base::{Error, Result};
use crate::model::LanguageModel;
use crate::model::lineage::WeightsName;
use crate::store::Shard;
use crate::store::write::{self, Item};

/// Of such a file.
pub const KIND: &str = "ike";

impl ContextMemory {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = metadata(KIND, &self.made_for, &self.labels());
        let (items, tokens) = (self.items(), self.tokens());
        write::write(path, &metadata, &items, &mut |i, out| {
            out.write_all(bytemuck::cast_slice(if i == 0 { &tokens } else { self.pairs() }))
        })
    }

    /// What its metadata say of its own.
    pub(super) fn labels(&self) -> Vec<(&'static str, String)> {
        let length = |e: &ContextEntry| [e.context.len(), e.prompt.len()];
        let lengths: Vec<[usize; 2]> = self.entries.iter().map(length).collect();
        let mut all = vec![("lengths", json!(lengths).to_string())];
        if let Some(begin) = self.begin {
            all.push(("begin", begin.to_string()));
        }
        all
    }

    /// `tokens` and `spaced`.
    pub(super) fn items(&self) -> [Item; 2] {
        let item = |name: &str, shape| Item { name: name.to_owned(), dtype: Dtype::U32, shape };
        let tokens = self.entries.iter().map(|e| e.context.len() + e.prompt.len()).sum();
        [item("tokens", vec![tokens]), item("spaced", vec![self.spaced.len(), 2])]
    }

    /// The numbers of `tokens`.
    pub(super) fn tokens(&self) -> Vec<u32> {
        self.entries.iter().flat_map(|e| [&e.context[..], &e.prompt].concat()).collect()
    }

    /// The numbers of `spaced`.
    pub(super) fn pairs(&self) -> &[u32] {
        self.spaced.as_flattened()
    }

    /// Reads facts in context that were made for a model whose weights have that name.
    ///
    /// # Errors
    ///
    /// A file of another format or kind, or made for other weights; one that does not fit the model
    /// or itself.
    pub fn read(
        path: &Path,
        base: &dyn LanguageModel,
        name: &WeightsName,
    ) -> Result<ContextMemory> {
        let shard = Shard::open(path)?;
        check_made_for(path, &shard.header().metadata, KIND, name)?;
        let made_for = name.clone();
        Ok(ContextMemory { made_for, ..ContextMemory::read_part(path, &shard, base)? })
    }

    /// The same of an open file that holds more, which names the weights itself.
    pub(super) fn read_part(
        path: &Path,
        shard: &Shard,
        base: &dyn LanguageModel,
    ) -> Result<ContextMemory> {
        let metadata = &shard.header().metadata;
        let bad = |field: &str, what: String| Error::input(path, field, what, REMEDY);
        let lengths = metadata.get("lengths").map_or("", String::as_str);
        let lengths: Vec<[usize; 2]> = serde_json::from_str(lengths)
            .map_err(|e| bad("lengths", format!("is no list of pairs of counts: {e}")))?;
        let begin = metadata.get("begin").map(|id| id.parse::<u32>()).transpose();
        let begin = begin.map_err(|e| bad("begin", format!("is no token's id: {e}")))?;
        let tokens = ids(path, shard, "tokens", 1)?;
        let spaced = ids(path, shard, "spaced", 2)?;
        let all = tokens.iter().chain(&spaced).chain(&begin);
        let vocabulary = base.arch().vocabulary;
        if let Some(id) = all.copied().find(|&id| id as usize >= vocabulary) {
            return Err(bad("tokens", format!("token {id} is not in the model's vocabulary")));
        }
        let spaced: Vec<[u32; 2]> = spaced.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        if !spaced.is_sorted_by(|a, b| a[0] < b[0]) {
            return Err(bad("spaced", "is not ascending".to_owned()));
        }
        let mut rest = &tokens[..];
        let mut take = |n: usize| -> Result<Vec<u32>> {
            let short = || bad("tokens", "are fewer than their lengths say".to_owned());
            let (own, after) = rest.split_at_checked(n).ok_or_else(short)?;
            rest = after;
            Ok(own.to_vec())
        };
        let mut entries = Vec::with_capacity(lengths.len());
        for [context, prompt] in lengths {
            if context == 0 {
                return Err(bad("lengths", "name a context without tokens".to_owned()));
            }
            entries.push(ContextEntry { context: take(context)?, prompt: take(prompt)? });
        }
        if !rest.is_empty() {
            return Err(bad("tokens", "are more than their lengths say".to_owned()));
        }
        Ok(ContextMemory { made_for: WeightsName::default(), begin, spaced, entries })
    }
}

/// A tensor of ids in rows of `width`.
fn ids(path: &Path, shard: &Shard, name: &str, width: usize) -> Result<Vec<u32>> {
    let bad = |what: String| Error::input(path, name, what, REMEDY);
    let entry = shard.header().tensors.get(name);
    let entry = entry.ok_or_else(|| bad("is missing".to_owned()))?;
    let shape = &entry.shape[..];
    let fits = matches!((shape, width), ([_], 1)) || matches!(shape, [_, w] if *w == width);
    if entry.dtype != "U32" || !fits {
        let what = format!("is {} {:?}, not U32 of rows of {width}", entry.dtype, entry.shape);
        return Err(bad(what));
    }
    let number = |b: &[u8]| u32::from_le_bytes(b.try_into().expect("four bytes"));
    Ok(shard.bytes(&entry.range).chunks_exact(4).map(number).collect())
}
