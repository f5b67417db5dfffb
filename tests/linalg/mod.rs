mod ellipsoid;
mod least_squares;
mod nearest_plane;

use faer::Mat;
use incise::base::Rng;

fn draw(rng: &mut Rng, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| rng.normal())
}

/// E[k kᵀ] over 4F drawn keys: condition about 10.
fn second_moment(rng: &mut Rng, f: usize) -> Mat<f64> {
    let keys = draw(rng, f, 4 * f);
    let scale = 1.0 / (4 * f) as f64;
    Mat::from_fn(f, f, |i, j| (0..4 * f).map(|t| keys[(i, t)] * keys[(j, t)]).sum::<f64>() * scale)
}

/// A⁻¹B by Gauss-Jordan with pivots, which knows nothing of symmetry.
fn gauss(mut a: Mat<f64>, mut b: Mat<f64>) -> Mat<f64> {
    let n = a.nrows();
    for c in 0..n {
        let pivot = (c..n).max_by(|&i, &j| a[(i, c)].abs().total_cmp(&a[(j, c)].abs())).unwrap();
        for m in [&mut a, &mut b] {
            for j in 0..m.ncols() {
                (m[(c, j)], m[(pivot, j)]) = (m[(pivot, j)], m[(c, j)]);
            }
        }
        for i in (0..n).filter(|&i| i != c) {
            let factor = a[(i, c)] / a[(c, c)];
            (0..n).for_each(|j| a[(i, j)] -= factor * a[(c, j)]);
            (0..b.ncols()).for_each(|j| b[(i, j)] -= factor * b[(c, j)]);
        }
    }
    Mat::from_fn(n, b.ncols(), |i, j| b[(i, j)] / a[(i, i)])
}

fn off(got: &Mat<f64>, want: &Mat<f64>) -> f64 {
    (got - want).norm_l2() / want.norm_l2()
}
