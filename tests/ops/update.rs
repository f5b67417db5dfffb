//! `ops::update` against the sum written down once more, and rounding by search.

use std::ops::Range;

use half::{bf16, f16};
use incise::base::{DType, Rng};
use incise::model::change::term;
use incise::ops::update::{Stored, Sums, Term, Terms};
use incise::store::Delta;
use incise::tensor::{Layout, Precision};

use crate::support::twin;

const LAYOUTS: [Layout; 2] = [Layout::OutIn, Layout::InOut];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// On the host.
fn update(
    original: &[u8],
    w: Stored,
    rows: Range<usize>,
    terms: &[&Delta],
    new: &mut [u8],
) -> Sums {
    Terms::new(&Precision::F32.into(), w, all(terms)).add(original, rows, new)
}

fn all<'a>(kinds: &[&'a Delta]) -> Vec<Term<'a>> {
    kinds.iter().map(|kind| term(kind)).collect()
}

/// The value an element's bytes hold.
fn value(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        DType::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
        DType::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
    }
}

/// The bytes of the element nearest to `v`, the even one of two: tried around a guess.
pub fn nearest(dtype: DType, v: f64) -> Vec<u8> {
    let near = |guess: u32| [guess.saturating_sub(1), guess, guess + 1];
    let bytes = |bits: u32| bits.to_le_bytes()[..dtype.size()].to_vec();
    let guess = match dtype {
        DType::F32 => (v as f32).to_bits(),
        DType::F16 => f16::from_f32(v as f32).to_bits().into(),
        DType::BF16 => bf16::from_f32(v as f32).to_bits().into(),
    };
    let key = |bits: &u32| ((value(dtype, &bytes(*bits)) - v).abs(), bits & 1);
    let best = near(guess).into_iter().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap());
    bytes(best.unwrap())
}

/// Σ_p Δ_p at row o, column i, in the order the operation promises.
fn delta(terms: &[&Delta], inner: usize, o: usize, i: usize) -> f64 {
    let mut sum = 0.0;
    for term in terms {
        match term {
            Delta::LowRank { left, right, r } => {
                for k in 0..*r {
                    sum += f64::from(left[o * r + k]) * f64::from(right[i * r + k]);
                }
            }
            Delta::Dense(delta) => sum += f64::from(delta[o * inner + i]),
        }
    }
    sum
}

/// What the whole matrix becomes, element by element.
pub fn oracle(original: &[u8], w: Stored, terms: &[&Delta]) -> (Vec<u8>, Sums) {
    let (mut new, mut sums) = (Vec::new(), Sums::default());
    let [_, cols] = w.sides();
    for (n, old) in original.chunks_exact(w.dtype.size()).enumerate() {
        let (row, col) = (n / cols, n % cols);
        let (o, i) = if w.layout == Layout::OutIn { (row, col) } else { (col, row) };
        let (old, delta) = (value(w.dtype, old), delta(terms, w.inner, o, i));
        let rounded = nearest(w.dtype, old + delta);
        sums.weight += old * old;
        sums.wanted += delta * delta;
        sums.lost += (old + delta - value(w.dtype, &rounded)).powi(2);
        new.extend(rounded);
    }
    (new, sums)
}

/// Normal numbers times `scale`.
pub fn random(n: usize, scale: f64, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, "update");
    (0..n).map(|_| (rng.normal() * scale) as f32).collect()
}

pub fn low_rank(out: usize, inner: usize, r: usize, scale: f64, seed: u64) -> Delta {
    let left = random(out * r, scale, seed);
    Delta::LowRank { left, right: random(inner * r, 1.0, seed + 100), r }
}

fn weights(w: Stored) -> Vec<u8> {
    let mut bytes = Vec::new();
    let values = random(w.out * w.inner, 0.02, 9).into_iter().map(f64::from);
    w.dtype.narrow(&values.collect::<Vec<_>>(), &mut bytes);
    bytes
}

#[test]
fn every_type_and_layout_bit_for_bit() {
    let sizes = [("one element", 1, 1), ("narrower than a tile", 3, 7), ("a tile and one", 65, 33)];
    for (name, out, inner) in sizes.into_iter().chain([("several of both", 131, 97)]) {
        let r = out.min(inner).min(5);
        let terms = [
            &low_rank(out, inner, r, 1e-3, 1),
            &Delta::Dense(random(out * inner, 1e-3, 2)),
            &low_rank(out, inner, 1, 1e-3, 3),
        ];
        for (dtype, layout) in DTYPES.into_iter().flat_map(|t| LAYOUTS.map(|l| (t, l))) {
            let w = Stored { dtype, layout, out, inner };
            let original = weights(w);
            for terms in [&terms[..], &terms[1..2], &[]] {
                let (want, sums) = oracle(&original, w, terms);
                let mut got = vec![0; original.len()];
                let rows = w.sides()[0];
                let found = update(&original, w, 0..rows, terms, &mut got);
                assert!(got == want, "{name} {dtype:?} {layout:?}, {} terms", terms.len());
                // Sums of n ≤ 12,707 squares in another order: n units of f64 at most.
                for (got, want) in [
                    (found.weight, sums.weight),
                    (found.wanted, sums.wanted),
                    (found.lost, sums.lost),
                ] {
                    let n = (out * inner) as f64;
                    assert!((got - want).abs() <= n * f64::EPSILON * want, "{got} {want}");
                }
                assert_eq!(found.overflowed, 0);
                assert_eq!(terms.is_empty(), got == original);
            }
        }
    }
}

/// The kernel gives the same bytes, of all rows and of some, and sums that differ by their order.
#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::update::kernels") else { return };
    for (out, inner, r) in [(1, 1, 1), (3, 7, 3), (65, 33, 5), (64, 130, 35)] {
        let terms = [&low_rank(out, inner, r, 1e-3, 1), &low_rank(out, inner, 1, 1e-3, 2)];
        for (dtype, layout) in DTYPES.into_iter().flat_map(|t| LAYOUTS.map(|l| (t, l))) {
            let w = Stored { dtype, layout, out, inner };
            let (original, rows) = (weights(w), w.sides()[0]);
            for rows in [0..rows, rows / 2..rows - rows / 4] {
                let at = rows.start * w.row_bytes()..rows.end * w.row_bytes();
                let original = &original[at];
                let [mut want, mut got] = [(); 2].map(|()| vec![0; original.len()]);
                let sums = update(original, w, rows.clone(), &terms, &mut want);
                for (name, engine) in &engines {
                    let by = Terms::new(&engine.clone().into(), w, all(&terms));
                    let found = by.add(original, rows.clone(), &mut got);
                    assert!(got == want, "{out} × {inner} {dtype:?} {layout:?} on {name}");
                    for (got, want) in [
                        (found.weight, sums.weight),
                        (found.wanted, sums.wanted),
                        (found.lost, sums.lost),
                    ] {
                        let budget = (out * inner) as f64 * f64::EPSILON * want;
                        assert!((got - want).abs() <= budget, "{got} {want}");
                    }
                    assert_eq!(found.overflowed, 0);
                    assert!(engine.memory().peak > 0, "it was added there");
                }
            }
        }
    }
}

/// What a NaN holds stays, there and here.
#[test]
fn kernels_leave_nan_alone() {
    let Some(engine) = twin::engine("ops::update::kernels_leave_nan_alone") else { return };
    for (dtype, nan) in [
        (DType::F16, &0xfe2du16.to_le_bytes()[..]),
        (DType::BF16, &0x7f81u16.to_le_bytes()[..]),
        (DType::F32, &0xff80_0001u32.to_le_bytes()[..]),
    ] {
        let w = Stored { dtype, layout: Layout::OutIn, out: 1, inner: 3 };
        let one = nearest(dtype, 1.0);
        let original = [&one, nan, &one].concat();
        let want = [&nearest(dtype, 1.5), nan, &nearest(dtype, 1.5)].concat();
        let kind = Delta::LowRank { left: vec![0.5], right: vec![1.0; 3], r: 1 };
        for by in [engine.clone().into(), Precision::F32.into()] {
            let mut new = vec![0; original.len()];
            Terms::new(&by, w, vec![term(&kind)]).add(&original, 0..1, &mut new);
            assert_eq!(new, want, "{dtype:?}");
        }
    }
}

/// What does not fit the type is counted there too; a dense change is added on the host.
#[test]
fn kernels_count_what_does_not_fit() {
    let Some(engine) = twin::engine("ops::update::kernels_count_what_does_not_fit") else { return };
    let w = Stored { dtype: DType::F16, layout: Layout::OutIn, out: 2, inner: 2 };
    let factors = Delta::LowRank { left: vec![65_520.0, 1.0], right: vec![1.0, -20.0], r: 1 };
    let dense = Delta::Dense(vec![65_520.0, -65_520.0 * 20.0, 1.0, -20.0]);
    for kind in [factors, dense] {
        let terms = Terms::new(&engine.clone().into(), w, vec![term(&kind)]);
        let mut new = [0; 8];
        assert_eq!(terms.add(&[0; 8], 0..2, &mut new).overflowed, 2);
        assert_eq!(value(DType::F16, &new[6..]), -20.0);
    }
}

/// How a matrix is cut into rows does not show.
#[test]
fn some_rows() {
    for layout in LAYOUTS {
        let w = Stored { dtype: DType::BF16, layout, out: 130, inner: 150 };
        let (original, term) = (weights(w), low_rank(130, 150, 4, 1e-3, 1));
        let (want, _) = oracle(&original, w, &[&term]);
        let rows = 67..w.sides()[0] - 1;
        let at = rows.start * w.row_bytes()..rows.end * w.row_bytes();
        let mut got = vec![0; at.len()];
        update(&original[at.clone()], w, rows, &[&term], &mut got);
        assert!(got == want[at]);
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let w = Stored { dtype: DType::F16, layout: Layout::OutIn, out: 2, inner: 2 };
    let delta = Delta::Dense(vec![65_519.0, 65_520.0, -1e6, 0.0]);
    let sums = update(&[0; 8], w, 0..2, &[&delta], &mut [0; 8]);
    assert_eq!(sums.overflowed, 2);
}
