//! Floor 1: cases.

mod broken;
mod conflicts;
mod contexts;
mod corpus;
mod forms;
mod request;
