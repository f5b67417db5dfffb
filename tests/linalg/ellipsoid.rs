//! The point of an ellipsoid next to a given one.

use incise::base::Rng;
use incise::linalg::ellipsoid::nearest;
use incise::linalg::vector::norm;

fn gap(g: &[f64], u: &[f64], t: &[f64]) -> f64 {
    norm(&g.iter().zip(u).zip(t).map(|((g, u), t)| g * u - t).collect::<Vec<_>>())
}

fn draw(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| rng.normal()).collect()
}

/// On the sphere, and no point of it is nearer: neither a random one nor one close by.
#[test]
fn no_other_point_is_nearer() {
    let mut rng = Rng::new(3, "ellipsoid");
    for case in 0..40 {
        let n = 1 + case % 9;
        let (mut g, mut t) = (draw(&mut rng, n), draw(&mut rng, n));
        match case % 4 {
            1 => g[0] = 0.0,
            2 => t.iter_mut().for_each(|t| *t *= 1e-3), // inside
            3 => t[0] = 0.0,
            _ => {}
        }
        let r = 0.5 + rng.uniform();
        let u = nearest(&g, &t, r);
        assert!((norm(&u) / r - 1.0).abs() < 1e-8, "case {case}: {} is not {r}", norm(&u));
        let best = gap(&g, &u, &t);
        for step in [1e-3, 1e-1, 1e3] {
            for _ in 0..200 {
                let way = draw(&mut rng, n);
                let other: Vec<f64> = u.iter().zip(&way).map(|(u, a)| u + step * a).collect();
                let other: Vec<f64> = other.iter().map(|x| x * r / norm(&other)).collect();
                let off = gap(&g, &other, &t);
                // Both are sums of n squares, and r is met to 1e-8.
                assert!(off >= best - 1e-7, "case {case}: {off} is nearer than {best}");
            }
        }
    }
}

#[test]
fn a_point_of_the_ellipsoid_is_its_own() {
    let mut rng = Rng::new(4, "ellipsoid");
    for _ in 0..20 {
        let (g, u) = (draw(&mut rng, 12), draw(&mut rng, 12));
        let t: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g * u).collect();
        let found = nearest(&g, &t, norm(&u));
        let off: Vec<f64> = found.iter().zip(&u).map(|(a, b)| a - b).collect();
        // μ is 0 and met to rounding, of which the smallest gain takes 1/g².
        let smallest = g.iter().fold(f64::INFINITY, |a, g| a.min(g * g));
        assert!(norm(&off) <= 1e-13 / smallest * norm(&u), "off by {:e}", norm(&off));
    }
}

#[test]
fn where_nothing_is_wanted_any_point_of_the_shortest_axis_serves() {
    let u = nearest(&[2.0, 0.5, -3.0], &[0.0; 3], 2.0);
    assert_eq!(u.iter().map(|u| u.abs()).collect::<Vec<_>>(), [0.0, 2.0, 0.0]);
}
