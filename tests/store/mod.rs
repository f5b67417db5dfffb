mod checkpoint;
mod crash;
mod faulty;
mod fingerprint;
mod format;
mod hostile;
mod journal;
pub mod toy;
