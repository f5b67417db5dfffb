//! The definitions: what each operation computes, generic over `f32` and `f64`.

pub mod act;
pub mod adam;
pub mod attention;
pub mod cholesky;
pub mod codebook;
pub mod dots;
pub mod embed;
pub mod gemm;
pub mod gram;
pub mod lanes;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod search_step;
pub mod update;
pub mod weight_gradient;
