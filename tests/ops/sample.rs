//! The next token: the likeliest, the k likeliest, and one by chance.

use incise::gpu::launch::Elem;
use incise::gpu::{Array, Engine};
use incise::ops::cuda::sample as cuda;
use incise::ops::sample::{self, Sampling};
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::budget::U32;
use crate::support::toy::{Draw, Fill};
use crate::support::twin;

/// (case, [R, V], logits, their type: that of few digits has many equals).
const CASES: &[(&str, [usize; 2], Fill, Elem)] = &[
    ("no row", [0, 7], Fill::Normal, Elem::F32),
    ("one token", [2, 1], Fill::Normal, Elem::F32),
    ("few tokens", [2, 7], Fill::Wide(2.0), Elem::F32),
    ("all the same", [2, 129], Fill::Constant, Elem::F32),
    ("wider than a block", [3, 1031], Fill::Wide(3.0), Elem::F32),
    ("many equals", [3, 1031], Fill::Wide(2.0), Elem::BF16),
    ("GPT-2 small", [1, 50_257], Fill::Wide(3.0), Elem::BF16),
];

const fn rule(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
    Sampling { temperature: temperature as f64, top_k, top_p: top_p as f64 }
}
const RULES: [Sampling; 6] = [
    rule(1.0, 0, 1.0),
    rule(0.7, 5, 1.0),
    rule(1.0, 0, 0.9),
    rule(1.3, 40, 0.5),
    rule(2.0, 2000, 0.99),
    rule(1.0, 0, 0.0),
];

/// Threads of a block.
const THREADS: usize = incise::gpu::kernels::sample::THREADS;

fn logits(draw: &mut Draw, [r, v]: [usize; 2], fill: Fill, elem: Elem) -> Vec<f64> {
    let mut z = twin::rounded(elem, &draw.fill(fill, r * v));
    // Zeros of both signs, which are equal as numbers and not in the order.
    (0..r * v).step_by(5).skip(1).for_each(|i| z[i] = if i % 2 == 0 { 0.0 } else { -0.0 });
    z
}

fn single(z: &[f64]) -> Vec<f32> {
    z.iter().map(|&z| z as f32).collect()
}

/// The tokens that a computation in f32 may choose, in order: those that the formula gives for
/// sums S that are off by as much as rounding allows.
///
/// ```text
/// w = exp(a), a = (z − max)/temperature: two roundings of a, and two units of the exponential
///                                                          |δw| ≤ (2|a| + 4) u w
/// S adds up to `terms` numbers one after another           |δS| ≤ Σ|δw| + terms·u·S = E
/// kept ends where S ≥ top_p S(all), both sides off and a product rounded     2E + 2u S(all)
/// id is where S > uniform S(kept), a number rounded up besides               2E + 3u S(all)
/// ```
fn admissible(z: &[f64], rule: Sampling, uniform: f64, terms: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..z.len() as u32).collect();
    let at = |id: u32| z[id as usize];
    order.sort_by(|&a, &b| at(b).total_cmp(&at(a)).then(a.cmp(&b)));
    order.truncate(if rule.top_k > 0 { rule.top_k } else { z.len() });
    let (mut s, mut sums, mut e) = (0.0, Vec::new(), 0.0);
    for &id in &order {
        let a = (at(id) - at(order[0])) / rule.temperature;
        s += a.exp();
        e += (2.0 * a.abs() + 4.0) * U32 * a.exp();
        sums.push(s);
    }
    // The last summand for the squares of u.
    e = (e + terms as f64 * U32 * s) * 1.001;
    let first = |reaches: &dyn Fn(f64) -> bool| {
        sums.iter().position(|&s| reaches(s)).unwrap_or(sums.len() - 1)
    };
    let [low, high] = [-1.0, 1.0].map(|sign| {
        let enough = rule.top_p * s + sign * (2.0 * e + 2.0 * U32 * s);
        let kept = if rule.top_p < 1.0 { first(&|s| s >= enough) } else { sums.len() - 1 };
        let target = uniform * sums[kept] + sign * (2.0 * e + 3.0 * U32 * s);
        first(&|s| s > target).min(kept)
    });
    order[low..=high].to_vec()
}

/// In f32 the definition chooses what the formula gives, but for rounding.
#[test]
fn definition_is_the_formula() {
    for (case, shape, fill, elem) in CASES {
        let mut draw = Draw::new(case, false);
        let z = logits(&mut draw, *shape, *fill, *elem);
        for z in z.chunks(shape[1]) {
            let z32 = single(z);
            let z: Vec<f64> = z32.iter().map(|&z| z.into()).collect();
            for rule in RULES {
                for _ in 0..8 {
                    let (uniform, mut id) = (draw.uniform() as f32, [0]);
                    sample::choose(&z32, shape[1], rule, &[uniform], &mut id);
                    let among = admissible(&z, rule, uniform.into(), shape[1]);
                    assert!(among.contains(&id[0]), "{case} {rule:?} {uniform}: {among:?}");
                }
            }
        }
    }
}

/// The token a model goes on with, on the host and on a device.
#[test]
fn the_next_token() {
    let mut computes: Vec<Compute> = vec![Precision::F32.into()];
    computes.extend(twin::engine("ops::sample::the_next_token").map(Compute::from));
    for compute in &computes {
        let z = |z: &[f64]| Tensor::of(compute, &[1, z.len()], z);
        let by = |temperature| Sampling { temperature, ..Sampling::GREEDY };
        let (likely, nan) = (z(&[0.5, 2.0, -1.0, 2.0]), z(&[0.5, f64::NAN, 1.0]));
        assert_eq!(sample::next(&likely, by(0.0), 0.0), Some(1), "the lower id: {compute:?}");
        assert_eq!(sample::next(&likely, by(1.0), 0.0), Some(1), "{compute:?}");
        assert_eq!(sample::next(&likely, by(1.0), 1.0 - U32 / 4.0), Some(2), "{compute:?}");
        for temperature in [0.0, 1.0] {
            assert_eq!(sample::next(&nan, by(temperature), 0.5), None, "{compute:?}");
        }
    }
}

/// All of a row in order, by sorting; ids of equals rise.
#[test]
fn top_is_a_sorted_row() {
    for (case, [r, v], fill, elem) in CASES {
        let z = single(&logits(&mut Draw::new(case, true), [*r, *v], *fill, *elem));
        let (mut values, mut ids) = (vec![f32::NAN; r * v], vec![0; r * v]);
        sample::top(&z, *v, *v, &mut values, &mut ids);
        for ((z, values), ids) in z.chunks(*v).zip(values.chunks(*v)).zip(ids.chunks(*v)) {
            let mut seen: Vec<u32> = ids.to_vec();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..*v as u32), "{case}: every token once");
            assert!(ids.iter().zip(values).all(|(&id, x)| z[id as usize].to_bits() == x.to_bits()));
            let falls = |i: &usize| match values[i - 1].total_cmp(&values[*i]) {
                std::cmp::Ordering::Equal => ids[i - 1] < ids[*i],
                than => than.is_gt(),
            };
            assert!((1..*v).all(|i| falls(&i)), "{case}: in order");
        }
    }
}

fn ids(array: &Array) -> Vec<i32> {
    twin::down(array).into_iter().map(|id| id as i32).collect()
}

fn choose(engine: &Engine, z: &Array, rule: Sampling, uniform: &[f64]) -> Vec<i32> {
    let mut chosen = engine.array(Elem::I32, uniform.len()).unwrap();
    cuda::choose(engine, z, rule, &twin::up(engine, Elem::F32, uniform), &mut chosen);
    ids(&chosen)
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::sample::kernels") else { return };
    for &(case, [r, v], fill, elem) in CASES {
        let mut draw = Draw::new(case, true);
        let z = logits(&mut draw, [r, v], fill, elem);
        let mut uniform: Vec<f64> =
            (0..r).map(|_| f64::from((draw.uniform() * 0.999) as f32)).collect();
        uniform.iter_mut().take(1).for_each(|u| *u = 0.0);
        uniform.iter_mut().skip(2).for_each(|u| *u = 1.0 - U32);
        let mut chosen_first: Vec<(Sampling, Vec<i32>)> = Vec::new();
        for (i, (name, engine)) in engines.iter().enumerate() {
            // All of it in one order; in others, and under sanitizers, what goes through every
            // line. A thread of ThreadSanitizer's costs as much as several of ours.
            let most = if name.contains("thread") { 200 } else { 2000 };
            if i > 0 && v > most {
                continue;
            }
            let (ks, rules) =
                if i == 0 { (&[1, 5, 64][..], &RULES[..]) } else { (&[5][..], &RULES[3..4]) };
            let on = format!("{case} on {name}");
            let at = twin::up(engine, Elem::F32, &z);
            for k in ks.iter().map(|&k: &usize| k.min(v)) {
                let (mut values, mut want) = (vec![0.0; r * k], vec![0; r * k]);
                sample::top(&z, v, k, &mut values, &mut want);
                let mut out = [Elem::F32, Elem::I32].map(|e| engine.array(e, r * k).unwrap());
                let [got, first] = &mut out;
                cuda::top(engine, &at, k, got, first);
                assert!(ids(first).into_iter().eq(want.iter().map(|&id| id as i32)), "{on}, {k}");
                let bits = |x: &f64| x.to_bits();
                assert!(twin::down(got).iter().map(bits).eq(values.iter().map(bits)), "{on}, {k}");
            }
            for &rule in rules {
                let chosen = choose(engine, &at, rule, &uniform);
                if i == 0 {
                    chosen_first.push((rule, chosen.clone()));
                }
                assert!(chosen_first.contains(&(rule, chosen.clone())), "{on} {rule:?}: others");
                for ((id, z), &uniform) in chosen.iter().zip(z.chunks(v)).zip(&uniform) {
                    // A thread's own sum, and that over warps and lanes.
                    let terms = v.div_ceil(THREADS) + 10;
                    let among = admissible(z, rule, uniform, terms);
                    assert!(among.contains(&(*id as u32)), "{on} {rule:?}: {id}, not {among:?}");
                }
            }
        }
    }
}

/// −∞ is a token that is never chosen; anything else that is not finite leaves no token.
#[test]
fn kernels_beyond_numbers() {
    let Some(engines) = twin::engines("ops::sample::kernels_beyond_numbers") else { return };
    let negative = -f64::NAN;
    for (odd, want) in [(f64::NEG_INFINITY, 2), (f64::INFINITY, -1), (f64::NAN, -1), (negative, -1)]
    {
        let (_, engine) = &engines[0];
        let z = twin::up(engine, Elem::F32, &[odd, odd, 0.5, odd]);
        for rule in RULES {
            assert_eq!(choose(engine, &z, rule, &[0.75]), [want], "{odd} {rule:?}");
        }
    }
}
