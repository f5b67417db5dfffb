//! The fast search against the plain one.
//!
//! Both round in f64, and differ where they add in another order. How much that matters after some
//! steps of Adam the plain search tells itself: what it loses with a model in f32, it loses 2⁻²⁹
//! of in f64, for rounding errors are proportional to the unit roundoff. So
//!
//! ```text
//! |fast − plain| ≤ 2⁻²⁹ (3 max|plain with f32 − plain| + 2 u max|plain|)            u = 2⁻²⁴
//! ```
//!
//! over all facts of a case, as in `support/budget.rs`.

use incise::base::Quiet;
use incise::edit::prompts::{FactRows, PromptRow};
use incise::edit::search::{
    LOSS_TOLERANCE, Push, Search, SearchFact, TargetValue, find_all, plain,
};
use incise::model::{At, Model, Site};
use incise::store::Fingerprint;
use incise::tensor::Precision;

use crate::support::budget::{U32, U64, off};
use crate::support::golden::Golden;
use crate::support::toy::Draw;

/// A search of several facts: which settings differ from [`settings`], and what it must show.
struct Case {
    name: &'static str,
    site: At,
    attention: bool,
    above: usize,
    clamp: f64,
    anneal_nll: bool,
    stops_early: bool,
}

const CASES: [Case; 7] = [
    Case {
        name: "ROME's value",
        site: At::VALUE,
        attention: false,
        above: 0,
        clamp: 4.0,
        anneal_nll: false,
        stops_early: false,
    },
    Case {
        name: "MEMIT's stream",
        site: At::Stream,
        attention: false,
        above: 0,
        clamp: 0.75,
        anneal_nll: false,
        stops_early: false,
    },
    Case {
        name: "PMET's value and attention",
        site: At::VALUE,
        attention: true,
        above: 0,
        clamp: 4.0,
        anneal_nll: true,
        stops_early: false,
    },
    Case {
        name: "on the ball",
        site: At::VALUE,
        attention: true,
        above: 0,
        clamp: 0.3,
        anneal_nll: false,
        stops_early: false,
    },
    Case {
        name: "an early stop",
        site: At::Stream,
        attention: false,
        above: 0,
        clamp: 20.0,
        anneal_nll: false,
        stops_early: true,
    },
    Case {
        name: "values of two layers",
        site: At::VALUE,
        attention: false,
        above: 1,
        clamp: 0.5,
        anneal_nll: false,
        stops_early: false,
    },
    Case {
        name: "streams of two layers",
        site: At::Stream,
        attention: false,
        above: 1,
        clamp: 4.0,
        anneal_nll: false,
        stops_early: false,
    },
];

const STEPS: usize = 8;

fn settings(case: &Case, model: &Model) -> Search {
    let site = Site { layer: 1 - case.above, at: case.site };
    Search {
        push: Push {
            site,
            attention: case.attention,
            above: case.above,
            loss_layer: model.arch.layers - 1,
        },
        steps: STEPS,
        lr: 0.5,
        weight_decay: 0.05,
        clamp: case.clamp,
        kl_factor: 0.0625,
        nll_factor: 0.75,
        anneal_nll: case.anneal_nll,
        early_stop: 0,
        loss_tolerance: LOSS_TOLERANCE,
    }
}

/// A loss that some facts are below in the middle of their searches, and others above.
fn tolerance(model: &Model, facts: &[FactRows], search: &Search) -> f64 {
    let found = plain(model, facts, search);
    let mut losses: Vec<f64> = found.iter().map(|value| value.trace[STEPS / 2].total()).collect();
    losses.sort_by(f64::total_cmp);
    let middle = losses.len() / 2;
    (losses[middle - 1] + losses[middle]) / 2.0
}

/// Facts of several lengths, two contexts of which all share.
fn facts(model: &Model) -> Vec<FactRows> {
    let mut draw = Draw::new("the plain search", false);
    let mut ids = |n: usize| -> Vec<u32> {
        (0..n).map(|_| draw.below(model.arch.vocabulary) as u32).collect()
    };
    let contexts = [ids(0), ids(4), ids(6)];
    let mut fact = |before: usize, after: usize, target: usize| {
        let prompt = ids(before + 1 + after);
        let target = ids(target);
        let end = &target[..target.len() - 1];
        let row = |context: &Vec<u32>| PromptRow {
            ids: [context, &prompt, end].concat(),
            lookup: context.len() + before,
        };
        let rewriting: Vec<PromptRow> = contexts.iter().map(row).collect();
        let kl = PromptRow { ids: ids(4), lookup: 1 };
        FactRows { keys: Vec::new(), rewriting, kl, target, merged: 0 }
    };
    vec![fact(2, 2, 1), fact(0, 3, 2), fact(3, 1, 3), fact(1, 1, 1), fact(2, 4, 2)]
}

fn fast(model: &Model, facts: &[FactRows], search: &Search) -> Vec<TargetValue> {
    let facts: Vec<SearchFact> = facts.iter().map(|rows| SearchFact { id: "", rows }).collect();
    let mut found = vec![None; facts.len()];
    find_all(model, &facts, search, u64::MAX, &Quiet, &mut |fact, value| {
        found[fact] = Some(value);
        Ok(())
    })
    .unwrap();
    found.into_iter().map(Option::unwrap).collect()
}

fn plain(model: &Model, facts: &[FactRows], search: &Search) -> Vec<TargetValue> {
    facts.iter().map(|rows| plain::find(model, rows, search).unwrap()).collect()
}

/// t₀, δ, δ_a and the losses of all facts.
fn numbers(found: &[TargetValue]) -> [Vec<f64>; 4] {
    let all = |of: fn(&TargetValue) -> &Vec<f64>| found.iter().flat_map(of).copied().collect();
    let losses = found.iter().flat_map(|value| &value.trace);
    let losses = losses.flat_map(|step| [step.nll, step.kl, step.weight_decay]).collect();
    [all(|value| &value.t0), all(|value| &value.delta), all(|v| &v.attention_delta), losses]
}

fn steps(found: &[TargetValue]) -> Vec<usize> {
    found.iter().map(|value| value.trace.len()).collect()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Sequential and parallel layers, one norm and two, before branches and behind them, caps, rotary
/// and learned positions, gates.
const MODELS: [&str; 6] = ["gpt2", "llama-tied", "gptj", "qwen3", "gemma2", "olmo2"];

fn each(case: &Case) -> Vec<TargetValue> {
    let mut all = Vec::new();
    for name in MODELS {
        let golden = Golden::open(name);
        let [single, double] = [Precision::F32, Precision::F64].map(|p| golden.model(p));
        let facts = facts(&double);
        let mut search = settings(case, &double);
        if case.attention && double.norm_behind(0).is_some() {
            continue; // PMET refuses such a model
        }
        if case.stops_early {
            search.loss_tolerance = tolerance(&double, &facts, &search);
        }
        let want = plain(&double, &facts, &search);
        let base = plain(&single, &facts, &search);
        let got = fast(&double, &facts, &search);
        let case = format!("{}, {name}", case.name);
        assert_eq!(steps(&got), steps(&want), "{case}: steps");
        assert_eq!(steps(&base), steps(&want), "{case}: steps of the measure");
        let missed = |found: &[TargetValue]| -> Vec<usize> {
            found.iter().flat_map(|value| value.trace.iter().map(|step| step.missed)).collect()
        };
        assert_eq!(missed(&got), missed(&want), "{case}: tokens that are not the likeliest");
        let [got, want_numbers, base] = [&got, &want, &base].map(|found| numbers(found));
        for (i, what) in ["t₀", "δ", "δ_a", "losses"].into_iter().enumerate() {
            let top = want_numbers[i].iter().fold(0.0f64, |a, x| a.max(x.abs()));
            let base = off(&base[i], &want_numbers[i]);
            let budget = U64 / U32 * (3.0 * base + 2.0 * U32 * top);
            let off = off(&got[i], &want_numbers[i]);
            println!("{case}: {what} off {off:.1e}, budget {budget:.1e}, largest {top:.2}");
            assert!(off <= budget, "{case}: {what} is off by {off:e} > {budget:e}");
            // A budget as wide as the numbers would let anything pass.
            assert!(top == 0.0 || budget < 1e-6 * top, "{case}: {budget:e} cannot judge {what}");
        }
        all.extend(want);
    }
    all
}

#[test]
fn the_fast_search_finds_what_the_plain_one_does() {
    for case in &CASES {
        let found = each(case);
        let steps = steps(&found);
        let lengths = |value: &TargetValue| norm(&value.delta) / norm(&value.t0);
        let on_ball = found.iter().filter(|v| (lengths(v) / case.clamp - 1.0).abs() < 1e-9).count();
        match case.name {
            "on the ball" => assert!(on_ball > 0, "no δ is clamped"),
            "an early stop" => {
                assert!(steps.iter().any(|&n| n < STEPS), "{steps:?}");
                assert!(steps.iter().any(|&n| n != steps[0]), "facts leave at different steps");
            }
            // But where a window keeps the subject from what is read.
            _ => {
                let moved = found.iter().filter(|v| norm(&v.delta) > 0.0).count();
                assert!(10 * moved >= 9 * found.len(), "{}", case.name)
            }
        }
        assert!(!case.attention || found.iter().all(|v| norm(&v.attention_delta) > 0.0));
    }
}

/// Every setting is in the digest.
#[test]
fn another_setting_is_another_digest() {
    let model = Golden::open("gpt2").model(Precision::F64);
    let one = settings(&CASES[0], &model);
    let changes: [fn(&mut Search); 14] = [
        |s| s.push.site.layer = 0,
        |s| s.push.site.at = At::Stream,
        |s| s.push.attention = true,
        |s| s.push.above = 1,
        |s| s.push.loss_layer = 1,
        |s| s.steps = 9,
        |s| s.lr = 0.25,
        |s| s.weight_decay = 0.25,
        |s| s.clamp = 0.25,
        |s| s.kl_factor = 0.25,
        |s| s.nll_factor = 0.25,
        |s| s.anneal_nll = true,
        |s| s.early_stop = 1,
        |s| s.loss_tolerance = 0.25,
    ];
    let digest = |search: &Search| {
        let mut digest = Fingerprint::default();
        search.digest(&mut digest);
        digest.hex()
    };
    let mut seen = vec![digest(&one)];
    for change in changes {
        let mut other = one.clone();
        change(&mut other);
        seen.push(digest(&other));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1 + changes.len());
}
