//! One second moment from several, collected on different text: C = Σ n C / Σ n.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::file::Moment;
use crate::base::{Error, Result};

const REMEDY: &str = "merge statistics of one model, each of a text of its own";

/// The layers with statistics in any of the folders, each with the folders that have it.
///
/// # Errors
///
/// A folder that cannot be read or has none.
pub fn layers(dirs: &[PathBuf]) -> Result<BTreeMap<usize, Vec<&Path>>> {
    let mut layers: BTreeMap<usize, Vec<&Path>> = BTreeMap::new();
    for dir in dirs {
        let failed = |e| Error::io(dir, "read", e);
        let mut found = 0;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let layer = name.to_str().and_then(|n| n.strip_prefix("layer-"));
            let layer = layer.and_then(|n| n.strip_suffix(".safetensors"));
            // `layer-01` and `layer-+1` are no names of ours.
            let number = |n: &&str| n.parse().is_ok_and(|l: usize| l.to_string() == **n);
            if let Some(layer) = layer.filter(number).and_then(|n| n.parse().ok()) {
                layers.entry(layer).or_default().push(dir);
                found += 1;
            }
        }
        if found == 0 {
            let what = "holds no statistics";
            return Err(Error::input(dir, "layer-<l>.safetensors", what, REMEDY));
        }
    }
    Ok(layers)
}

/// The mean of layer l's second moments, weighted by their tokens.
///
/// # Errors
///
/// As [`Moment::open`]; moments of different models, sizes or context lengths, or of the same text.
pub fn merge(dirs: &[&Path], layer: usize) -> Result<Moment> {
    let mut all: Option<(Moment, BTreeSet<String>, Vec<f64>)> = None;
    for dir in dirs {
        let next = Moment::open(dir, layer)?;
        let bad = |field: &str, what: String| {
            Err(Error::input(Moment::path(dir, layer), field, what, REMEDY))
        };
        let texts: BTreeSet<String> = next.origin.corpus.split('+').map(String::from).collect();
        let terms = next.second_moment.iter().map(|&c| next.tokens as f64 * f64::from(c));
        let Some((first, known, total)) = &mut all else {
            let total = terms.collect();
            all = Some((next, texts, total));
            continue;
        };
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
        if let Some(twice) = known.intersection(&texts).next() {
            return bad("corpus", format!("the text {twice} would count twice"));
        }
        let Some(tokens) = first.tokens.checked_add(next.tokens) else {
            return bad("tokens", format!("is {}, too many to add", next.tokens));
        };
        first.tokens = tokens;
        total.iter_mut().zip(terms).for_each(|(t, c)| *t += c);
        known.extend(texts);
    }
    let (mut merged, texts, total) =
        all.ok_or_else(|| Error::refused("nothing to merge", "name folders of statistics"))?;
    merged.origin.corpus = texts.into_iter().collect::<Vec<_>>().join("+");
    merged.second_moment = total.iter().map(|t| (t / merged.tokens as f64) as f32).collect();
    Ok(merged)
}
