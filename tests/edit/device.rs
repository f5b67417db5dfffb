//! Systems solved on a device, against the host.

use faer::Mat;
use incise::base::Rng;
use incise::edit::solve::device::with_solver;
use incise::linalg::least_squares::{Prior, Route, Solution, Solver, on_host, solve};
use incise::tensor::Compute;

use crate::support::twin;

fn draw(rng: &mut Rng, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| rng.normal())
}

/// Both solve one well-conditioned system in f64, each to some F·κ units of 2⁻⁵²; κ is about 10.
#[test]
fn a_device_solves_what_the_host_solves() {
    let Some(engine) = twin::engine("edit::device::a_device_solves") else { return };
    let mut rng = Rng::new(0, "means");
    let f = 70;
    let keys = draw(&mut rng, f, 4 * f);
    let c = &keys * keys.transpose() * faer::Scale(1.0 / (4 * f) as f64);
    let matrix = || c.clone();
    let prior = Prior::Matrix(&matrix);
    for (n, d, route) in [(7, 12, Route::Dual), (7, 12, Route::Primal), (90, 12, Route::Primal)] {
        let (k, r) = (draw(&mut rng, f, n), draw(&mut rng, d, n));
        let by = |means: Solver| match solve(&prior, 0.7, &k, &r, route, means).unwrap() {
            Solution::Right(x) | Solution::Whole(x) => x,
        };
        let here = by(&on_host);
        let there = with_solver(&Compute::from(engine.clone()), by);
        let far = (&there - &here).norm_l2() / here.norm_l2();
        assert!(far <= 2.0 * 10.0 * f as f64 * f64::EPSILON, "{n} {d} {route:?}: {far:e}");
    }
    assert!(engine.memory().peak > 0, "it was solved there");

    // What is not positive definite is not solved; without room the host solves.
    let k = draw(&mut rng, f, 3);
    let singular = || c.clone() * -1.0;
    let prior = Prior::Matrix(&singular);
    let compute = Compute::from(engine.clone());
    let solve = |prior: &Prior| {
        with_solver(&compute, |by| solve(prior, 1.0, &k, &k, Route::Dual, by).is_some())
    };
    assert!(!solve(&prior));
    engine.cap(1000);
    assert!(solve(&Prior::Matrix(&matrix)));
}
