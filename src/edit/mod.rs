//! Floor 6: facts become changes. A method is a function from (model, statistics, fact) to a
//! change; it touches nothing. Writing a change is the business of [`apply`], for all alike, and
//! handing it to other programs that of [`export`].
//!
//! Start reading at [`methods::rome`], then [`search::plain`], the search that all methods share;
//! for many facts at [`batch`], [`solve::layers`] and [`methods::memit`]; for fine-tuning at
//! [`methods::fine_tuning`] and [`training`].

pub mod advice;
pub mod anchor;
pub mod apply;
pub mod attribution;
pub mod batch;
pub mod cache;
pub mod closed_form_method;
pub mod contexts;
pub mod cost;
pub mod export;
pub mod fact_report;
pub mod facts;
pub mod family;
pub mod governor;
pub mod hparams;
pub mod keys;
pub mod kl_bound;
pub mod known_facts;
pub mod method;
pub mod methods;
pub mod params;
pub mod presets;
pub mod prompts;
mod public_config;
pub mod quantised;
pub mod reach;
pub mod recommend;
pub mod search;
pub mod solve;
pub mod state;
pub mod train_params;
pub mod training;
pub mod value_store;
pub mod values;
pub mod weight_editor;
