//! Beginnings that many texts share: their keys and values are the same in each, and run once.
//!
//! Texts come in kinds, the j-th of every group of texts being of kind j, and those of one kind
//! begin alike. The numbers of what follows do not depend on where a text was cut into shared
//! beginning and rest, so they do not depend on which texts share.

use std::ops::Range;

use super::batch::Batch;
use super::cache::KvCache;
use super::cache::Past;
use super::model::Model;
use super::run::Run;
use super::site::NoHook;

/// The shared beginning of each kind of text, run.
pub struct PrefixCache {
    rows: Vec<Range<usize>>,
    /// Keys and values of the layers that were run, (tokens, G·E) each.
    pub cache: KvCache,
}

/// The longest common beginning of each kind of text.
pub fn common_prefixes<'a, T>(groups: impl IntoIterator<Item = T>) -> Vec<Vec<u32>>
where
    T: IntoIterator<Item = &'a [u32]>,
{
    let mut common: Vec<Vec<u32>> = Vec::new();
    for texts in groups {
        for (j, text) in texts.into_iter().enumerate() {
            match common.get_mut(j) {
                Some(ids) => {
                    let same = ids.iter().zip(text).take_while(|(a, b)| a == b).count();
                    ids.truncate(same);
                }
                None => common.push(text.to_vec()),
            }
        }
    }
    common
}

impl PrefixCache {
    /// Runs the beginnings through the first `layers` layers; `least` as in [`Batch::fill`].
    pub fn run(model: &Model, prefixes: &[Vec<u32>], layers: usize, least: usize) -> PrefixCache {
        let mut batch = Batch::default();
        let rows = prefixes.iter().map(|ids| batch.push(ids, 0..0)).collect();
        let tokens = batch.len();
        let mut cache = KvCache::new(&model.arch, &model.compute);
        if !batch.is_empty() {
            batch.fill(least);
            let (mut x, mut run) = (model.embed(&batch), Run::new(model));
            let grow = Past::Grow(&mut cache);
            model.forward(&batch, 0..layers, grow, &mut x, &mut run, &mut NoHook);
            cache.keep(0..layers, std::slice::from_ref(&(0..tokens)));
        }
        PrefixCache { rows, cache }
    }

    /// Where the cache holds the beginning of each kind.
    pub fn rows(&self) -> &[Range<usize>] {
        &self.rows
    }

    /// Tokens in the cache.
    pub fn tokens(&self) -> usize {
        self.rows.last().map_or(0, |r| r.end)
    }
}
