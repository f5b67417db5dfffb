mod identities;
mod reference;
