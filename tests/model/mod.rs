mod config;
mod entries;
pub mod golden;
mod gradients;
mod hooks;
mod load;
mod matrices;
mod passes;
mod stories;
