mod config;
mod golden;
mod gradient;
mod passes;
mod stories;
