//! A number to be had of a case: its metric, what a model is asked for it, and the rule that makes
//! it of the answers.

use std::sync::Arc;

use super::fluency::{Idf, entropy};
use super::metric::Named;
use crate::model::completion::Completion;
use crate::model::generate::Sampling;
use crate::model::score::Score;

/// One value of one metric: of a prompt, or of prompts that count together.
#[derive(Clone, Debug, PartialEq)]
pub struct TestItem {
    /// What it is a value of.
    pub metric: Named,
    /// The prompt, or the first of several, to be shown.
    pub prompt: String,
    /// What the model is asked.
    pub questions: Vec<Question>,
    /// What becomes of its answers.
    pub rule: Rule,
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// How it takes given words.
    Takes(Completion),
    /// Which token it holds how likely after a text, against the model before the edit.
    Next(Vec<u32>),
    /// What it says.
    Says(Continuing),
}

/// A text to be gone on with.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuing {
    /// The prompt.
    pub ids: Vec<u32>,
    /// At most so many tokens after it.
    pub most: usize,
    /// The first of these ends the text, and is not in it.
    pub stops: Vec<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Of the choice: a seed and what it is for.
    pub seed: (u64, String),
}

impl Continuing {
    /// The likeliest tokens, up to one of some stops.
    pub fn greedy(ids: Vec<u32>, most: usize, stops: &[&str]) -> Continuing {
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        Continuing { ids, most, stops, sampling: Sampling::GREEDY, seed: (0, String::new()) }
    }
}

impl Question {
    /// Positions that it needs.
    pub fn positions(&self) -> usize {
        match self {
            Question::Takes(completion) => completion.read.len(),
            Question::Next(ids) => ids.len(),
            Question::Says(text) => text.ids.len() + text.most,
        }
    }
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Question::Takes`].
    Takes(Score),
    /// To [`Question::Next`]: KL(before ‖ now) in nats.
    Next(f64),
    /// To [`Question::Says`].
    Says {
        /// Ids of what it said, up to where a stop ended it.
        tokens: Vec<u32>,
        /// It as text, without the stop.
        text: String,
    },
}

/// What becomes of the answers. `q₀ q₁ …` are the questions in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// 1 where nll(q₀) < nll(q₁): the first candidate is likelier, by the mean over its tokens.
    Likelier,
    /// exp(−nll(q₀)) − exp(−nll(q₁)).
    Magnitude,
    /// 1 where greedy decoding says any of the candidates.
    Said,
    /// The share of all questions' tokens, each the first of its question, that are the likeliest.
    Share,
    /// The share of tokens of q₀ at whose place the model now holds the same likeliest as before.
    Agrees,
    /// Mean KL over the questions.
    Divergence,
    /// 1 where what it says to any question is one of these words by [`normalised`], if so asked.
    Answers {
        /// The right answers, in all their spellings.
        right: Vec<String>,
        /// What is compared of a text.
        by: Compared,
    },
    /// 1 where it says to q₀ the same tokens as before.
    SaysTheSame,
    /// The entropy of this prompt and what it says to q₀: [`entropy`].
    Entropy(String),
    /// The cosine of these prompts with what it says to each, one after another, and of what is
    /// written of the new target.
    Consistency {
        /// A prompt a question.
        prompts: Vec<String>,
        /// The weights of words.
        idf: Arc<Idf>,
        /// What is written.
        written: Arc<str>,
    },
    /// What is known without a question.
    Known(f64),
}

/// What of a text is compared with right answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// All of it, without white space around it.
    Text,
    /// All of it, in small letters, without punctuation, articles and doubled blanks (SQuAD).
    Normalised,
    /// What follows the first `Answer:`, up to the end of its line.
    Answer,
}

impl Rule {
    /// The value, of a model's answers before the edit and now.
    ///
    /// # Panics
    ///
    /// On answers to other questions than the rule is for.
    pub fn value(&self, before: &[&Answer], now: &[&Answer]) -> f64 {
        let share = |yes: bool| f64::from(u8::from(yes));
        match self {
            Rule::Likelier => share(taken(now[0]).nll() < taken(now[1]).nll()),
            Rule::Magnitude => (-taken(now[0]).nll()).exp() - (-taken(now[1]).nll()).exp(),
            Rule::Said => share(now.iter().any(|answer| taken(answer).missed().is_none())),
            Rule::Share => {
                let tokens = || now.iter().flat_map(|answer| &taken(answer).tokens);
                tokens().filter(|token| token.is_hit()).count() as f64 / tokens().count() as f64
            }
            Rule::Agrees => {
                let pairs = || taken(before[0]).tokens.iter().zip(&taken(now[0]).tokens);
                pairs().filter(|(a, b)| a.says == b.says).count() as f64 / pairs().count() as f64
            }
            Rule::Divergence => {
                let kl = |answer: &&Answer| match answer {
                    Answer::Next(kl) => *kl,
                    other => panic!("no distribution: {other:?}"),
                };
                now.iter().map(kl).sum::<f64>() / now.len() as f64
            }
            Rule::Answers { right, by } => {
                let is_right = |answer: &&Answer| {
                    let text = by.of(said(answer).1);
                    right.iter().any(|right| by.right(right) == text)
                };
                share(now.iter().any(is_right))
            }
            Rule::Entropy(prompt) => entropy(&format!("{prompt}{}", said(now[0]).1)),
            Rule::Consistency { prompts, idf, written } => {
                let texts = prompts.iter().zip(now).map(|(x, now)| format!("{x}{}", said(now).1));
                idf.cosine(&texts.collect::<Vec<_>>().join(" "), written)
            }
            Rule::Known(value) => *value,
            Rule::SaysTheSame => share(said(before[0]).0 == said(now[0]).0),
        }
    }
}

impl Compared {
    /// What is compared of a text that the model said.
    fn of(self, text: &str) -> String {
        match self {
            Compared::Text | Compared::Normalised => self.right(text),
            Compared::Answer => {
                let after = text.split_once("Answer:").map_or("", |(_, after)| after);
                after.lines().next().unwrap_or("").trim().to_owned()
            }
        }
    }

    /// What it is compared with.
    fn right(self, answer: &str) -> String {
        match self {
            Compared::Normalised => normalised(answer),
            Compared::Text | Compared::Answer => answer.trim().to_owned(),
        }
    }
}

fn taken(answer: &Answer) -> &Score {
    match answer {
        Answer::Takes(score) => score,
        other => panic!("no score: {other:?}"),
    }
}

fn said(answer: &Answer) -> (&[u32], &str) {
    match answer {
        Answer::Says { tokens, text } => (tokens, text),
        other => panic!("no text: {other:?}"),
    }
}

/// SQuAD's normal form: small letters, without ASCII punctuation, the articles a, an and the, and
/// more than one blank at a time.
pub fn normalised(text: &str) -> String {
    let kept = text.to_lowercase().replace(|c: char| c.is_ascii_punctuation(), "");
    let is_article = |word: &&str| ["a", "an", "the"].contains(word);
    kept.split_whitespace().filter(|word| !is_article(word)).collect::<Vec<_>>().join(" ")
}
