mod config;
mod entries;
pub mod golden;
mod load;
mod matrices;
mod passes;
mod stories;
