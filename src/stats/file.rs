//! `layer-<l>.safetensors`: a second moment on disk, and what it was made from. That of another
//! input than the keys has its name behind the layer: [`input`](super::input).
//!
//! Tensor `second_moment` F32 (F, F) = mean of k kᵀ. Metadata, all strings: `layer`, `tokens`,
//! `context_length` (0 where it is not known), `model` (fingerprint), `corpus` (hash of the text;
//! `+` between those of merged statistics, `npz-` before that of an imported file), `normed`
//! (`true`) where keys were divided by the norm behind their MLP ([`normed`](super::normed)), and
//! `site` unless it is of the keys. A shard's file also has `shard` (`i/n`) and `shards_tokens` (of
//! all n shards together).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::input::{Input, LayerInput};
use super::normed;
use super::origin::{Origin, Part};
use super::partial;
use crate::base::file::make_folder;
use crate::base::units::count;
use crate::base::{DType, Error, Operation, Remedy, Result, Share};
use crate::store::{Shard, write};

const TENSOR: &str = "second_moment";
const SITE: &str = "site";
const NORMED: &str = "normed";
const SHARD: &str = "shard";
const SHARDS_TOKENS: &str = "shards_tokens";

fn collect() -> Remedy {
    Remedy::from("collect it first").operation(Operation::CollectStatistics)
}

/// A second moment C = E[k kᵀ].
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// l.
    pub layer: usize,
    /// What of the layer was averaged; keys k of the MLP stand for it in this project's formulas.
    pub input: Input,
    /// Its width: F of keys.
    pub f: usize,
    /// How many keys were averaged.
    pub tokens: u64,
    /// (F, F), symmetric.
    pub second_moment: Vec<f32>,
    /// What it was made from.
    pub origin: Origin,
    /// Where it is of one shard of the text alone, and of no use until it is merged.
    pub part: Option<Part>,
}

impl Moment {
    /// The mean from the packed totals of `tokens` keys; of normed ones, from those of width F + 1.
    pub fn of(
        of: impl Into<LayerInput>,
        f: usize,
        tokens: u64,
        total: &[f64],
        origin: &Origin,
    ) -> Moment {
        let LayerInput { layer, input } = of.into();
        let (total, divisor) = match origin.normed {
            true => normed::parted(total, f),
            false => (total, tokens as f64),
        };
        let mut second_moment = vec![0.0; f * f];
        for i in 0..f {
            for j in 0..=i {
                let mean = (total[i * (i + 1) / 2 + j] / divisor) as f32;
                second_moment[i * f + j] = mean;
                second_moment[j * f + i] = mean;
            }
        }
        Moment { layer, input, f, tokens, second_moment, origin: origin.clone(), part: None }
    }

    /// What tells it from others of its layer, as patches note it: the text, how much of it, in
    /// which pieces, whether keys were normed, and the model.
    pub fn source(&self) -> String {
        source(self.tokens, &self.origin)
    }

    /// The same of a file, of which only the header is read.
    ///
    /// # Errors
    ///
    /// As [`open`](Moment::open), but for the values.
    pub fn source_in(dir: &Path, of: impl Into<LayerInput>) -> Result<String> {
        let of = of.into();
        let Head { tokens, origin, .. } = Head::read(&Moment::path(dir, of), of)?;
        Ok(source(tokens, &origin))
    }

    /// What it is of.
    pub fn is_of(&self) -> LayerInput {
        LayerInput { layer: self.layer, input: self.input }
    }

    /// The file of an input's statistics in a folder.
    pub fn path(dir: &Path, of: impl Into<LayerInput>) -> PathBuf {
        dir.join(format!("layer-{}.safetensors", of.into().name()))
    }

    /// Writes the file into `dir`, which is made where it is missing, whole or not at all.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        make_folder(dir)?;
        let Origin { model, corpus, context_length, normed } = &self.origin;
        let mut metadata = BTreeMap::from([
            ("layer".to_owned(), self.layer.to_string()),
            ("tokens".to_owned(), self.tokens.to_string()),
            ("context_length".to_owned(), context_length.to_string()),
            ("model".to_owned(), model.clone()),
            ("corpus".to_owned(), corpus.clone()),
        ]);
        if *normed {
            metadata.insert(NORMED.to_owned(), normed.to_string());
        }
        if self.input != Input::Key {
            metadata.insert(SITE.to_owned(), self.input.name().to_owned());
        }
        if let Some(Part { share, total_tokens }) = self.part {
            metadata.insert(SHARD.to_owned(), share.to_string());
            metadata.insert(SHARDS_TOKENS.to_owned(), total_tokens.to_string());
        }
        let shape = vec![self.f, self.f];
        let item = write::Item { name: TENSOR.to_owned(), dtype: DType::F32.into(), shape };
        write::write(&Moment::path(dir, self.is_of()), &metadata, &[item], &mut |_, out| {
            out.write_all(bytemuck::cast_slice(&self.second_moment))
        })
    }

    /// Refuses a folder with statistics of another origin, or of more of the text than the `tokens`
    /// that there will be at most (of all shards together), which would be overwritten.
    ///
    /// # Errors
    ///
    /// Such statistics; a file that holds no statistics.
    pub fn check_overwrite(
        dir: &Path,
        of: impl Into<LayerInput>,
        origin: &Origin,
        share: Option<Share>,
        tokens: u64,
    ) -> Result<()> {
        let of = of.into();
        let path = Moment::path(dir, of);
        if !path.exists() {
            return Ok(());
        }
        let Head { origin: there, part, tokens: own, .. } = Head::read(&path, of)?;
        let shard = |share: Option<Share>| share.map_or("none".to_owned(), |s| s.to_string());
        let lengths = [&there, origin].map(|o| o.context_length.to_string());
        let normed = [&there, origin].map(|o| o.normed.to_string());
        let pairs = [
            ("model", &there.model, &origin.model),
            ("corpus", &there.corpus, &origin.corpus),
            ("context_length", &lengths[0], &lengths[1]),
            (NORMED, &normed[0], &normed[1]),
            (SHARD, &shard(part.map(|part| part.share)), &shard(share)),
        ];
        if let Some((field, old, new)) = pairs.into_iter().find(|(_, old, new)| old != new) {
            let what = format!("is {old} in the file that is there, and {new} in the new one");
            return Err(Error::input(path, field, what, "name another folder, or remove the file"));
        }
        let there = part.map_or(own, |part| part.total_tokens);
        if there > tokens {
            let [there, tokens] = [there, tokens].map(count);
            let what = format!(
                "is {there} in the file that is there, and would be {tokens} of the same text"
            );
            let remedy = "take as many, name another folder, or remove the file";
            return Err(Error::input(path, "tokens", what, remedy));
        }
        Ok(())
    }

    /// Reads the file of an input of width `f` from `dir`, made for a model of fingerprint `model`.
    ///
    /// # Errors
    ///
    /// One of another model or size, a shard, or as [`open`](Moment::open).
    pub fn read(dir: &Path, of: impl Into<LayerInput>, f: usize, model: &str) -> Result<Moment> {
        let of = of.into();
        let moment = Moment::open(dir, of)?;
        let bad = |field: &str, what: String| {
            Err(Error::input(Moment::path(dir, of), field, what, collect()))
        };
        if moment.origin.model != model {
            let what = format!("is of the model {}, not of {model}", moment.origin.model);
            return bad("model", what);
        }
        if let Some(Part { share, .. }) = moment.part {
            let remedy = Remedy::from("join the statistics of all shards")
                .operation(Operation::MergeStatistics);
            let what = format!("is shard {share} of the text alone");
            return Err(Error::input(Moment::path(dir, of), SHARD, what, remedy));
        }
        if moment.f != f {
            return bad(TENSOR, format!("is F32 [{0}, {0}], not F32 [{f}, {f}]", moment.f));
        }
        Ok(moment)
    }

    /// Reads the file of an input from `dir`, whatever model it is of.
    ///
    /// # Errors
    ///
    /// No such file, one of another layer or site, of no token or no square, values that are not
    /// finite.
    pub fn open(dir: &Path, of: impl Into<LayerInput>) -> Result<Moment> {
        let of = of.into();
        let path = Moment::path(dir, of);
        if !path.is_file() {
            let what = format!("no statistics of {}", of.title());
            let file = format!("layer-{}.safetensors", of.name());
            return Err(Error::input(dir, file, what, collect()));
        }
        let Head { shard, f, tokens, origin, part } = Head::read(&path, of)?;
        let mut second_moment = vec![0.0f32; f * f];
        let bytes = shard.header().tensors.get(TENSOR).map(|entry| shard.bytes(&entry.range));
        DType::F32.widen(&bytes.expect("its shape was read"), &mut second_moment);
        if let Some(i) = second_moment.iter().position(|x| !x.is_finite()) {
            let what = format!("entry ({}, {}) is not finite", i / f, i % f);
            return Err(Error::input(path, TENSOR, what, collect()));
        }
        let LayerInput { layer, input } = of;
        Ok(Moment { layer, input, f, tokens, second_moment, origin, part })
    }
}

fn source(tokens: u64, of: &Origin) -> String {
    let Origin { model, corpus, context_length, normed } = of;
    let normed = if *normed { ", normed" } else { "" };
    format!("{tokens} tokens of {corpus}, {context_length} at a time{normed}, of the model {model}")
}

/// What precedes the matrix in a file.
struct Head {
    shard: Arc<Shard>,
    f: usize,
    tokens: u64,
    origin: Origin,
    part: Option<Part>,
}

impl Head {
    fn read(path: &Path, of: LayerInput) -> Result<Head> {
        let shard = Shard::open(path)?;
        let header = shard.header();
        let bad = |field: &str, what: String| Error::input(path, field, what, collect());
        let text = |key: &str| {
            let value = header.metadata.get(key);
            value.cloned().ok_or_else(|| bad(key, "is missing in the metadata".into()))
        };
        let number = |key: &str| {
            let value = text(key)?;
            value.parse::<u64>().map_err(|_| bad(key, format!("`{value}` is not a number")))
        };
        let origin = Origin {
            model: text("model")?,
            corpus: text("corpus")?,
            context_length: number("context_length")? as usize,
            normed: match header.metadata.get(NORMED).map(String::as_str) {
                None => false,
                Some("true") => true,
                Some(other) => return Err(bad(NORMED, format!("is `{other}`, not true"))),
            },
        };
        let part = |shard: &String| {
            let share = shard.parse().map_err(|what| bad(SHARD, what))?;
            Ok(Part { share, total_tokens: number(SHARDS_TOKENS)? })
        };
        let part = header.metadata.get(SHARD).map(part).transpose()?;
        if number("layer")? != of.layer as u64 {
            return Err(bad("layer", format!("is not {}", of.layer)));
        }
        let input = header.metadata.get(SITE).map_or(Input::Key.name(), String::as_str);
        if input != of.input.name() {
            return Err(bad(SITE, format!("is `{input}`, not {}", of.input.name())));
        }
        let tokens = number("tokens")?;
        let entry =
            header.tensors.get(TENSOR).ok_or_else(|| bad(TENSOR, "no such tensor".into()))?;
        let f = match entry.shape[..] {
            [f, g] if f == g && entry.dtype == DType::F32.name() => f,
            _ => {
                let what = format!("is {} {:?}, not F32 [F, F]", entry.dtype, entry.shape);
                return Err(bad(TENSOR, what));
            }
        };
        if tokens == 0 {
            return Err(bad("tokens", "is 0".into()));
        }
        Ok(Head { f, tokens, origin, part, shard: shard.clone() })
    }
}

/// Writes all moments of a collection and removes what was kept of it in progress.
///
/// # Errors
///
/// A folder that cannot be written.
pub fn write_all(moments: &[Moment], dir: &Path) -> Result<()> {
    moments.iter().try_for_each(|m| m.write(dir))?;
    partial::remove(dir)
}
