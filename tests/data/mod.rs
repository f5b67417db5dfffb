//! Floor 1: cases.

mod conflicts;
mod contexts;
mod corpus;
mod forms;
mod request;
