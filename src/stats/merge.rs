//! One second moment from several: C = Σ n C / Σ n. Each is of a text of its own, or one of the
//! shards of a text, which are merged all or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::file::Moment;
use super::input::LayerInput;
use super::origin::Part;
use crate::base::{Error, Remedy, Result};

const REMEDY: &str = "merge statistics of one model, each of a text or a shard of its own";

/// The inputs with statistics in any of the folders, each with the folders that have it.
///
/// # Errors
///
/// A folder that cannot be read or has none.
pub fn inputs(dirs: &[PathBuf]) -> Result<BTreeMap<LayerInput, Vec<&Path>>> {
    let mut inputs: BTreeMap<LayerInput, Vec<&Path>> = BTreeMap::new();
    for dir in dirs {
        let failed = |e| Error::io(dir, "read", e);
        let mut found = 0;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let of = name.to_str().and_then(|n| n.strip_prefix("layer-"));
            let of = of.and_then(|n| n.strip_suffix(".safetensors"));
            if let Some(of) = of.and_then(LayerInput::named) {
                inputs.entry(of).or_default().push(dir);
                found += 1;
            }
        }
        if found == 0 {
            let what = "holds no statistics";
            return Err(Error::input(dir, "layer-<l>.safetensors", what, REMEDY));
        }
    }
    Ok(inputs)
}

/// The mean of an input's second moments, weighted by their tokens.
///
/// # Errors
///
/// As [`Moment::open`]; moments of different models, sizes or context lengths, or of the same text;
/// shards that are not each of those of one run, once.
pub fn merge(dirs: &[&Path], of: impl Into<LayerInput>) -> Result<Moment> {
    let of = of.into();
    let mut all: Option<(Moment, Vec<f64>)> = None;
    let mut texts = Texts::default();
    for dir in dirs {
        let next = Moment::open(dir, of)?;
        let bad = |field: &str, what: String| {
            Err(Error::input(Moment::path(dir, of), field, what, REMEDY))
        };
        if let Err((field, what)) = texts.add(&next) {
            return bad(field, what);
        }
        let terms = next.second_moment.iter().map(|&c| next.tokens as f64 * f64::from(c));
        let Some((first, total)) = &mut all else {
            let total = terms.collect();
            all = Some((next, total));
            continue;
        };
        if next.origin.normed || first.origin.normed {
            let what =
                "of keys over a norm's root: the roots' sums, which weigh them, are not kept";
            return bad("normed", what.into());
        }
        if next.origin.model != first.origin.model {
            let what = format!("is {}, and {} before", next.origin.model, first.origin.model);
            return bad("model", what);
        }
        if next.origin.context_length != first.origin.context_length {
            let lengths = [&next, first].map(|m| m.origin.context_length);
            let mut what = format!("is {}, and {} before", lengths[0], lengths[1]);
            if lengths.contains(&0) {
                what += ": of imported statistics (0) it is not known, and keys of sequences of \
                         another length have another mean";
            }
            return bad("context_length", what);
        }
        if next.f != first.f {
            return bad("second_moment", format!("has {} neurons, and {} before", next.f, first.f));
        }
        let Some(tokens) = first.tokens.checked_add(next.tokens) else {
            return bad("tokens", format!("is {}, too many to add", next.tokens));
        };
        first.tokens = tokens;
        total.iter_mut().zip(terms).for_each(|(t, c)| *t += c);
    }
    let (mut merged, total) =
        all.ok_or_else(|| Error::refused("nothing to merge", "name folders of statistics"))?;
    merged.origin.corpus = texts.whole(of)?;
    merged.part = None;
    merged.second_moment = total.iter().map(|t| (t / merged.tokens as f64) as f32).collect();
    Ok(merged)
}

/// The texts so far, and of each that comes in shards, which of them with how many tokens.
#[derive(Default)]
struct Texts(BTreeMap<String, Vec<(Part, u64)>>);

impl Texts {
    /// Adds what a moment is of; else the field that does not fit, and why.
    fn add(&mut self, next: &Moment) -> std::result::Result<(), (&'static str, String)> {
        for text in next.origin.corpus.split('+') {
            let shard = next.part.map(|part| (part, next.tokens));
            let Some(shards) = self.0.get_mut(text) else {
                self.0.insert(text.to_owned(), Vec::from_iter(shard));
                continue;
            };
            let (Some((part, _)), Some((one, _))) = (shard, shards.first()) else {
                return Err(("corpus", format!("the text {text} would count twice")));
            };
            let Part { share, total_tokens } = part;
            if share.n() != one.share.n() {
                return Err(("shard", format!("is {share}, and {} before", one.share)));
            }
            if total_tokens != one.total_tokens {
                let what = format!("is {total_tokens}, and {} before", one.total_tokens);
                return Err(("shards_tokens", what));
            }
            if shards.iter().any(|(one, _)| one.share == share) {
                return Err(("shard", format!("{share} of the text {text} would count twice")));
            }
            shards.extend(shard);
        }
        Ok(())
    }

    /// The name of all texts, each of them whole.
    fn whole(self, of: LayerInput) -> Result<String> {
        for (text, shards) in &self.0 {
            let Some((part, _)) = shards.first() else { continue };
            let Part { share, total_tokens } = *part;
            let n = share.n();
            let is_there = |i: &u64| shards.iter().any(|(part, _)| part.share.i() == *i);
            if let Some(i) = (0..n).find(|i| !is_there(i)) {
                let what = format!("{}: shard {i}/{n} of the text {text} is missing", of.title());
                let remedy = Remedy::from("name its folder too, or collect it first")
                    .option("shard", Some(&format!("{i}/{n}")));
                return Err(Error::refused(what, remedy));
            }
            let sum: u128 = shards.iter().map(|(_, tokens)| u128::from(*tokens)).sum();
            if sum != u128::from(total_tokens) {
                let of = of.title();
                let what = format!("{of}: the shards of the text {text} have {sum} tokens");
                let remedy = Remedy::from("collect all of them again, each of as many tokens")
                    .option("max_tokens", None);
                return Err(Error::refused(format!("{what}, not {total_tokens}"), remedy));
            }
        }
        Ok(self.0.into_keys().collect::<Vec<_>>().join("+"))
    }
}
