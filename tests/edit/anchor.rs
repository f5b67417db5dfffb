//! The norm anchor's arithmetic.

use incise::edit::anchor::{anchored, reference};

#[test]
fn the_reference_norm_drops_the_top_twentieth() {
    assert_eq!(reference(vec![]), 0.0);
    assert_eq!(reference(vec![3.0]), 3.0, "one is never dropped");
    assert_eq!(reference(vec![100.0, 1.0]), 1.0);
    let mut norms: Vec<f64> = (0..40).map(|_| 2.0).collect();
    norms.extend([1e6, 1e6]); // 42 / 20, rounded up: three go
    assert_eq!(reference(norms), 2.0);
}

#[test]
fn values_get_the_reference_norm_or_are_left_out() {
    let v0 = [3.0, 0.0];
    // v* = (3, 4), of norm 5, becomes (6, 8).
    assert_eq!(anchored(&v0, &[0.0, 4.0], 10.0), [3.0, 8.0]);
    // 5 > 2·2.4: back to v₀.
    assert_eq!(anchored(&v0, &[0.0, 4.0], 2.4), [0.0, 0.0]);
    // 5 = 2·2.5 is not above it.
    assert_eq!(anchored(&v0, &[0.0, 4.0], 2.5), [-1.5, 2.0]);
}
