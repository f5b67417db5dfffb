//! How the texts of a batch are cut into passes.
//!
//! A gradient is summed over pieces of tokens that the batch's texts alone decide
//! ([`weight_gradient::cuts`]). A pass ends where a piece does and a text begins, so the sum has
//! the same bits however many tokens there is memory for.

use std::ops::Range;

use crate::model::Batch;
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::weight_gradient;

/// A part of a batch that is run at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingPass {
    /// Which of the batch's texts.
    pub texts: Range<usize>,
    /// Where its tokens are cut into pieces, from 0 to their number.
    pub cuts: Vec<usize>,
}

impl TrainingPass {
    /// Its tokens.
    pub fn tokens(&self) -> usize {
        *self.cuts.last().expect("a cut at the end")
    }

    /// Its texts as a batch of at least so many rows; those that only fill it are a piece by
    /// themselves, and have no gradient.
    pub fn batch<'t>(
        &self,
        texts: impl Iterator<Item = &'t [u32]>,
        least: usize,
    ) -> (Batch, Vec<usize>) {
        let mut batch = Batch::whole(texts);
        batch.fill(least);
        let mut cuts = self.cuts.clone();
        if self.tokens() < batch.len() {
            cuts.push(batch.len());
        }
        (batch, cuts)
    }
}

/// Rows that the passes over a batch of so many tokens have at least: as many as make a row's
/// numbers a matter of that row alone, or none, where all are one piece and so always one pass.
pub fn least_rows(tokens: usize) -> usize {
    const { assert!(BATCH_INVARIANT_ROWS <= weight_gradient::PIECE) };
    if tokens < BATCH_INVARIANT_ROWS { 0 } else { BATCH_INVARIANT_ROWS }
}

/// The passes over texts of these lengths, each of at most `most` tokens, or of as few more as
/// there can be.
pub fn passes(lengths: &[usize], most: usize) -> Vec<TrainingPass> {
    let cuts = weight_gradient::cuts(lengths.iter().copied());
    let mut end = 0;
    let starts = std::iter::once(0).chain(lengths.iter().map(|length| {
        end += length;
        end
    }));
    // Where a pass may begin: the text there, and the number of its cut.
    let mut places =
        starts.enumerate().filter_map(|(i, at)| Some((i, cuts.binary_search(&at).ok()?)));
    let mut from = places.next().expect("a cut at 0");
    let mut to = from;
    let mut passes = Vec::new();
    let mut close = |from: (usize, usize), to: (usize, usize)| {
        let cuts = &cuts[from.1..=to.1];
        let cuts = cuts.iter().map(|cut| cut - cuts[0]).collect();
        passes.push(TrainingPass { texts: from.0..to.0, cuts });
    };
    for place in places {
        if from != to && cuts[place.1] - cuts[from.1] > most {
            close(from, to);
            from = to;
        }
        to = place;
    }
    if from != to {
        close(from, to);
    }
    passes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn passes_end_where_pieces_and_texts_do() {
        let lengths = [60, 50, 30, 300, 9, 7, 120, 1, 128, 2];
        let cuts = weight_gradient::cuts(lengths);
        let mut kinds = HashSet::new();
        for most in [1, 128, 130, 200, 400, 10_000] {
            let passes = passes(&lengths, most);
            kinds.insert(passes.len());
            let (mut text, mut joined) = (0, vec![0]);
            for pass in &passes {
                assert_eq!(pass.texts.start, text, "no text is left out");
                text = pass.texts.end;
                let begin = *joined.last().unwrap();
                joined.extend(pass.cuts[1..].iter().map(|cut| begin + cut));
                let own: usize = lengths[pass.texts.clone()].iter().sum();
                assert_eq!(pass.tokens(), own);
                let before_last: usize = lengths[pass.texts.start..text - 1].iter().sum();
                let may_end = pass.cuts[1..].contains(&before_last);
                assert!(own <= most || !may_end, "{most}: {pass:?} is too long");
            }
            assert_eq!((text, joined), (lengths.len(), cuts.clone()), "{most}");
        }
        assert!(kinds.len() > 2, "{kinds:?}");
    }
}
