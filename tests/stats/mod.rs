mod collect;
mod hostile;
mod import;
