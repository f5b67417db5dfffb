mod config;
mod entries;
pub mod golden;
mod gradients;
mod load;
mod matrices;
mod passes;
mod stories;
