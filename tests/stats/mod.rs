mod collect;
mod hostile;
mod import;
mod shard;
