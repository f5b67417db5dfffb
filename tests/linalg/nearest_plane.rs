//! The nearest plane against GPTQ and least squares written out, and what keys in the metric do.

use std::sync::Mutex;

use faer::Mat;
use incise::base::Rng;
use incise::linalg::Cholesky;
use incise::linalg::metric::{energy, lengths_at, with_keys, with_soft_keys};
use incise::linalg::nearest_plane::{CodeGrid, NearestPlane, Rounded};

use super::{draw, gauss, off, second_moment};
use crate::support::budget::on_one_and_two;

/// Whole multiples of a step that each column has for itself, within two ends.
struct Steps {
    step: Vec<f64>,
    ends: [i16; 2],
}

impl CodeGrid for Steps {
    fn nearest(&self, _: usize, column: usize, x: f64) -> i16 {
        let [low, high] = self.ends.map(f64::from);
        (x / self.step[column]).round().clamp(low, high) as i16
    }

    fn value(&self, _: usize, column: usize, code: i16) -> f64 {
        self.step[column] * f64::from(code)
    }
}

/// A matrix (D, F), a grid of about three bits, and a metric.
struct Case {
    wanted: Vec<f64>,
    grid: Steps,
    h: Mat<f64>,
    sizes: [usize; 2],
}

impl Case {
    fn new(name: &str, [d, f]: [usize; 2]) -> Case {
        let mut rng = Rng::new(11, name);
        let wanted = (0..d * f).map(|_| rng.normal()).collect();
        let step = (0..f).map(|_| 0.3 + 0.3 * rng.uniform()).collect();
        let h = second_moment(&mut rng, f);
        Case { wanted, grid: Steps { step, ends: [-4, 3] }, h, sizes: [d, f] }
    }

    fn round(&self) -> Rounded {
        NearestPlane::of(&self.h).unwrap().round(&self.wanted, &self.grid)
    }
}

fn bits(x: &[f64]) -> Vec<u64> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The codes of GPTQ as its paper has it: the error of a column, over its entry in the inverse of H
/// over the columns that are left, goes to those columns, and the inverse loses the column.
fn gptq(case: &Case, order: &[usize]) -> Vec<i16> {
    let [d, f] = case.sizes;
    let mut inverse = gauss(case.h.clone(), Mat::identity(f, f));
    let mut w = case.wanted.clone();
    let mut codes = vec![0; d * f];
    for (done, &i) in order.iter().rev().enumerate() {
        let left = &order[..f - 1 - done];
        for row in 0..d {
            let code = case.grid.nearest(row, i, w[row * f + i]);
            codes[row * f + i] = code;
            let error = (w[row * f + i] - case.grid.value(row, i, code)) / inverse[(i, i)];
            left.iter().for_each(|&j| w[row * f + j] -= error * inverse[(i, j)]);
        }
        let pivot = inverse[(i, i)];
        let column: Vec<f64> = (0..f).map(|j| inverse[(j, i)]).collect();
        for &j in left {
            left.iter().for_each(|&l| inverse[(j, l)] -= column[j] * column[l] / pivot);
        }
    }
    codes
}

/// Over several blocks, the last of them small.
#[test]
fn the_codes_are_those_of_gptq() {
    for (name, sizes) in [("small", [5, 24]), ("blocks", [7, 150]), ("one column", [3, 1])] {
        let case = Case::new(name, sizes);
        let plane = NearestPlane::of(&case.h).unwrap();
        let got = case.round();
        assert_eq!(got.codes, gptq(&case, plane.order()), "{name}");
        let f = sizes[1];
        let plain = got
            .codes
            .iter()
            .enumerate()
            .filter(|(i, code)| case.grid.nearest(0, i % f, case.wanted[*i]) == **code);
        let plain = plain.count();
        assert!(f == 1 || plain < got.codes.len(), "{name}: no code differs from plain rounding");
        for (i, &code) in got.codes.iter().enumerate() {
            let error = case.grid.value(0, i % f, code) - case.wanted[i];
            assert_eq!(got.error[i].to_bits(), error.to_bits(), "{name}: error {i}");
        }
    }
}

/// A grid that notes which x it was asked about.
struct Asked<'a> {
    of: &'a Steps,
    x: Mutex<Vec<f64>>,
    columns: usize,
}

impl CodeGrid for Asked<'_> {
    fn nearest(&self, row: usize, column: usize, x: f64) -> i16 {
        self.x.lock().unwrap()[row * self.columns + column] = x;
        self.of.nearest(row, column, x)
    }

    fn value(&self, row: usize, column: usize, code: i16) -> f64 {
        self.of.value(row, column, code)
    }
}

/// Where an element is asked for, it lies in the optimum of all columns that are free: with S those
/// that are rounded, e_T = −H_TT⁻¹ H_TS e_S. Both sides are solves of condition κ(H), which the
/// construction keeps near 10: each loses at most κ·F² roundings of numbers of size 1.
#[test]
fn free_columns_lie_in_the_constrained_optimum() {
    let case = Case::new("constrained", [3, 90]);
    let [d, f] = case.sizes;
    let plane = NearestPlane::of(&case.h).unwrap();
    let asked = Asked { of: &case.grid, x: Mutex::new(vec![0.0; d * f]), columns: f };
    let got = plane.round(&case.wanted, &asked);
    let asked = asked.x.into_inner().unwrap();
    let bound = 2.0 * 10.0 * (f * f) as f64 * f64::EPSILON;
    for free in [1, 20, 64, 89] {
        let (t, s) = plane.order().split_at(free);
        let h_tt = Mat::from_fn(t.len(), t.len(), |i, j| case.h[(t[i], t[j])]);
        let h_ts = Mat::from_fn(t.len(), s.len(), |i, j| case.h[(t[i], s[j])]);
        let e_s = Mat::from_fn(s.len(), d, |i, row| got.error[row * f + s[i]]);
        let e_t = gauss(h_tt, &h_ts * e_s);
        let i = t[free - 1]; // the next
        for row in 0..d {
            let want = case.wanted[row * f + i] - e_t[(free - 1, row)];
            let gap = (asked[row * f + i] - want).abs();
            assert!(gap <= bound, "{free} free, row {row}: off by {gap:e}, may be {bound:e}");
        }
    }
}

#[test]
fn a_diagonal_metric_is_plain_rounding() {
    let mut case = Case::new("diagonal", [6, 70]);
    let diagonal: Vec<f64> = (0..70).map(|i| case.h[(i, i)]).collect();
    case.h = Mat::from_fn(70, 70, |i, j| if i == j { diagonal[i] } else { 0.0 });
    let got = case.round();
    for (i, &code) in got.codes.iter().enumerate() {
        assert_eq!(code, case.grid.nearest(0, i % 70, case.wanted[i]));
    }
}

/// What lies on the grid stays, without an error.
#[test]
fn values_of_the_grid_stay() {
    let mut case = Case::new("stays", [6, 130]);
    let mut rng = Rng::new(12, "codes");
    let codes: Vec<i16> = (0..6 * 130).map(|_| (rng.uniform() * 8.0) as i16 - 4).collect();
    let value = |(i, &code): (usize, &i16)| case.grid.value(0, i % 130, code);
    case.wanted = codes.iter().enumerate().map(value).collect();
    let got = case.round();
    assert_eq!(got.codes, codes);
    assert!(got.error.iter().all(|&e| e == 0.0));
}

/// A C that is not positive definite has no factor.
#[test]
fn an_indefinite_metric() {
    let h = Mat::from_fn(4, 4, |i, j| if i == j && i != 2 { 1.0 } else { 0.0 });
    assert!(NearestPlane::of(&h).is_none());
    assert!(with_keys(h, &Mat::from_fn(4, 1, |_, _| 1.0), 0.5).is_none());
}

/// H as a whole, of its lower triangle.
fn whole(h: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(h.nrows(), h.nrows(), |i, j| h[(i.max(j), i.min(j))])
}

/// H⁻¹K = τ²C⁻¹K; H is the same for another basis of the span, for keys of other lengths and for
/// keys given twice; and without keys it is C.
#[test]
fn the_metric_depends_on_the_span_of_the_keys() {
    let (f, n, tau) = (40, 6, 1.0 / 30.0);
    let mut rng = Rng::new(13, "span");
    let (c, k) = (second_moment(&mut rng, f), draw(&mut rng, f, n));
    let h = whole(&with_keys(c.clone(), &k, tau).unwrap());
    let want = gauss(c.clone(), k.clone()) * faer::Scale(tau * tau);
    // κ(H) ≤ κ(C)/τ², about 10⁴.
    let bound = 1e4 * (f * f) as f64 * f64::EPSILON;
    assert!(off(&gauss(h.clone(), k.clone()), &want) <= bound);
    let turned = &k * draw(&mut rng, n, n);
    let long = Mat::from_fn(f, n, |i, j| k[(i, j)] * 10f64.powi(j as i32 - 3));
    let twice = Mat::from_fn(f, 2 * n + 1, |i, j| if j < 2 * n { k[(i, j % n)] } else { 0.0 });
    for (name, other) in [("turned", turned), ("long", long), ("twice", twice)] {
        let other = whole(&with_keys(c.clone(), &other, tau).unwrap());
        assert!(off(&other, &h) <= bound, "{name}: off by {:e}", off(&other, &h));
    }
    assert_eq!(with_keys(c.clone(), &Mat::zeros(f, 0), tau).unwrap(), c);
    let soft = whole(&with_soft_keys(c.clone(), &k).unwrap());
    let more = &soft - whole(&c);
    assert!((energy(&[1.0; 40], &more) > 0.0) && off(&soft, &h) > 0.1);
}

/// Where no end of a grid is met, U e is spread evenly over a box of sides q·U_ii, so that
/// E[(e·k)²] = q²/12 ‖diag(U_ii) U⁻ᵀk‖². Over D rows the mean of the squares has a spread of
/// √(2/D); five of them are allowed.
///
/// Were all directions alike, keys would have their share of tr(E H Eᵀ) = q²/12 Σ U_ii², and an
/// error there counts τ⁻¹ with keys in the metric: they lose τ·√(Σ U_ii² of H / Σ U_ii² of C) of
/// what they lost without. That holds to a factor of two here.
#[test]
fn keys_lose_about_tau_of_what_they_lost() {
    let (d, f, n, tau) = (800, 60, 4, 1.0 / 30.0);
    let mut rng = Rng::new(14, "keys");
    let (c, k) = (second_moment(&mut rng, f), draw(&mut rng, f, n));
    let wanted: Vec<f64> = (0..d * f).map(|_| rng.normal()).collect();
    let grid = Steps { step: vec![0.4; f], ends: [-1000, 1000] };
    let (mut predicted, mut pivots) = (Vec::new(), Vec::new());
    let empty = Mat::zeros(f, 0);
    for keys in [&empty, &k] {
        let h = with_keys(c.clone(), keys, tau).unwrap();
        let plane = NearestPlane::of(&h).unwrap();
        let lengths = lengths_at(&plane.round(&wanted, &grid).error, &k);
        let order = plane.order();
        let ordered = Mat::from_fn(f, f, |i, j| whole(&h)[(order[i], order[j])]);
        let factor = Cholesky::of(ordered).unwrap();
        let mut sum = 0.0;
        for j in 0..n {
            // U⁻ᵀk = L⁻¹k, from the first row to the last.
            let mut x = vec![0.0; f];
            for i in 0..f {
                let known: f64 = (0..i).map(|l| factor.lower()[(i, l)] * x[l]).sum();
                x[i] = (k[(order[i], j)] - known) / plane.pivot(i);
            }
            let spread = (0..f).map(|i| (plane.pivot(i) * x[i]).powi(2)).sum::<f64>();
            let want = d as f64 * 0.4f64.powi(2) / 12.0 * spread;
            let ratio = lengths[j].powi(2) / want;
            let allowed = 5.0 * (2.0 / d as f64).sqrt();
            assert!((ratio - 1.0).abs() < allowed, "key {j} of {}: {ratio}", keys.ncols());
            sum += want;
        }
        predicted.push(sum.sqrt());
        pivots.push((0..f).map(|i| plane.pivot(i).powi(2)).sum::<f64>().sqrt());
    }
    let fell = predicted[1] / predicted[0];
    let want = tau * pivots[1] / pivots[0];
    assert!((want / 2.0..want * 2.0).contains(&fell), "{fell}, not about {want}");
}

#[test]
fn bits_do_not_depend_on_threads() {
    let case = Case::new("threads", [64, 300]);
    let k = draw(&mut Rng::new(15, "keys"), 300, 20);
    on_one_and_two("nearest plane", || {
        let h = with_keys(case.h.clone(), &k, 0.1).unwrap();
        let got = NearestPlane::of(&h).unwrap().round(&case.wanted, &case.grid);
        (got.codes, bits(&got.error))
    });
}
