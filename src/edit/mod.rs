//! Floor 6: facts become changes. A method is a function from (model, statistics, fact) to a
//! change; it touches nothing. Writing a change is the business of [`apply`], for all alike, and
//! handing it to other programs that of [`export`].
//!
//! Start reading at [`rome`], then [`search`], which all methods share; for many facts at
//! [`batch`], [`spread`] and [`memit`].

pub mod alphaedit;
pub mod anchor;
pub mod apply;
pub mod batch;
pub mod change;
pub mod contexts;
pub mod emmet;
pub mod export;
pub mod facts;
pub mod hparams;
pub mod kept;
pub mod keys;
pub mod means;
pub mod memit;
pub mod outcome;
pub mod plan;
pub mod pmet;
pub mod presets;
pub mod prompts;
pub mod rome;
pub mod search;
pub mod settings;
pub mod spread;
pub mod state;
