//! Floor 7: does the edit hold, spread, harm.
//!
//! A metric has one name, and its definition is in it: the same method scores 99 in one code base
//! and 24 in another, by what was counted.

pub mod interval;
