//! Δ = R Xᵀ by both routes, against a dense solve written out.

use faer::Mat;
use incise::base::Rng;
use incise::linalg::Cholesky;
use incise::linalg::eigen::{largest, symmetric};
use incise::linalg::least_squares::{Prior, Route, Solution, on_host, smallest_s, solve};

use super::{draw, gauss, off, second_moment};
use crate::support::budget::on_one_and_two;

/// Δ (D, F).
fn delta(change: &Solution, r: &Mat<f64>) -> Mat<f64> {
    match change {
        Solution::Right(x) => r * x.transpose(),
        Solution::Whole(transposed) => transposed.transpose().to_owned(),
    }
}

/// Both routes are the dense solve to 1e-8, in every order of F, n and D.
#[test]
fn both_routes_are_the_dense_solve() {
    for (case, [f, n, d], epsilon) in [
        ("few facts", [40, 7, 12], 1.0),
        ("more facts than outputs", [40, 30, 12], 1.0),
        ("more facts than keys", [24, 60, 12], 1.0),
        ("one fact", [24, 1, 12], 1.0),
        ("nearly equal", [40, 7, 12], 1e-3),
    ] {
        let mut rng = Rng::new(3, case);
        let (c, k, r) = (second_moment(&mut rng, f), draw(&mut rng, f, n), draw(&mut rng, d, n));
        let a = &c * faer::Scale(epsilon) + &k * k.transpose();
        let want = &r * gauss(a, k.clone()).transpose();
        let matrix = || c.clone();
        for route in [Route::Primal, Route::Dual] {
            let change = solve(&Prior::Matrix(&matrix), epsilon, &k, &r, route, &on_host).unwrap();
            let gap = off(&delta(&change, &r), &want);
            assert!(gap < 1e-8, "{case}, {route:?}: off by {gap:e}");
        }
        let identity = Mat::<f64>::identity(f, f);
        let a = &identity * faer::Scale(2.5 * epsilon) + &k * k.transpose();
        let want = &r * gauss(a, k.clone()).transpose();
        for route in [Route::Primal, Route::Dual] {
            let change = solve(&Prior::Scaled(2.5), epsilon, &k, &r, route, &on_host).unwrap();
            let gap = off(&delta(&change, &r), &want);
            assert!(gap < 1e-8, "{case}, scaled, {route:?}: off by {gap:e}");
        }
    }
}

/// At the width of a 0.5 B model, with twice as many facts as outputs: the normal equations hold
/// for the answer.
#[test]
fn two_thousand_keys() {
    let [f, n, d] = [2048, 512, 256];
    let mut rng = Rng::new(8, "two thousand");
    let (k, r) = (draw(&mut rng, f, n), draw(&mut rng, d, n));
    let near = |i: usize, j: usize| 1.0 / (1.0 + i.abs_diff(j) as f64).powi(2);
    let c = Mat::from_fn(f, f, |i, j| if i == j { 4.0 } else { near(i, j) });
    let matrix = || c.clone();
    let prior = Prior::Matrix(&matrix);
    for route in [Route::Primal, Route::Dual] {
        let change = solve(&prior, 1.0, &k, &r, route, &on_host).unwrap();
        let delta = delta(&change, &r);
        let left = &delta * &c + (&delta * &k) * k.transpose();
        let gap = off(&left, &(&r * k.transpose()));
        assert!(gap < 1e-10, "{route:?}: off by {gap:e}");
    }
}

/// ε = 0: every key gets its value, and what is orthogonal by M does not move.
#[test]
fn equality_is_met_exactly() {
    let (f, n, d) = (40, 9, 12);
    let mut rng = Rng::new(4, "equality");
    let (c, k, r) = (second_moment(&mut rng, f), draw(&mut rng, f, n), draw(&mut rng, d, n));
    let matrix = || c.clone();
    let prior = Prior::Matrix(&matrix);
    assert_eq!(Route::choose(&prior, 0.0, [f, n, d]), Route::Dual);
    let delta = delta(&solve(&prior, 0.0, &k, &r, Route::Dual, &on_host).unwrap(), &r);
    assert!(off(&(&delta * &k), &r) < 1e-10);
    // u with uᵀK = 0 in every column, then the key C u.
    let u = draw(&mut rng, f, 1);
    let across = gauss(k.transpose() * &k, k.transpose() * &u);
    let key = &c * (&u - &k * across);
    assert!((&delta * &key).norm_l2() < 1e-10 * delta.norm_l2() * key.norm_l2());
}

/// Two facts with one key cannot both be met; with ε > 0 they share.
#[test]
fn keys_that_depend_on_each_other() {
    let (f, n, d) = (24, 5, 8);
    let mut rng = Rng::new(5, "dependent");
    let (c, mut k, r) = (second_moment(&mut rng, f), draw(&mut rng, f, n), draw(&mut rng, d, n));
    (0..f).for_each(|i| k[(i, 4)] = 2.0 * k[(i, 1)] - k[(i, 3)]);
    let matrix = || c.clone();
    let prior = Prior::Matrix(&matrix);
    assert!(solve(&prior, 0.0, &k, &r, Route::Dual, &on_host).is_none());
    assert!(solve(&prior, 0.1, &k, &r, Route::Dual, &on_host).is_some());
}

#[test]
fn a_prior_that_is_not_positive_definite() {
    let (f, n, d) = (12, 3, 4);
    let mut rng = Rng::new(6, "indefinite");
    let (k, r) = (draw(&mut rng, f, n), draw(&mut rng, d, n));
    for bad in [0.0, -1.0, f64::NAN] {
        let matrix = || Mat::from_fn(f, f, |i, j| if i == j && i != 5 { 1.0 } else { 0.0 } * bad);
        for route in [Route::Primal, Route::Dual] {
            assert!(
                solve(&Prior::Matrix(&matrix), 1.0, &k, &r, route, &on_host).is_none(),
                "{bad}"
            );
        }
    }
}

/// The cheaper route, as counted in operations.
#[test]
fn the_route_is_the_cheaper_one() {
    let matrix = || Mat::zeros(0, 0);
    let prior = Prior::Matrix(&matrix);
    assert_eq!(Route::choose(&prior, 1.0, [16384, 10_000, 4096]), Route::Primal);
    assert_eq!(Route::choose(&prior, 1.0, [16384, 100, 4096]), Route::Dual);
    assert_eq!(Route::choose(&Prior::Scaled(1.0), 1.0, [16384, 1000, 4096]), Route::Dual);
}

/// At sizes where the library cuts work into pieces.
#[test]
fn bits_do_not_depend_on_threads() {
    let (f, n, d) = (700, 300, 64);
    let mut rng = Rng::new(7, "threads");
    let (k, r) = (draw(&mut rng, f, n), draw(&mut rng, d, n));
    let keys = draw(&mut rng, f, 2 * f);
    let c = &keys * keys.transpose();
    let bits = |m: &Mat<f64>| -> Vec<u64> {
        m.col_iter().flat_map(|c| c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect()
    };
    on_one_and_two("cholesky", || bits(&Cholesky::of(c.clone()).unwrap().solve(k.clone())));
    on_one_and_two("eigen", || {
        let (sigma, u) = symmetric(&c).unwrap();
        sigma.into_iter().map(f64::to_bits).chain(bits(&u)).collect::<Vec<u64>>()
    });
    let matrix = || c.clone();
    for route in [Route::Primal, Route::Dual] {
        on_one_and_two("key space", || {
            match solve(&Prior::Matrix(&matrix), 1.0, &k, &r, route, &on_host).unwrap() {
                Solution::Right(x) | Solution::Whole(x) => bits(&x),
            }
        });
    }
}

/// U diag(σ) Uᵀ is A, UᵀU is I, and σ ascends.
#[test]
fn eigenvalues_and_directions() {
    let f = 60;
    let mut rng = Rng::new(9, "eigen");
    let keys = draw(&mut rng, f, 2 * f);
    let a = &keys * keys.transpose();
    let (sigma, u) = symmetric(&a).unwrap();
    let scaled = Mat::from_fn(f, f, |i, j| u[(i, j)] * sigma[j]);
    assert!(off(&(&scaled * u.transpose()), &a) < 1e-13);
    assert!(off(&(u.transpose() * &u), &Mat::identity(f, f)) < 1e-13);
    assert!(sigma.is_sorted());
}

/// s of the change is the smallest eigenvalue of Kᵀ(εM)⁻¹K, which a dense solve gives too: to 1e-8
/// for few keys, where the method ends exactly; of many it is a bound from above within a tenth.
#[test]
fn the_smallest_s_is_that_of_the_system() {
    for (case, [f, n], epsilon, slack) in [
        ("few facts", [40, 7], 1.0, 1e-8),
        ("one fact", [24, 1], 1.0, 1e-8),
        ("little of it", [40, 12], 50.0, 1e-8),
        ("more than steps", [200, 120], 1.0, 0.1),
        ("a key twice", [40, 8], 1.0, 1e-8),
    ] {
        let mut rng = Rng::new(5, case);
        let (c, mut k) = (second_moment(&mut rng, f), draw(&mut rng, f, n));
        if case == "a key twice" {
            (0..f).for_each(|i| k[(i, 1)] = k[(i, 0)]);
        }
        let s = k.transpose() * gauss(&c * faer::Scale(epsilon), k.clone());
        let want = symmetric(&s).unwrap().0[0].max(0.0);
        let (matrix, r) = (|| c.clone(), draw(&mut rng, 12.max(n), n));
        let solved = solve(&Prior::Matrix(&matrix), epsilon, &k, &r, Route::Dual, &on_host);
        let Some(Solution::Right(x)) = solved else { panic!("{case}: no right factor") };
        let got = smallest_s(&k, &x).unwrap();
        let above = (got - want) / (1.0 + want);
        assert!(above > -1e-8 && above < slack, "{case}: {got} for {want}");
    }
}

/// The largest eigenvalue of a diagonal matrix, and of the zero matrix.
#[test]
fn the_largest_eigenvalue_by_products_alone() {
    let scaled = |sigma: &'static [f64]| {
        largest(sigma.len(), |x| x.iter().zip(sigma).map(|(x, s)| x * s).collect())
    };
    for (sigma, want) in [(&[1.0, 3.0, 2.0][..], 3.0), (&[-1.0, -3.0], -1.0), (&[0.0; 4], 0.0)] {
        assert!((scaled(sigma) - want).abs() < 1e-14, "{sigma:?}: {}", scaled(sigma));
    }
}
