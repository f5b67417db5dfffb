//! What a number over records can claim: intervals, and whether a difference is one.
//!
//! ```text
//! θ = f(m_1 … m_c)          m_j the mean of column j over the records that have a value there
//! θ*_b                      the same over n records drawn with replacement, b = 1 … B
//! BCa interval              the α(z) quantiles of θ*, z = Φ⁻¹ of each tail
//!   α(z) = Φ(z_0 + (z_0 + z)/(1 − a (z_0 + z)))
//!   z_0 = Φ⁻¹(share of θ* below θ)       a = Σ d³ / 6 (Σ d²)^{3/2},  d = mean of θ_(i) − θ_(i)
//! ```
//!
//! A record is drawn with all its prompts: they speak of one fact and are not independent. Shares
//! of which nearly every record has all or none have no spread to draw from, and get an exact
//! interval. Sources: Efron 1987 (BCa), Clopper and Pearson 1934, Holm 1979.

use rayon::prelude::*;
use serde::Serialize;
use statrs::distribution::{Beta, ContinuousCDF, Normal};

use crate::base::Rng;

/// B.
pub const DRAWS: usize = 10_000;

/// Records that an exact interval is due to: fewer than so many that differ from all the others.
const FEW: usize = 5;

/// Tails of an interval of 95 %.
pub const TWO_SIDED: [f64; 2] = [0.025, 0.975];

/// A value a record; a record without one is left out of the mean.
pub type Column = Vec<Option<f64>>;

/// Where a number lies with the confidence asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The mean of the values there are; none of an empty column.
pub fn mean(column: &[Option<f64>]) -> Option<f64> {
    let values = || column.iter().flatten();
    let n = values().count();
    (n > 0).then(|| values().sum::<f64>() / n as f64)
}

/// After less before, of the records that have both.
pub fn change(before: &[Option<f64>], after: &[Option<f64>]) -> Column {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| Some(after.as_ref()? - before.as_ref()?))
        .collect()
}

/// The BCa interval of f of the columns' means, which a seed makes the same again. All columns have
/// a row a record. None where a column has no value.
pub fn bootstrap(
    columns: &[&[Option<f64>]],
    f: impl Fn(&[f64]) -> f64 + Sync,
    tails: [f64; 2],
    seed: u64,
) -> Option<Interval> {
    let n = columns.first().map_or(0, |column| column.len());
    assert!(columns.iter().all(|column| column.len() == n), "columns have a row a record");
    let sums = Sums::of(columns, 0..n);
    let theta = f(&sums.means()?);
    let draw = |b: u64| {
        let mut rng = Rng::new(seed, &format!("records {b}"));
        let drawn = (0..n).map(|_| (rng.uniform() * n as f64) as usize);
        Sums::of(columns, drawn).means().map(|means| f(&means))
    };
    let mut drawn: Vec<f64> = (0..DRAWS as u64).into_par_iter().filter_map(draw).collect();
    drawn.sort_by(f64::total_cmp);
    let without = |i| sums.without(columns, i).means().map(|means| f(&means));
    let without: Vec<f64> = (0..n).filter_map(without).collect();
    let alpha = |tail| bca(tail, theta, &drawn, acceleration(&without));
    let [low, high] = tails.map(|tail| quantile(&drawn, alpha(tail)));
    Some(Interval { low, high })
}

/// The interval of the mean of shares: exact where nearly every record has all or none, else by
/// [`bootstrap`].
pub fn of_shares(column: &[Option<f64>], tails: [f64; 2], seed: u64) -> Option<Interval> {
    let there: Vec<f64> = column.iter().flatten().copied().collect();
    let n = there.len();
    let all = there.iter().filter(|&&share| share == 1.0).count();
    let any = there.iter().filter(|&&share| share > 0.0).count();
    if n > 0 && (n - all < FEW || any < FEW) {
        // A mean share lies between those of records that have all and that have any.
        let low = clopper_pearson(all, n, tails).low;
        return Some(Interval { low, high: clopper_pearson(any, n, tails).high });
    }
    bootstrap(&[column], |means| means[0], tails, seed)
}

/// The exact interval of a share, of k successes in n records.
pub fn clopper_pearson(k: usize, n: usize, tails: [f64; 2]) -> Interval {
    let quantile = |a: usize, b: usize, p| match (a, b) {
        (0, _) => 0.0,
        (_, 0) => 1.0,
        (a, b) => Beta::new(a as f64, b as f64).map_or(f64::NAN, |beta| beta.inverse_cdf(p)),
    };
    let [low, high] = tails;
    Interval { low: quantile(k, n - k + 1, low), high: quantile(k + 1, n - k, high) }
}

/// How likely differences of this mean are, or larger ones, if each were as likely to have the
/// other sign: by drawing signs (Fisher's randomisation test, two-sided).
pub fn randomisation(differences: &[Option<f64>], seed: u64) -> f64 {
    let there: Vec<f64> = differences.iter().flatten().copied().collect();
    let sum = there.iter().sum::<f64>().abs();
    let rounding = there.iter().map(|d| d.abs()).sum::<f64>() * f64::EPSILON * there.len() as f64;
    let is_as_large = |&b: &u64| {
        let mut rng = Rng::new(seed, &format!("signs {b}"));
        let signed = |d: &f64| if rng.bits() & 1 == 0 { *d } else { -d };
        there.iter().map(signed).sum::<f64>().abs() >= sum - rounding
    };
    let as_large = (0..DRAWS as u64).into_par_iter().filter(is_as_large).count();
    (1 + as_large) as f64 / (1 + DRAWS) as f64
}

/// p of several comparisons so that one of all is below α with at most α where none is real.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        least = least.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

/// Sums of each column and how many values are in them.
struct Sums(Vec<(f64, usize)>);

impl Sums {
    fn of(columns: &[&[Option<f64>]], records: impl Iterator<Item = usize>) -> Sums {
        let mut sums = vec![(0.0, 0); columns.len()];
        for i in records {
            for (sum, column) in sums.iter_mut().zip(columns) {
                if let Some(value) = column[i] {
                    *sum = (sum.0 + value, sum.1 + 1);
                }
            }
        }
        Sums(sums)
    }

    fn without(&self, columns: &[&[Option<f64>]], i: usize) -> Sums {
        let less = |(&(sum, n), column): (&(f64, usize), &&[Option<f64>])| match column[i] {
            Some(value) => (sum - value, n - 1),
            None => (sum, n),
        };
        Sums(self.0.iter().zip(columns).map(less).collect())
    }

    fn means(&self) -> Option<Vec<f64>> {
        self.0.iter().map(|&(sum, n)| (n > 0).then(|| sum / n as f64)).collect()
    }
}

/// a, of θ with each record left out.
fn acceleration(without: &[f64]) -> f64 {
    let mean = without.iter().sum::<f64>() / without.len() as f64;
    let sum = |power| without.iter().map(|theta| (mean - theta).powi(power)).sum::<f64>();
    let (squares, cubes) = (sum(2), sum(3));
    if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 }
}

/// α(z). Draws equal to θ count half, as of a share they are many.
fn bca(tail: f64, theta: f64, drawn: &[f64], a: f64) -> f64 {
    let below = drawn.partition_point(|&d| d < theta);
    let not_above = drawn.partition_point(|&d| d <= theta);
    let share = (below + not_above) as f64 / (2 * drawn.len()) as f64;
    if share == 0.0 || share == 1.0 || tail == 0.0 || tail == 1.0 {
        return tail;
    }
    let normal = Normal::standard();
    let [z0, z] = [share, tail].map(|p| normal.inverse_cdf(p));
    normal.cdf(z0 + (z0 + z) / (1.0 - a * (z0 + z)))
}

/// The α quantile of sorted draws: the one of rank ⌊(B + 1) α⌋.
fn quantile(sorted: &[f64], alpha: f64) -> f64 {
    let rank = ((sorted.len() + 1) as f64 * alpha) as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
