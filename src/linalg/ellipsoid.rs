//! The point of an ellipsoid next to a given one.
//!
//! ```text
//! minimise ‖g⊙u − t‖ on ‖u‖ = r:
//!     u_i = g_i t_i/(g_i² + μ),   μ > −min g² the root of Σ u_i² = r²
//! ```
//!
//! Σ u_i² falls as μ grows, from any height at −min g² to 0, so the root is found by bisection. It
//! does not reach r where t has no part along the shortest axes: what is lacking then goes there,
//! on either side alike. Cost O(D) a step. Source: a sphere-constrained least squares by its
//! Lagrangian (Golub, Van Loan, Matrix Computations, 6.2).

/// Steps of the bisection: an f64 has 53 bits, and μ some more in its exponent.
const STEPS: usize = 120;

/// u (D), for gains g and a point t.
pub fn nearest(g: &[f64], t: &[f64], r: f64) -> Vec<f64> {
    if r == 0.0 {
        return vec![0.0; g.len()];
    }
    let least = g.iter().map(|g| g * g).fold(f64::INFINITY, f64::min);
    let at = |above: f64| -> Vec<f64> {
        // μ = above − least, so that no digits are lost next to the pole.
        let u = |(g, t): (&f64, &f64)| g * t / ((g * g - least) + above);
        g.iter().zip(t).map(u).map(|u| if u.is_nan() { 0.0 } else { u }).collect()
    };
    let square = |u: &[f64]| u.iter().map(|u| u * u).sum::<f64>();
    // Σ u_i² ≤ Σ (g_i t_i)²/above².
    let mut high = g.iter().zip(t).map(|(g, t)| (g * t).powi(2)).sum::<f64>().sqrt() / r;
    let mut low = 0.0;
    for _ in 0..STEPS {
        let middle = 0.5 * (low + high);
        if square(&at(middle)) > r * r { low = middle } else { high = middle }
    }
    let mut u = at(high);
    let lacking = r * r - square(&u);
    // By more than rounding: there was no root.
    if lacking > 1e-9 * r * r {
        let axis = (0..g.len()).find(|&i| g[i] * g[i] <= least).expect("the shortest axis");
        u[axis] = (u[axis] * u[axis] + lacking).sqrt().copysign(g[axis] * t[axis]);
    }
    u
}
