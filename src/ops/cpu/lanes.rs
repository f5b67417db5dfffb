//! Sums the compiler can turn into vector code, in an order that never changes.
//!
//! A plain `f32` sum is sequential by definition. These keep 16 partial sums, lane j taking the
//! elements j, j + 16, …, and add the lanes at the end; so the result is the same with every
//! instruction set, and its error grows with n/16 instead of n.

use crate::base::Float;

const LANES: usize = 16;

/// Runs `f` compiled for the widest vectors this processor has.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Σ term(i) for i < n.
#[inline(always)]
pub fn sum<T: Float>(n: usize, term: impl Fn(usize) -> T) -> T {
    let mut lane = [T::default(); LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (j, lane) in lane.iter_mut().enumerate() {
            *lane += term(i + j);
        }
    }
    for (j, i) in (whole..n).enumerate() {
        lane[j] += term(i);
    }
    lane.into_iter().sum()
}

/// The largest element of at least one.
#[inline(always)]
pub fn max<T: Float>(x: &[T]) -> T {
    let mut lane = [x[0]; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        lane.iter_mut().zip(x).for_each(|(a, &b)| *a = a.max(b));
    }
    lane.iter().chain(rest).fold(x[0], |a, &b| a.max(b))
}

/// ⟨a, b⟩.
#[inline(always)]
pub fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let n = a.len();
    let b = &b[..n];
    sum(n, |i| a[i] * b[i])
}

/// y += a x.
#[inline(always)]
pub fn add_scaled<T: Float>(y: &mut [T], a: T, x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += a * x);
}
