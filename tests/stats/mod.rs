mod collect;
mod hostile;
mod import;
mod normed;
mod shard;
