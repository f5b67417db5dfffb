//! What the tests share: budgets, recorded goldens, folders.

pub mod golden;
pub mod shared;
