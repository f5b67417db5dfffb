//! All that is asked about a case, each question once, and the values its answers give.

use super::item::{Answer, Question, TestItem};
use super::suite::Suite;
use super::words::Words;
use crate::base::Result;
use crate::data::Case;

/// What is asked about one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// The numbers to be had.
    pub items: Vec<TestItem>,
    /// The questions of all items: what several ask is in it once.
    pub asked: Vec<Question>,
    /// Numbers that are not had, because a text is longer than the model's context.
    pub too_long: usize,
    /// Of each item, where its questions are in `asked`.
    places: Vec<Vec<usize>>,
}

impl Sheet {
    /// What some suites ask about a case.
    ///
    /// # Errors
    ///
    /// A text that the tokenizer fails on, or leaves nothing of.
    pub fn new(case: &Case, suites: &[&Suite], words: &Words) -> Result<Sheet> {
        let mut items = Vec::new();
        for suite in suites {
            items.extend((suite.items)(case, words)?);
        }
        let all = items.len();
        let fits = |question: &Question| question.positions() <= words.positions;
        items.retain(|item| item.questions.iter().all(fits));
        let too_long = all - items.len();
        Ok(Sheet { too_long, ..Sheet::of(items) })
    }

    /// What these items ask.
    fn of(items: Vec<TestItem>) -> Sheet {
        let mut asked: Vec<Question> = Vec::new();
        let mut place = |question: &Question| {
            let known = asked.iter().position(|other| other == question);
            known.unwrap_or_else(|| {
                asked.push(question.clone());
                asked.len() - 1
            })
        };
        let places = |item: &TestItem| item.questions.iter().map(&mut place).collect();
        let places = items.iter().map(places).collect();
        Sheet { items, asked, too_long: 0, places }
    }

    /// Positions that all questions need together.
    pub fn tokens(&self) -> usize {
        self.asked.iter().map(Question::positions).sum()
    }

    /// Keeps only some of the items.
    pub fn keep(&mut self, wanted: impl FnMut(&TestItem) -> bool) {
        let mut items = std::mem::take(&mut self.items);
        items.retain(wanted);
        *self = Sheet { too_long: self.too_long, ..Sheet::of(items) };
    }

    /// The value of each item, of the answers to all questions before the edit and now.
    pub fn values(&self, before: &[Answer], now: &[Answer]) -> Vec<f64> {
        let value = |(item, places): (&TestItem, &Vec<usize>)| {
            let [before, now] =
                [before, now].map(|all| places.iter().map(|&i| &all[i]).collect::<Vec<_>>());
            item.rule.value(&before, &now)
        };
        self.items.iter().zip(&self.places).map(value).collect()
    }
}
