//! Floor 3: f64 linear algebra on the host, by `faer`.

pub mod cholesky;
pub mod keyspace;
pub mod low_rank;
pub mod vector;

pub use cholesky::Cholesky;
