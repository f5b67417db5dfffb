//! What helps against an error, in words and as data. The words name no flag and no keyword: each
//! front end appends the settings in its own form, as flags or as keywords.

use std::fmt;

/// What to do about an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remedy {
    /// A sentence that is complete without the rest.
    pub text: String,
    /// Settings that the sentence speaks of; where there are several, alternatives.
    pub settings: Vec<Setting>,
    /// What else to run, before or instead.
    pub operation: Option<Operation>,
}

/// A parameter that helps, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whose parameter it is.
    pub kind: SettingKind,
    /// Its name: `emmet_lambda`, `device`.
    pub name: String,
    /// A value that helps; `None` where the user knows better.
    pub value: Option<String>,
}

/// Whose parameter a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// The method's, under the name that the field's configuration files use.
    Hyperparameter,
    /// The engine's: `device`, `memory`, `statistics`, `hparams`, …
    Option,
}

/// What else a remedy may ask to run: commands of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Look at what the machine offers: GPUs, driver, kernels.
    Doctor,
    /// List the changes that were applied in place.
    Log,
    /// Collect key statistics from text.
    CollectStatistics,
    /// Join the statistics of several texts or shards.
    MergeStatistics,
    /// Train what a method edits with.
    Train,
}

impl Operation {
    /// The command's words.
    pub fn command(self) -> &'static str {
        match self {
            Operation::Doctor => "doctor",
            Operation::Log => "log",
            Operation::CollectStatistics => "stats",
            Operation::MergeStatistics => "stats merge",
            Operation::Train => "train",
        }
    }
}

impl Remedy {
    /// Adds a hyperparameter that helps.
    #[must_use]
    pub fn hyperparameter(self, name: &str, value: Option<&str>) -> Remedy {
        self.with(SettingKind::Hyperparameter, name, value)
    }

    /// Adds an option that helps.
    #[must_use]
    pub fn option(self, name: &str, value: Option<&str>) -> Remedy {
        self.with(SettingKind::Option, name, value)
    }

    /// Names what to run.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Remedy {
        self.operation = Some(operation);
        self
    }

    fn with(mut self, kind: SettingKind, name: &str, value: Option<&str>) -> Remedy {
        let value = value.map(str::to_owned);
        self.settings.push(Setting { kind, name: name.to_owned(), value });
        self
    }
}

impl From<&str> for Remedy {
    fn from(text: &str) -> Remedy {
        Remedy::from(text.to_owned())
    }
}

impl From<String> for Remedy {
    fn from(text: String) -> Remedy {
        Remedy { text, ..Remedy::default() }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}
