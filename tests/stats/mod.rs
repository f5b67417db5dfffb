mod collect;
mod import;
