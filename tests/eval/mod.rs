mod interval;
mod results;
mod rules;
