//! Case tables of the operations, one file each, held by `support/budget.rs` to plain loops.

mod act;
mod adam;
mod attention;
mod cholesky;
mod codebook;
mod embed;
mod gram;
mod linear;
mod loss;
mod norm;
mod rope;
mod rows;
mod sample;
mod search_step;
pub mod update;
mod weight_gradient;
