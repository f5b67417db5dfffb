//! Numbers of evaluations, their pages, runs against each other; causal tracing.

mod compare;
mod docs;
mod interval;
mod reference;
mod report;
mod results;
mod rules;
mod runs;
mod task;
mod trace;
