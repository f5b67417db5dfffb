mod config;
mod entries;
pub mod golden;
mod hooks;
mod load;
mod matrices;
mod passes;
mod stories;
