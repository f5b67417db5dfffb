mod apply;
mod export;
mod hparams;
mod identities;
mod reference;
