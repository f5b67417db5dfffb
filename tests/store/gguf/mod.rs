mod blocks;
mod header;
