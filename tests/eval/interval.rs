//! Intervals: exact ones against SciPy's numbers, drawn ones within their own error.

use incise::eval::interval::{
    Column, DRAWS, Interval, TWO_SIDED, bootstrap, change, clopper_pearson, holm, mean, of_shares,
    randomisation,
};

const BEFORE: [f64; 10] = [0., 0., 10., 20., 20., 30., 50., 60., 90., 100.];
const AFTER: [f64; 10] = [5., 0., 0., 25., 20., 45., 70., 60., 95., 100.];

fn column(values: &[f64]) -> Column {
    values.iter().copied().map(Some).collect()
}

fn near(got: Interval, low: f64, high: f64, by: f64) {
    assert!((got.low - low).abs() < by && (got.high - high).abs() < by, "{got:?}: {low} {high}");
}

/// `scipy.stats.binomtest(k, n).proportion_ci(level, "exact")`, SciPy 1.16, levels 95 % and 90 %.
#[test]
fn exact_intervals_are_scipys() {
    for (k, n, low, high, one_sided) in [
        (20, 20, 0.8315665290169145, 1.0, 0.8608916593316243),
        (19, 20, 0.7512672372279723, 0.998734910502044, 0.7838938357931302),
        (59, 60, 0.9106009499427015, 0.9995781255475358, 0.9233600050655429),
        (60, 60, 0.9403705077136653, 1.0, 0.9512970866900151),
        (0, 20, 0.0, 0.16843347098308548, 0.0),
        (3, 10, 0.06673951117773447, 0.652452850060008, 0.08726443391415029),
    ] {
        near(clopper_pearson(k, n, TWO_SIDED), low, high, 1e-9);
        near(clopper_pearson(k, n, [0.05, 1.0]), one_sided, 1.0, 1e-9);
    }
}

/// `scipy.stats.bootstrap(method="BCa")` of 200,000 draws. A quantile of B draws at a tail p has a
/// standard deviation of √(p (1 − p)/B) over their density there, φ(1.96)/σ with σ ≈ 11: 0.3; four
/// of it.
#[test]
fn drawn_intervals_are_scipys() {
    let (before, after) = (column(&BEFORE), column(&AFTER));
    let means = bootstrap(&[&before], |m| m[0], TWO_SIDED, 1).unwrap();
    near(means, 20.0, 62.0, 1.2);
    let harmonic = |m: &[f64]| 2.0 / (1.0 / m[0] + 1.0 / m[1]);
    let both = bootstrap(&[&before, &after], harmonic, TWO_SIDED, 1).unwrap();
    near(both, 20.7, 64.0, 1.2);
    let again = |seed| bootstrap(&[&before, &after], harmonic, TWO_SIDED, seed).unwrap();
    assert_eq!(again(1), both, "the seed decides");
    assert_ne!(again(2), both);
}

#[test]
fn an_interval_of_one_sided_tails_is_open() {
    let share = column(&[1.0, 0.5, 0.25, 0.0, 0.5, 0.5, 1.0, 0.0, 0.75, 0.5, 0.5, 0.25]);
    let both = of_shares(&share, TWO_SIDED, 0).unwrap();
    let lower = of_shares(&share, [0.05, 1.0], 0).unwrap();
    assert!(both.low < lower.low && lower.low < 0.48 && 0.48 < both.high && both.high < lower.high);
}

/// Nearly all or none: a drawn interval would be [1, 1].
#[test]
fn shares_without_spread_get_exact_intervals() {
    let mut all = column(&[1.0; 60]);
    let interval = of_shares(&all, TWO_SIDED, 0).unwrap();
    assert_eq!(interval, clopper_pearson(60, 60, TWO_SIDED));
    all[7] = Some(0.5);
    let interval = of_shares(&all, TWO_SIDED, 0).unwrap();
    let exact = [59, 60].map(|k| clopper_pearson(k, 60, TWO_SIDED));
    assert_eq!([interval.low, interval.high], [exact[0].low, exact[1].high]);
    all[3] = None;
    let interval = of_shares(&all, TWO_SIDED, 0).unwrap();
    assert_eq!(interval.low, clopper_pearson(58, 59, TWO_SIDED).low, "of the records that have it");
    assert_eq!(of_shares(&[None, None], TWO_SIDED, 0), None);
    let none = of_shares(&column(&[0.0; 20]), TWO_SIDED, 0).unwrap();
    assert_eq!(none, clopper_pearson(0, 20, TWO_SIDED));
}

#[test]
fn what_a_record_lacks_is_left_out() {
    let half = [Some(1.0), None, Some(2.0)];
    assert_eq!(mean(&half), Some(1.5));
    assert_eq!(mean(&[None, None]), None);
    let after = [Some(4.0), Some(1.0), None];
    assert_eq!(change(&half, &after), [Some(3.0), None, None]);
    assert_eq!(bootstrap(&[&half, &[None; 3]], |m| m[0], TWO_SIDED, 0), None);
}

/// `scipy.stats.permutation_test(permutation_type="samples")` over all signs gives 0.25; a share of
/// B draws is within four standard deviations, 4 √(p (1 − p)/B).
#[test]
fn a_difference_is_judged_by_its_signs() {
    let differences = change(&column(&BEFORE), &column(&AFTER));
    let p = randomisation(&differences, 3);
    assert!((p - 0.25).abs() < 4.0 * (0.25 * 0.75 / DRAWS as f64).sqrt(), "{p}");
    assert_eq!(randomisation(&column(&[1.0; 40]), 3), 1.0 / (1 + DRAWS) as f64);
    assert_eq!(randomisation(&column(&[0.0; 4]), 3), 1.0);
}

/// The example of Holm's procedure: each p times the number of those not below it, never falling.
#[test]
fn several_comparisons_are_adjusted() {
    let got = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (got, want) in got.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((got - want).abs() < 1e-12);
    }
    assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
}
