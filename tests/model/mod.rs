mod config;
mod golden;
mod gradient;
mod load;
mod passes;
mod stories;
