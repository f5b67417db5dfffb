mod config;
mod entries;
mod golden;
mod gradient;
mod load;
mod passes;
mod stories;
