//! The names of all numbers, and what each is.

use std::fmt;

/// What a metric counts. One name is one definition.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in results; those of a kind add it: `portability.reasoning`.
    pub name: &'static str,
    /// What is measured of a prompt, and how it becomes the number.
    pub definition: &'static str,
    /// EasyEdit's name for numbers that may be compared with each other, where it has one.
    pub comparable_group: Option<&'static str>,
    /// What a value is.
    pub unit: MetricUnit,
}

/// What a value of a prompt is, and what is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// From 0 to 1, in which the prompt has it; shown in percent.
    Share,
    /// A difference of shares, in percent.
    Difference,
    /// Natural logarithms.
    Nats,
    /// Logarithms to base 2, ×100 as published.
    CentiBits,
}

impl MetricUnit {
    /// What a value is multiplied by to be shown.
    pub fn scale(self) -> f64 {
        match self {
            MetricUnit::Share | MetricUnit::Difference | MetricUnit::CentiBits => 100.0,
            MetricUnit::Nats => 1.0,
        }
    }
}

/// A metric, of one of its kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub metric: &'static Metric,
    /// `reasoning`; empty for metrics without kinds.
    pub kind: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.kind[..] {
            "" => f.write_str(self.metric.name),
            kind => write!(f, "{}.{kind}", self.metric.name),
        }
    }
}

impl From<&'static Metric> for Named {
    fn from(metric: &'static Metric) -> Named {
        Named { metric, kind: String::new() }
    }
}

impl Metric {
    /// It, of a kind.
    pub fn of(&'static self, kind: &str) -> Named {
        Named { metric: self, kind: kind.to_owned() }
    }
}
