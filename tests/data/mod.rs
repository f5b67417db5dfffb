//! Floor 1: cases.

mod broken;
mod conflicts;
mod contexts;
mod corpus;
pub mod forms;
mod request;
