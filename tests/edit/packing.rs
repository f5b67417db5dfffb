//! Where the rows of many facts lie in a batch, worked out by hand.

use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::packing::{
    LOGIT_ROWS, PackedFact, Retained, StepLayout, Suffix, own_prefixes, retained, shared_prefixes,
    suffix_tokens,
};
use incise::ops::loss::RowLoss;

/// A KL row and two rewriting rows, the second behind a context that all facts share.
fn fact(subject: u32, target: &[u32]) -> FactRows {
    let row = |before: &[u32]| {
        let ids = [before, &[subject, 7], &target[..target.len() - 1]].concat();
        PromptRow { lookup: before.len(), ids }
    };
    FactRows {
        rewriting: vec![row(&[1, subject]), row(&[1, 2, 3, subject])],
        kl: PromptRow { ids: vec![1, subject, 8, 9], lookup: 1 },
        keys: Vec::new(),
        target: target.to_vec(),
        merged: 0,
    }
}

#[test]
fn rows_are_cut_at_the_lookup_token() {
    let facts = [fact(20, &[30, 31]), fact(21, &[32])];
    assert_eq!(shared_prefixes(&facts), [vec![1], vec![1], vec![1, 2, 3]]);
    let shared = [0..1, 1..2, 2..5];
    let packed = PackedFact::new(&facts[0], &shared);
    let suffix = |ids: &[u32], own_prefix| Suffix { ids: ids.to_vec(), own_prefix };
    // Of the KL row nothing behind the lookup token is read.
    let suffixes = [suffix(&[20], 0), suffix(&[20, 7, 30], 1), suffix(&[20, 7, 30], 1)];
    assert_eq!(packed.suffixes, suffixes);
    assert_eq!((packed.tokens(), packed.own_prefix(), suffix_tokens(&facts[0])), (7, 2, 7));
    let own = own_prefixes(&facts, &shared);
    assert_eq!(own.ids, [20, 20, 21, 21]);
    assert_eq!(own.positions, [1, 3, 1, 3]);
}

#[test]
fn a_step_reads_the_cache_and_the_logits_of_each_fact() {
    let facts = [fact(20, &[30, 31]), fact(21, &[32])];
    let shared = [0..1, 1..2, 2..5];
    let packed = facts.each_ref().map(|rows| PackedFact::new(rows, &shared));
    let layout = StepLayout::new(&packed, &shared, 0.25, 0);
    assert_eq!(layout.batch.ids, [20, 20, 7, 30, 20, 7, 30, 21, 21, 7, 21, 7]);
    assert_eq!(layout.sequences, [0..3, 3..6]);
    let past: Vec<_> = layout.batch.seqs.iter().map(|seq| seq.past.clone()).collect();
    let own = [5..5, 5..6, 6..7, 7..7, 7..8, 8..9];
    for (i, past) in past.into_iter().enumerate() {
        assert_eq!(past, [shared[i % 3].clone(), own[i].clone()]);
    }
    assert_eq!(layout.pushed, [0, 1, 4, 7, 8, 10]);
    assert_eq!(layout.owner, [0, 0, 0, 1, 1, 1]);
    assert_eq!(layout.bare(), [1, 8]);

    let nll = |target, weight| RowLoss::CrossEntropy { target, weight };
    let kl = |reference| RowLoss::Kl { reference, weight: 0.25 };
    let first = [kl(0), nll(30, 0.25), nll(31, 0.25), nll(30, 0.25), nll(31, 0.25)];
    let second = [kl(1), nll(32, 0.5), nll(32, 0.5)];
    assert_eq!(layout.losses, [&first[..], &second].concat());
    assert_eq!(layout.groups, [0..5, 5..8]);
    let [piece] = &layout.pieces[..] else { panic!("a few rows are one piece") };
    // The last two tokens of a row predict a target of two.
    assert_eq!(piece.read, [0, 2, 3, 5, 6, 7, 9, 11]);
    assert_eq!((piece.rows.clone(), piece.own), (0..8, 8));
    assert_eq!(piece.kl, [(0, 0), (5, 1)]);
}

#[test]
fn batches_and_pieces_are_filled_up() {
    let shared = [0..1, 1..2, 2..5];
    let packed = [PackedFact::new(&fact(20, &[30]), &shared)];
    let layout = StepLayout::new(&packed, &shared, 0.25, 16);
    assert_eq!((layout.batch.len(), layout.losses.len()), (16, 16));
    let piece = &layout.pieces[0];
    assert_eq!((piece.rows.clone(), piece.own, piece.read.len()), (0..16, 3, 16));
    for row in 3..16 {
        assert_eq!(piece.read[row], 0, "any row will do");
        assert_eq!(layout.losses[row], RowLoss::CrossEntropy { target: 0, weight: 0.0 });
    }
    assert_eq!(layout.groups, std::slice::from_ref(&(0..3)), "they belong to no fact");
}

#[test]
fn many_rows_of_logits_are_several_pieces() {
    let shared = [0..1, 1..2, 2..5];
    let packed: Vec<_> =
        (0..100).map(|i| PackedFact::new(&fact(100 + i, &[30, 31]), &shared)).collect();
    let layout = StepLayout::new(&packed, &shared, 0.25, 32);
    assert_eq!(layout.losses.len(), 500);
    let sizes: Vec<usize> = layout.pieces.iter().map(|piece| piece.own).collect();
    assert_eq!(sizes, [250, 250]);
    assert!(sizes.iter().all(|&n| n <= LOGIT_ROWS));
    let facts = layout.pieces.iter().flat_map(|piece| piece.kl.iter().map(|kl| kl.1));
    assert!(facts.eq(0..100), "every fact has its KL row");
    assert_eq!(layout.pieces[1].kl[0], (0, 50), "rows are counted in the piece");
}

#[test]
fn facts_that_are_left_keep_their_rows() {
    let shared = [0..1, 1..2, 2..5];
    let packed = [fact(20, &[30, 31]), fact(21, &[32]), fact(22, &[33])]
        .map(|rows| PackedFact::new(&rows, &shared));
    let left = retained(&packed, &[false, true, true], 5);
    let tokens = (7..17).collect();
    assert_eq!(left, Retained { facts: vec![1, 2], cache: vec![0..5, 7..9, 9..11], tokens });
    let none = retained(&packed, &[false; 3], 5);
    let only_shared = std::iter::once(0..5).collect();
    assert_eq!(none, Retained { facts: vec![], cache: only_shared, tokens: vec![] });
}
