mod config;
mod entries;
pub mod golden;
mod load;
mod passes;
mod stories;
