//! The program and what the world does to it: broken files, full disks, closed folders, Ctrl-C.

mod files;
mod gguf;
mod room;
mod stop;
