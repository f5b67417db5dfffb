//! Shards of one text: they add up to what one run counts, and are merged all or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use incise::base::{Error, Operation, Quiet, Share};
use incise::ops::gram;
use incise::stats::file::write_all;
use incise::stats::{Moment, Part, merge};
use incise::tensor::Precision;

use super::collect::{Toy, toy};
use crate::support::cancel::CancelAt;

/// Collects some shards of n, each into a folder of its own.
fn shards(toy: &Toy, at: &Path, which: &[u64], n: u64, limit: u64) -> Vec<PathBuf> {
    let collect = |&i: &u64| {
        let dir = at.join(format!("{i}-of-{n}"));
        let moments = toy.share(Some(Share::new(i, n).unwrap()), &dir, limit, &Quiet).unwrap();
        write_all(&moments, &dir).unwrap();
        dir
    };
    which.iter().map(collect).collect()
}

fn merged(dirs: &[PathBuf]) -> incise::Result<Vec<Moment>> {
    let all = merge::inputs(dirs)?;
    all.iter().map(|(&layer, dirs)| merge::merge(dirs, layer)).collect()
}

/// |merged − whole| for every entry, as a part of what rounding allows. With u = 2⁻²⁴:
/// a shard's file rounds c_s = T_s / n_s once, which moves the sum of n_s c_s by Σ u n_s |c_s|;
/// the merged file and the whole one's round once more, by u |c| each. Before that, blocks of 512
/// products are summed in the model's type, with unit u', in other company: each side is off by at
/// most 512 u' Σ |k_i k_j|, and Σ |k_i k_j| ≤ n √(c_ii c_jj).
fn off(merged: &Moment, whole: &Moment, shards: &[Moment], unit: f64) -> f64 {
    let (f, u, n) = (whole.f, 2f64.powi(-24), whole.tokens as f64);
    let at = |m: &Moment, i: usize, j: usize| f64::from(m.second_moment[i * f + j]);
    let mut worst = 0.0f64;
    for i in 0..f {
        for j in 0..f {
            let terms = shards.iter().map(|s| s.tokens as f64 * at(s, i, j).abs()).sum::<f64>() / n;
            let files = terms + at(merged, i, j).abs() + at(whole, i, j).abs();
            let length = (at(whole, i, i) * at(whole, j, j)).sqrt();
            // Second orders are below 4 u of the first.
            let bound = (1.0 + 4.0 * u) * (u * files + 2.0 * gram::TOKENS as f64 * unit * length);
            let gap = (at(merged, i, j) - at(whole, i, j)).abs();
            assert!(gap <= bound, "({i}, {j}): {gap:e} > {bound:e}");
            if bound > 0.0 {
                worst = worst.max(gap / bound);
            }
        }
    }
    worst
}

#[test]
fn shards_add_up_to_the_whole() {
    let mut toy = toy();
    for (precision, unit) in [(Precision::F32, 2f64.powi(-24)), (Precision::F64, 2f64.powi(-53))] {
        toy.model = toy.golden.model(precision);
        // 1,234 cuts a window in two.
        for (n, limit) in [(1, 1234), (2, 1234), (2, u64::MAX), (7, u64::MAX)] {
            let at = tempfile::tempdir().unwrap();
            let whole = toy.share(None, &at.path().join("whole"), limit, &Quiet).unwrap();
            let which: Vec<u64> = (0..n).rev().collect();
            let dirs = shards(&toy, at.path(), &which, n, limit);
            for (all, whole) in merged(&dirs).unwrap().iter().zip(&whole) {
                let open = |dir: &PathBuf| Moment::open(dir, whole.layer).unwrap();
                let parts: Vec<Moment> = dirs.iter().map(open).collect();
                assert_eq!(all.tokens, whole.tokens);
                assert_eq!((&all.origin, all.part), (&whole.origin, None));
                assert!(
                    parts.iter().all(|p| p.part.is_some_and(|p| p.total_tokens == whole.tokens))
                );
                assert_eq!(parts.iter().map(|p| p.tokens).sum::<u64>(), whole.tokens);
                assert!(n == 1 || parts.iter().all(|p| p.tokens * n < 2 * whole.tokens), "even");
                let off = off(all, whole, &parts, unit);
                println!("{precision:?}, {n} shards, layer {}: {off:.2} allowed", whole.layer);
            }
        }
    }
}

#[test]
fn an_interrupted_shard_goes_on_to_the_same_bits_and_no_other_does() {
    let (toy, at) = (toy(), tempfile::tempdir().unwrap());
    let run = |i: u64, dir: &str, progress: &dyn incise::base::Progress| {
        toy.share(Some(Share::new(i, 3).unwrap()), &at.path().join(dir), u64::MAX, progress)
    };
    let whole = run(1, "whole", &Quiet).unwrap();
    for _ in 0..2 {
        let cut = run(1, "cut", &CancelAt::question(1));
        assert!(matches!(cut, Err(Error::Interrupted { .. })));
    }
    for share in [Some(Share::new(2, 3).unwrap()), Some(Share::new(1, 2).unwrap()), None] {
        let other = toy.share(share, &at.path().join("cut"), u64::MAX, &Quiet);
        let error = other.unwrap_err().to_string();
        assert!(error.contains("corpus, shard or choice of layers"), "{error}");
    }
    assert_eq!(run(1, "cut", &Quiet).unwrap(), whole);
}

#[test]
fn shards_are_merged_all_or_not_at_all() {
    let (toy, at) = (toy(), tempfile::tempdir().unwrap());
    let dirs = shards(&toy, at.path(), &[0, 1, 2], 3, 1500);
    let merge = |dirs: &[&PathBuf]| {
        let dirs: Vec<PathBuf> = dirs.iter().map(|&dir| dir.clone()).collect();
        merged(&dirs).unwrap_err()
    };
    let refused = |dirs: &[&PathBuf]| merge(dirs).to_string();
    let error = refused(&[&dirs[0], &dirs[2]]);
    assert!(error.contains("layer 0: shard 1/3 of the text") && error.contains("is missing"));
    let settings = merge(&[&dirs[0], &dirs[2]]).remedy().unwrap().settings;
    assert_eq!((&settings[0].name[..], settings[0].value.as_deref()), ("shard", Some("1/3")));
    let error = refused(&[&dirs[0], &dirs[1], &dirs[2], &dirs[1]]);
    assert!(error.contains("1-of-3/layer-0.safetensors: shard: 1/3 of the text"), "{error}");
    assert!(error.contains("would count twice"), "{error}");
    let half = &shards(&toy, at.path(), &[1], 2, 1500)[0];
    assert!(refused(&[&dirs[0], half]).contains("shard: is 1/2, and 0/3 before"));
    let longer = &shards(&toy, &at.path().join("longer"), &[1], 3, 2000)[0];
    let error = refused(&[&dirs[0], longer]);
    assert!(error.contains("shards_tokens: is 2000, and 1500 before"), "{error}");

    // What comes with the shards, whole: the same text is refused, another is added.
    let whole = at.path().join("whole");
    write_all(&toy.share(None, &whole, 1500, &Quiet).unwrap(), &whole).unwrap();
    for order in [[&whole, &dirs[0]], [&dirs[0], &whole]] {
        assert!(refused(&order).contains("corpus: the text"));
        assert!(refused(&order).contains("would count twice"));
    }
    for layer in [0, 1] {
        let mut other = Moment::open(&whole, layer).unwrap();
        other.origin.corpus = "another".into();
        other.write(&whole).unwrap();
    }
    let all = merged(&[&dirs[..], std::slice::from_ref(&whole)].concat()).unwrap();
    assert_eq!(all[1].tokens, 3000);
    assert!(all[1].origin.corpus.contains("+another"), "{}", all[1].origin.corpus);

    // A count that was tampered with.
    let mut short = Moment::open(&dirs[1], 0).unwrap();
    short.tokens += 1;
    short.write(&dirs[1]).unwrap();
    assert!(merged(&dirs).unwrap_err().to_string().contains("have 1501 tokens, not 1500"));
}

#[test]
fn a_shard_alone_is_no_statistics() {
    let (toy, at) = (toy(), tempfile::tempdir().unwrap());
    let dir = &shards(&toy, at.path(), &[0], 2, 1500)[0];
    let m = Moment::open(dir, 0).unwrap();
    assert_eq!(m.part, Some(Part { share: Share::new(0, 2).unwrap(), total_tokens: 1500 }));
    let error = Moment::read(dir, 0, m.f, &m.origin.model).unwrap_err();
    assert!(error.to_string().contains("layer-0.safetensors: shard: is shard 0/2"), "{error}");
    assert_eq!(error.remedy().unwrap().operation, Some(Operation::MergeStatistics));

    fs::write(toy.corpus.path(), "One.\nTwo.\n").unwrap();
    let share = Some(Share::new(2, 3).unwrap());
    let error = toy.share(share, &at.path().join("none"), u64::MAX, &Quiet).unwrap_err();
    let words = ["shard 2/3 gets none of the text's 2 sequences", "over 2 shards or fewer"];
    assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    fs::write(toy.corpus.path(), "\n").unwrap();
    let error = toy.share(share, &at.path().join("none"), u64::MAX, &Quiet).unwrap_err();
    assert!(error.to_string().contains("the corpus has no token"), "{error}");
}
