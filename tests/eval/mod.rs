mod interval;
mod reference;
mod results;
mod rules;
