mod golden;
mod stories;
