//! Floor 3: f64 linear algebra on the host, by `faer`.

pub mod cholesky;
pub mod eigen;
pub mod ellipsoid;
pub mod least_squares;
pub mod low_rank;
pub mod metric;
pub mod nearest_plane;
pub mod vector;

pub use cholesky::Cholesky;

/// Into how many pieces work is cut. `faer` orders its sums by that number, so it is the same on
/// every machine, however many threads there are to do them.
fn pieces() -> faer::Par {
    faer::Par::rayon(16)
}
