//! The two types the CPU computes in: `f32` for work, `f64` for oracles and solves.

use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// `f32` or `f64`; the definitions in `ops/cpu` are generic over it.
pub trait Float:
    Copy
    + Default
    + PartialOrd
    + Debug
    + Display
    + Send
    + Sync
    + 'static
    + Sum
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + bytemuck::Pod
{
    /// Nearest value of this type.
    fn of(x: f64) -> Self;
    /// Exact.
    fn from_f32(x: f32) -> Self;
    /// Exact.
    fn f64(self) -> f64;
    /// √x.
    fn sqrt(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// ln x.
    fn ln(self) -> Self;
    /// tanh x.
    fn tanh(self) -> Self;
    /// The larger of the two.
    fn max(self, other: Self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// Φ(x) and φ(x), the standard normal distribution and its density.
    fn normal(self) -> [Self; 2];
}

/// eˣ in f32, within two units of the last place, in operations that vectorise.
///
/// ```text
/// x = n ln 2 + r,  |r| ≤ (ln 2)/2      eˣ = 2ⁿ Σ rⁱ/i!,  i ≤ 7
/// ```
///
/// ln 2 is taken off in two parts, the first exact in few bits (Cody, Waite 1980). The remainder
/// of the series is below 2⁻²⁹. Results below the smallest normal number are 0.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const LOW: f32 = -87.336_54; // ln of the smallest normal number
    const HIGH: f32 = 88.722_84; // ln of the largest number
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let clamped = if x < LOW { LOW } else { x };
    let clamped = if clamped > HIGH { HIGH } else { clamped };
    let n = (clamped * std::f32::consts::LOG2_E + MAGIC) - MAGIC;
    let r = (clamped - n * LN2[0]) - n * LN2[1];
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let p = series.into_iter().fold(1.0 / 5040.0, |p, c| p * r + c);
    // 2ⁿ in two factors: n reaches 128, one more than an exponent holds.
    let half = (n as i32) >> 1;
    let two = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let y = p * two(half) * two(n as i32 - half);
    let y = if x < LOW { 0.0 } else { y };
    let y = if x > HIGH { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// Φ(x) and φ(x) in f32, in operations that vectorise.
///
/// ```text
/// φ(x) = e^(−x²/2)/√(2π)      Φ(−a) = e^(−a²/2) p(t)/(1 + a),  t = (a − 2.5)/(a + 2.5),  a ≥ 0
/// ```
///
/// p is fitted to (1 + a) e^(a²/2) Φ(−a) for a ≤ 14, where Φ(−a) is 0 in f32, to 6·10⁻⁹ of it, so
/// the lower tail cancels nothing. e^(−x²/2) loses x²/4 units more than [`exp_f32`].
#[inline(always)]
fn normal_f32(x: f32) -> [f32; 2] {
    const P: [f32; 10] = [
        -2.307_245e-4,
        2.487_440_3e-6,
        1.267_969_5e-3,
        1.283_757_9e-3,
        -6.049_117e-3,
        -8.699_867e-3,
        4.606_311_8e-2,
        -3.771_665_3e-2,
        -9.158_749e-2,
        4.946_596_6e-1,
    ];
    const ROOT: f32 = 0.398_942_3; // 1/√(2π)
    let a = if x.abs() > 32.0 { 32.0 } else { x.abs() };
    let t = (a - 2.5) / (a + 2.5);
    let p = P.into_iter().fold(-6.563_251_4e-5, |p, c| p * t + c);
    let e = exp_f32(-0.5 * (x * x));
    let below = e * (p / (1.0 + a));
    [if x < 0.0 { below } else { 1.0 - below }, ROOT * e]
}

fn normal_f64(x: f64) -> [f64; 2] {
    let root = (0.5 / std::f64::consts::PI).sqrt();
    [0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2), root * (-0.5 * (x * x)).exp()]
}

macro_rules! float {
    ($t:ty, $exp:expr, $normal:expr) => {
        impl Float for $t {
            fn of(x: f64) -> Self {
                x as $t
            }
            fn from_f32(x: f32) -> Self {
                x.into()
            }
            fn f64(self) -> f64 {
                self.into()
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            fn tanh(self) -> Self {
                <$t>::tanh(self)
            }
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn normal(self) -> [Self; 2] {
                $normal(self)
            }
        }
    };
}
float!(f32, exp_f32, normal_f32);
float!(f64, f64::exp, normal_f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut worst = 0.0f64;
        for i in -8_733_000..8_872_000 {
            let x = i as f32 * 1e-5;
            let want = f64::from(x).exp();
            let unit = f64::from(f32::EPSILON) * want;
            worst = worst.max((f64::from(exp_f32(x)) - want).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(-200.0), 0.0);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp_f32(100.0), f32::INFINITY);
        assert!(exp_f32(f32::NAN).is_nan());
        assert!(exp_f32(88.7).is_finite());
    }
    #[test]
    fn the_normal_distribution_is_within_a_few_units() {
        for i in -900_000..900_000 {
            let x = i as f32 * 1e-5;
            let (got, want) = (normal_f32(x), normal_f64(x.into()));
            // Two units of the exponential, x²/4 of its argument, six roundings of ½ unit.
            let units = 5.0 + 0.25 * f64::from(x) * f64::from(x);
            for (got, want) in got.into_iter().zip(want) {
                let bound = units * f64::from(f32::EPSILON) * want;
                assert!((f64::from(got) - want).abs() <= bound, "{x}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn the_normal_distribution_at_the_ends() {
        assert_eq!(normal_f32(f32::INFINITY), [1.0, 0.0]);
        assert_eq!(normal_f32(30.0), [1.0, 0.0]);
        assert_eq!(normal_f32(-30.0), [0.0, 0.0]);
        assert_eq!(normal_f32(0.0)[0], 0.5);
        assert!(normal_f32(f32::NAN)[0].is_nan());
    }
}
