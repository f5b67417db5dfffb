//! The launches: what each operation of `kernels/` needs to start, from arrays on a device. Maths,
//! shapes and cost are in the kernels' headers; sizes follow from the arrays.

pub mod act;
pub mod adam;
pub mod attention;
pub mod cholesky;
pub mod codebook;
pub mod embed;
pub mod gram;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod search_step;
pub mod update;
pub mod weight_gradient;
