//! Floor 6: facts become changes. A method is a function from (model, statistics, fact) to a
//! change; it touches nothing. Writing a change is the business of [`apply`], for all alike, and
//! handing it to other programs that of [`export`].
//!
//! Start reading at [`rome`], then [`value`], which all methods share.

pub mod adam;
pub mod apply;
pub mod contexts;
pub mod export;
pub mod hparams;
pub mod plan;
pub mod presets;
pub mod rome;
pub mod value;
