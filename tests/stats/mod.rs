mod collect;
mod hostile;
