//! What the closed forms of MEMIT's family promise, on drawn keys.

use std::sync::Arc;

use faer::Mat;
use incise::base::Rng;
use incise::edit::methods::emmet::Emmet;
use incise::edit::methods::memit::Memit;
use incise::edit::methods::pmet::Pmet;
use incise::edit::solve::layers::ClosedForm;
use incise::edit::state::LayerTensors;
use incise::linalg::least_squares::{Solution, on_host};
use incise::linalg::vector::dot;
use incise::stats::{Covariance, Input, Moment, Origin};

/// C of drawn text, keys K (F, N) and residuals R (D, N).
fn drawn(case: &str, [f, n, d]: [usize; 3]) -> (Arc<Moment>, Mat<f64>, Mat<f64>) {
    let mut rng = Rng::new(1, case);
    let mut draw = |rows: usize, cols: usize| Mat::from_fn(rows, cols, |_, _| rng.normal());
    let (keys, k, r) = (draw(f, 4 * f), draw(f, n), draw(d, n));
    let c = &keys * keys.transpose();
    let second_moment =
        (0..f * f).map(|at| (c[(at / f, at % f)] / (4 * f) as f64) as f32).collect();
    let origin =
        Origin { model: String::new(), corpus: String::new(), context_length: 0, normed: false };
    let (input, tokens) = (Input::Key, 4 * f as u64);
    let moment = Moment { layer: 0, input, f, tokens, second_moment, origin, part: None };
    (Arc::new(moment), k, r)
}

/// Δ (D, F) of a method.
fn delta(method: &dyn ClosedForm, k: &Mat<f64>, r: &Mat<f64>) -> Mat<f64> {
    match method.change(0, k, r, &on_host).unwrap().0 {
        Solution::Right(x) => r * x.transpose(),
        Solution::Whole(transposed) => transposed.transpose().to_owned(),
    }
}

fn gap(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (a - b).norm_l2() / b.norm_l2()
}

/// MEMIT goes to least squares as λ goes to 0: with fewer facts than keys, ΔK = R. What is left is
/// of the order of λ.
#[test]
fn memit_goes_to_least_squares() {
    let (moment, k, r) = drawn("least squares", [40, 9, 12]);
    let moments = |_| Ok(moment.clone());
    let off = |mom2_update_weight: f64| {
        let memit = Memit {
            moments: &moments,
            mom2_update_weight,
            update_norm_lambda: 0.0,
            past: LayerTensors::new(),
        };
        gap(&(delta(&memit, &k, &r) * &k), &r)
    };
    let [coarse, fine] = [1e-2, 1e-4].map(off);
    assert!(fine < 1e-3 && (50.0..200.0).contains(&(coarse / fine)), "{coarse:e}, {fine:e}");
}

/// EMMET without slack and with one fact is R-ROME's formula, whatever λ is.
#[test]
fn emmet_of_one_fact_is_r_rome() {
    let (moment, k, r) = drawn("one fact", [40, 1, 12]);
    let moments = |_| Ok(moment.clone());
    let memit = Memit {
        moments: &moments,
        mom2_update_weight: 7.0,
        update_norm_lambda: 0.0,
        past: LayerTensors::new(),
    };
    let emmet = Emmet { memit, emmet_lambda: 0.0 };
    let key: Vec<f64> = k.col(0).iter().copied().collect();
    let ck = Covariance::of(&moment).unwrap().solve(&key);
    let along = dot(&key, &ck);
    let want = Mat::from_fn(12, 40, |i, j| r[(i, 0)] * ck[j] / along);
    assert!(gap(&delta(&emmet, &k, &r), &want) < 1e-10);
}

/// EMMET with slack is MEMIT with ε times the prior, and PMET is MEMIT but for the root.
#[test]
fn the_family_is_one() {
    let (moment, k, r) = drawn("one family", [40, 9, 12]);
    let moments = |_| Ok(moment.clone());
    let memit = |mom2_update_weight: f64| Memit {
        moments: &moments,
        mom2_update_weight,
        update_norm_lambda: 0.0,
        past: LayerTensors::new(),
    };
    let emmet = Emmet { memit: memit(5.0), emmet_lambda: 0.1 };
    assert!(gap(&delta(&emmet, &k, &r), &delta(&memit(0.5), &k, &r)) < 1e-10);
    let pmet = Pmet(memit(5.0));
    assert_eq!(gap(&delta(&pmet, &k, &r), &delta(&memit(5.0), &k, &r)), 0.0);
    for left in 1..6 {
        assert!((pmet.share(left).powi(2) - memit(5.0).share(left)).abs() < 1e-15);
    }
}
