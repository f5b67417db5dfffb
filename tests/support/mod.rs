//! What the tests share: budgets, recorded goldens, folders.

pub mod budget;
pub mod golden;
pub mod shared;
pub mod toy;
pub mod twin;
