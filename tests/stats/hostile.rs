//! Statistics no solve can use as they are, and files that were cut off.

use std::fs;

use incise::base::Rng;
use incise::stats::{Covariance, Moment, Origin};

fn moment(f: usize, tokens: usize, key: &mut dyn FnMut(usize) -> f64) -> Moment {
    let mut total = vec![0.0; f * (f + 1) / 2];
    for _ in 0..tokens {
        let k: Vec<f64> = (0..f).map(&mut *key).collect();
        for i in 0..f {
            (0..=i).for_each(|j| total[i * (i + 1) / 2 + j] += k[i] * k[j]);
        }
    }
    let origin = Origin { model: "m".into(), corpus: "c".into(), context_length: 8, normed: false };
    Moment::of(2, f, tokens as u64, &total, &origin)
}

/// ReLU neurons that never fire (OPT has many): C has rows of zeros, with however many tokens. A
/// ridge is stated, and solves are numbers.
#[test]
fn dead_neurons_make_c_singular() {
    const F: usize = 24;
    let mut rng = Rng::new(1, "keys");
    let mut relu = |i: usize| match i % 3 {
        0 => 0.0,
        _ => rng.normal().max(0.0),
    };
    let m = moment(F, 50 * F, &mut relu);
    let c = Covariance::of(&m).unwrap();
    assert!(c.ridge.is_some_and(|ridge| ridge > 0.0));
    let k: Vec<f64> = (0..F).map(&mut relu).collect();
    let x = c.solve(&k);
    assert!(x.iter().all(|x| x.is_finite()), "{x:?}");
    assert!((0..F).step_by(3).all(|i| x[i] == 0.0), "a dead neuron takes no part: {x:?}");
    let alive = Covariance::of(&moment(F, 50 * F, &mut |_| rng.normal())).unwrap();
    assert_eq!(alive.ridge, None, "the case tells dead neurons from live ones");
}

#[test]
fn a_layer_that_never_fires_is_refused() {
    let error = Covariance::of(&moment(4, 100, &mut |_| 0.0)).err().unwrap().to_string();
    assert!(error.contains("layer 2") && error.contains("diagonal"), "{error}");
}

#[test]
fn files_that_were_cut_off_or_hold_no_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(2, "keys");
    let m = moment(6, 60, &mut |_| rng.normal());
    m.write(dir.path()).unwrap();
    let path = Moment::path(dir.path(), 2);
    let whole = fs::read(&path).unwrap();
    let error = |bytes: &[u8]| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        Moment::read(dir.path(), 2, 6, "m").unwrap_err().to_string()
    };
    for len in [0, 8, whole.len() / 2, whole.len() - 1] {
        assert!(error(&whole[..len]).contains("layer-2.safetensors: "), "{len} bytes");
    }
    let mut nan = whole.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(error(&nan).contains("second_moment: entry (5, 5) is not finite"));
}
