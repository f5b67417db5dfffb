//! One fact to be changed, in whichever form it came.

use serde::Serialize;

/// One fact to be changed, and what to measure it with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Unique in its file: the record's own, else its index from 0.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Has exactly one `{}`, for the subject; `{}` alone where the whole prompt is the subject.
    pub prompt: String,
    /// What the fact is about, without white space around it; empty where it is the whole prompt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// What the model should continue the prompt with.
    pub target_new: String,
    /// Whether a space stands between prompt and target; where it is not said, the texts decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<bool>,
    /// What it continues it with now, if the source knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_true: Option<String>,
    /// The prompt in other words, subject written out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paraphrases: Vec<String>,
    /// The same relation of other subjects, which must not change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub neighbourhood: Vec<Continuation>,
    /// What follows from the new fact; the target holds after the edit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub portability: Vec<Continuation>,
    /// Anything else that must not change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locality: Vec<Continuation>,
}

impl Fact {
    /// A fact by its prompt, with `{}` for the subject, its subject, and what the model should
    /// continue the prompt with; its id will be its number. With an empty subject the whole prompt
    /// is the subject.
    pub fn new(
        prompt: impl Into<String>,
        subject: impl Into<String>,
        target_new: impl Into<String>,
    ) -> Fact {
        let (prompt, subject, target_new) = (prompt.into(), subject.into(), target_new.into());
        Fact { prompt, subject, target_new, ..Fact::default() }
    }

    /// Whether a part of the prompt is the subject, rather than all of it.
    pub fn has_subject(&self) -> bool {
        self.prompt.trim() != "{}"
    }

    /// The prompt with its subject filled in.
    pub fn filled(&self) -> String {
        self.prompt.replacen("{}", &self.subject, 1)
    }

    /// `prompt` behind the new fact as a sentence, which distracts a model that was edited
    /// (CounterFact+, Hoelscher-Obermaier et al. 2023): "Ada is from Rome. Bob is from".
    pub fn distracting(&self, prompt: &str) -> String {
        format!("{} {}. {prompt}", self.filled(), self.target_new.trim_start())
    }
}

/// A prompt that measures an edit, and its right continuation if it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Continuation {
    /// The whole prompt.
    pub prompt: String,
    /// Its right continuation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Continuation {
    /// A prompt whose right continuation is `target`.
    pub fn new(prompt: impl Into<String>, target: Option<String>) -> Self {
        Continuation { prompt: prompt.into(), target }
    }
}
