//! f32 as a kernel computes in it that NVRTC has compiled.
//!
//! a·b + c is contracted to one fused multiply-add, rounded once: a number that is a product keeps
//! its factors until it meets a sum; any other is itself times 1, whose fused sum is the ordinary
//! one. +, ·, / and √ round to the nearest, as on the host. eˣ and ln x are as many units of the
//! last place off as NVIDIA lets theirs be (CUDA C++ Programming Guide, mathematical functions; PTX
//! ISA, `ex2.approx`), up or down by lot.

use std::cmp::Ordering;
use std::fmt::{Display, Formatter, Result};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use bytemuck::{Pod, Zeroable};
use incise::base::Float;

/// Units of the last place that eˣ and ln x may be off.
const EXP: u32 = 2;
const LN: u32 = 1;

/// The number that many units up or down, by its bits; 0, 1 and ∞ are themselves.
fn beside(x: f32, units: u32) -> f32 {
    if x == 0.0 || x == 1.0 || !x.is_finite() {
        return x;
    }
    // Knuth's multiplicative hash, whose top bit depends on all of x.
    let up = x.to_bits().wrapping_mul(2_654_435_761) >> 31 == 1;
    let bits = if up { x.to_bits() + units } else { x.to_bits().saturating_sub(units) };
    f32::from_bits(bits)
}

/// A number in f32, and two whose product, rounded, it is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Fused {
    value: f32,
    factors: [f32; 2],
}

// SAFETY: three f32 in a row, for which any bits will do.
unsafe impl Zeroable for Fused {}
// SAFETY: the same.
unsafe impl Pod for Fused {}

impl Fused {
    fn new(value: f32) -> Fused {
        Fused { value, factors: [value, 1.0] }
    }

    fn is_product(self) -> bool {
        self.factors[1] != 1.0
    }

    /// Of two products, the left one is not rounded before the sum.
    fn plus(self, other: Fused) -> Fused {
        let (product, rest) = if self.is_product() { (self, other) } else { (other, self) };
        let [a, b] = product.factors;
        Fused::new(a.mul_add(b, rest.value))
    }
}

impl Add for Fused {
    type Output = Fused;
    fn add(self, other: Fused) -> Fused {
        self.plus(other)
    }
}

impl Sub for Fused {
    type Output = Fused;
    fn sub(self, other: Fused) -> Fused {
        self.plus(-other)
    }
}

impl Mul for Fused {
    type Output = Fused;
    fn mul(self, other: Fused) -> Fused {
        Fused { value: self.value * other.value, factors: [self.value, other.value] }
    }
}

impl Div for Fused {
    type Output = Fused;
    fn div(self, other: Fused) -> Fused {
        Fused::new(self.value / other.value)
    }
}

impl Neg for Fused {
    type Output = Fused;
    fn neg(self) -> Fused {
        let [a, b] = self.factors;
        Fused { value: -self.value, factors: [-a, b] }
    }
}

impl AddAssign for Fused {
    fn add_assign(&mut self, other: Fused) {
        *self = *self + other;
    }
}

impl SubAssign for Fused {
    fn sub_assign(&mut self, other: Fused) {
        *self = *self - other;
    }
}

impl MulAssign for Fused {
    fn mul_assign(&mut self, other: Fused) {
        *self = *self * other;
    }
}

impl DivAssign for Fused {
    fn div_assign(&mut self, other: Fused) {
        *self = *self / other;
    }
}

impl Sum for Fused {
    fn sum<I: Iterator<Item = Fused>>(numbers: I) -> Fused {
        numbers.fold(Fused::default(), Add::add)
    }
}

impl Default for Fused {
    fn default() -> Fused {
        Fused::new(0.0)
    }
}

impl PartialEq for Fused {
    fn eq(&self, other: &Fused) -> bool {
        self.value == other.value
    }
}

impl PartialOrd for Fused {
    fn partial_cmp(&self, other: &Fused) -> Option<Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl Display for Fused {
    fn fmt(&self, f: &mut Formatter) -> Result {
        self.value.fmt(f)
    }
}

impl Float for Fused {
    fn of(x: f64) -> Fused {
        Fused::new(x as f32)
    }
    fn from_f32(x: f32) -> Fused {
        Fused::new(x)
    }
    fn f64(self) -> f64 {
        self.value.into()
    }
    fn sqrt(self) -> Fused {
        Fused::new(self.value.sqrt())
    }
    fn exp(self) -> Fused {
        Fused::new(beside(f64::from(self.value).exp() as f32, EXP))
    }
    fn ln(self) -> Fused {
        Fused::new(beside(f64::from(self.value).ln() as f32, LN))
    }
    fn tanh(self) -> Fused {
        Fused::new(self.value.tanh())
    }
    fn max(self, other: Fused) -> Fused {
        if self >= other { self } else { other }
    }
    fn abs(self) -> Fused {
        Fused::new(self.value.abs())
    }
    fn normal(self) -> [Fused; 2] {
        self.value.normal().map(Fused::new)
    }
}

#[test]
fn a_product_is_rounded_with_its_sum() {
    let [a, b, c] = [1.0 + f32::EPSILON, 1.0 - f32::EPSILON, -1.0].map(Fused::from_f32);
    let lost = -f32::EPSILON * f32::EPSILON; // (1 + u) (1 − u) − 1
    assert_eq!((a * b).value, 1.0, "a product by itself is rounded");
    for sum in [a * b + c, c + a * b, a * b - -c] {
        assert_eq!(sum.value, lost);
    }
    assert_eq!((-c - a * b).value, -lost);
    assert_eq!([a * b, c].into_iter().sum::<Fused>().value, 0.0, "sums of sums are not products");
}
