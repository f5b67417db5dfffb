mod config;
mod entries;
pub mod golden;
mod hooks;
mod load;
mod passes;
mod stories;
