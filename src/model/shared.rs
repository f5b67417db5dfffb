//! What the rows of many facts have in common: the tokens each context begins with.
//!
//! Rows of one context differ from the prompt on, so the keys and values of the tokens before it
//! are the same for every fact. They are run once. A row's numbers do not depend on where its
//! prefix was cut into shared and own, so they do not depend on which facts share.

use std::ops::Range;

use super::batch::Batch;
use super::cache::KvCache;
use super::decoder::{Past, Run};
use super::model::Model;
use crate::text::Row;

/// Shared tokens of each kind of row, and their keys and values.
pub struct Shared {
    rows: Vec<Range<usize>>,
    /// Keys and values of the layers that were run, (tokens, G·E) each.
    pub cache: KvCache,
}

/// The longest common beginning of each kind of row, before any lookup token; row j of every fact
/// is of kind j.
pub fn common<'a>(facts: impl IntoIterator<Item = Vec<&'a Row>>) -> Vec<Vec<u32>> {
    let mut common: Vec<Vec<u32>> = Vec::new();
    for rows in facts {
        for (j, row) in rows.into_iter().enumerate() {
            let before = &row.ids[..row.lookup];
            match common.get_mut(j) {
                Some(ids) => {
                    let same = ids.iter().zip(before).take_while(|(a, b)| a == b).count();
                    ids.truncate(same);
                }
                None => common.push(before.to_vec()),
            }
        }
    }
    common
}

impl Shared {
    /// Runs the beginnings through the first `layers` layers; `least` as in [`Batch::fill`].
    pub fn run(model: &Model, beginnings: &[Vec<u32>], layers: usize, least: usize) -> Shared {
        let mut batch = Batch::default();
        let rows = beginnings.iter().map(|ids| batch.push(ids, 0..0)).collect();
        let tokens = batch.len();
        let mut cache = KvCache::new(&model.arch, &model.compute);
        if !batch.is_empty() {
            batch.fill(least);
            let (mut x, mut run) = (model.embed(&batch), Run::new(model));
            let grow = Past::Grow(&mut cache);
            model.forward(&batch, 0..layers, grow, &mut x, &mut run, &mut |_, _| {});
            cache.keep(0..layers, std::slice::from_ref(&(0..tokens)));
        }
        Shared { rows, cache }
    }

    /// Where the cache holds the beginning of rows of kind j.
    pub fn rows(&self, j: usize) -> Range<usize> {
        self.rows[j].clone()
    }

    /// Tokens in the cache.
    pub fn tokens(&self) -> usize {
        self.rows.last().map_or(0, |r| r.end)
    }
}
