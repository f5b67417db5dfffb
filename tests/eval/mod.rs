//! Numbers of evaluations, their pages, and runs against each other.

mod compare;
mod docs;
mod interval;
mod reference;
mod report;
mod results;
mod rules;
mod runs;
