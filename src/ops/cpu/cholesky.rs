//! Definition of [`crate::ops::cholesky`].

use crate::base::Float;

/// The layout of a lower triangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triangle {
    /// N.
    pub n: usize,
    /// Elements from a row to the next.
    pub ld: usize,
}

impl Triangle {
    /// Elements up to the last of its own.
    pub fn len(self) -> usize {
        self.n.saturating_sub(1) * self.ld + self.n
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.n == 0
    }
}

/// The layout of the unknowns of some systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Systems {
    /// How many systems.
    pub count: usize,
    /// Elements from an unknown to the next.
    pub down: usize,
    /// Elements from a system to the next.
    pub across: usize,
}

/// Which triangle a solve is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// L.
    Lower,
    /// Lᵀ.
    Upper,
}

/// Row by row: an element is what is left of A's, over the pivot.
pub fn factor<T: Float>(a: &mut [T], of: Triangle) -> Option<usize> {
    for i in 0..of.n {
        for j in 0..=i {
            let row = i * of.ld;
            let other = j * of.ld;
            let known: T = (0..j).map(|k| a[row + k] * a[other + k]).sum();
            let left = a[row + j] - known;
            if j < i {
                a[row + j] = left / a[other + j];
            } else if left.f64() > 0.0 && left.f64().is_finite() {
                a[row + j] = left.sqrt();
            } else {
                return Some(i);
            }
        }
    }
    None
}

/// System by system, from the first unknown or from the last.
pub fn solve<T: Float>(l: &[T], of: Triangle, side: Side, x: &mut [T], systems: Systems) {
    let n = of.n;
    let place = |i: usize| if side == Side::Lower { i } else { n - 1 - i };
    // Of the triangle with rows and columns in the order of the solve.
    let l = |i: usize, j: usize| {
        let i = place(i);
        let j = place(j);
        l[i.max(j) * of.ld + i.min(j)]
    };
    for system in 0..systems.count {
        let at = |i: usize| place(i) * systems.down + system * systems.across;
        for i in 0..n {
            let known: T = (0..i).map(|j| l(i, j) * x[at(j)]).sum();
            x[at(i)] = (x[at(i)] - known) / l(i, i);
        }
    }
}
