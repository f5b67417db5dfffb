mod config;
pub mod golden;
mod load;
mod passes;
mod stories;
