//! Floor 3: what can be computed. A file an operation checks shapes and dispatches; the definition
//! has the same name under `cpu/`, the launch under `cuda/`. Operations never allocate results: the
//! caller owns the outputs.

pub mod act;
pub mod adam;
pub mod attention;
pub mod cholesky;
pub mod codebook;
pub mod cpu;
pub mod cuda;
pub mod embed;
pub mod gram;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod proof;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod search_step;
pub mod update;
pub mod weight_gradient;
