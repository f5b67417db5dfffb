//! Floor 1: cases.

mod contexts;
mod corpus;
mod forms;
mod request;
