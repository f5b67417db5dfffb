mod apply;
mod batch;
mod export;
mod hparams;
mod identities;
mod reference;
