mod apply;
mod hparams;
mod identities;
mod reference;
