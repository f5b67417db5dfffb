mod apply;
mod identities;
mod reference;
