//! Floor 1: cases.

mod broken;
mod cases;
mod conflicts;
mod contexts;
mod corpus;
mod expected;
pub mod forms;
mod known;
mod request;
