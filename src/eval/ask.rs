//! Asks a model: many cases' questions, in batches of bounded size.

use super::item::{Answer, Continuing, Question};
use crate::base::{Result, Rng};
use crate::model::completion::Completion;
use crate::model::divergence::divergence;
use crate::model::generate::{Beginning, generate_all};
use crate::model::score::{Score, score_units};
use crate::model::{Batch, LanguageModel};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::text::Tokenizer;

/// Who is asked.
pub struct Respondent<'a> {
    /// The model as it is now.
    pub model: &'a dyn LanguageModel,
    /// As it was before the edit.
    pub before: &'a dyn LanguageModel,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Tokens that end a text.
    pub ends: &'a [u32],
    /// Tokens that run at a time; a case that has more runs alone.
    pub tokens: usize,
}

impl Respondent<'_> {
    /// The answers to each case's questions. They do not depend on the other cases.
    ///
    /// # Errors
    ///
    /// A device that is out of memory; a text that the tokenizer cannot decode.
    pub fn answers(&self, cases: &[&[Question]]) -> Result<Vec<Vec<Answer>>> {
        let completions: Vec<Vec<Completion>> = cases.iter().map(|case| taken(case)).collect();
        let mut scores = self.scores(&completions)?.into_iter();
        let answers = |case: &&[Question]| {
            let mut scores = scores.next().unwrap_or_default().into_iter();
            let mut kl = self.divergences(case)?.into_iter();
            let mut said = self.says(case)?.into_iter();
            let answer = |question: &Question| {
                Ok(match question {
                    Question::Takes(_) => {
                        Answer::Takes(scores.next().expect("a score of each completion"))
                    }
                    Question::Next(_) => Answer::Next(kl.next().expect("a number of each text")),
                    Question::Says(_) => said.next().expect("what it says to each"),
                })
            };
            case.iter().map(answer).collect()
        };
        cases.iter().map(answers).collect()
    }

    /// The scores of each case's completions, as many cases at a time as fit.
    fn scores(&self, cases: &[Vec<Completion>]) -> Result<Vec<Vec<Score>>> {
        let size = |case: &Vec<Completion>| case.iter().map(|text| text.read.len()).sum::<usize>();
        let mut scores = Vec::with_capacity(cases.len());
        let mut rest = cases;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |case: &&Vec<Completion>| {
                tokens += size(case);
                tokens <= self.tokens
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            let units: Vec<&[Completion]> = now.iter().map(Vec::as_slice).collect();
            scores.extend(score_units(self.model, &units)?);
            rest = later;
        }
        Ok(scores)
    }

    /// KL of the next token after each text of a case that asks for it.
    fn divergences(&self, case: &[Question]) -> Result<Vec<f64>> {
        let texts = case.iter().filter_map(|question| match question {
            Question::Next(ids) => Some(ids),
            _ => None,
        });
        let mut batch = Batch::whole(texts);
        let rows: Vec<_> = batch.seqs.iter().map(|seq| (seq.rows.end - 1, None)).collect();
        if rows.is_empty() {
            return Ok(vec![]);
        }
        batch.fill(BATCH_INVARIANT_ROWS);
        let found = divergence(self.before, self.model, &batch, &rows)?;
        Ok(found.iter().map(|row| row.kl).collect())
    }

    /// What the model says after each text of a case that asks for it, up to its first stop.
    fn says(&self, case: &[Question]) -> Result<Vec<Answer>> {
        let mut texts: Vec<Saying> = case.iter().filter_map(Saying::new).collect();
        let begun = texts.iter_mut().map(|text| text.begin(self.tokenizer)).collect();
        let tokens = generate_all(self.model, begun, self.ends)?;
        let answer = |(text, tokens): (Saying, Vec<u32>)| {
            let text = match text.ended? {
                Some(text) => text,
                None => self.tokenizer.decode_after(&tokens)?,
            };
            Ok(Answer::Says { tokens, text })
        };
        texts.into_iter().zip(tokens).map(answer).collect()
    }
}

/// A text that the model goes on with.
struct Saying<'q> {
    asked: &'q Continuing,
    rng: Rng,
    said: Vec<u32>,
    ended: Result<Option<String>>, // the text before the first stop, once there is one
}

impl<'q> Saying<'q> {
    /// Of a question that asks for it.
    fn new(question: &'q Question) -> Option<Saying<'q>> {
        let Question::Says(asked) = question else { return None };
        let (seed, purpose) = &asked.seed;
        Some(Saying { asked, rng: Rng::new(*seed, purpose), said: Vec::new(), ended: Ok(None) })
    }

    fn begin<'a>(&'a mut self, tokenizer: &'a Tokenizer) -> Beginning<'a> {
        let asked = self.asked;
        let Saying { rng, said, ended, .. } = self;
        let each = Box::new(move |token| {
            said.push(token);
            *ended = tokenizer.decode_after(said).map(|so_far| {
                let first = asked.stops.iter().filter_map(|stop| so_far.find(&stop[..])).min();
                first.map(|at| so_far[..at].to_owned())
            });
            matches!(ended, Ok(None))
        });
        Beginning { prompt: &asked.ids, most: asked.most, sampling: asked.sampling, rng, each }
    }
}

/// The completions among a case's questions.
fn taken(case: &[Question]) -> Vec<Completion> {
    let taken = case.iter().filter_map(|question| match question {
        Question::Takes(completion) => Some(completion.clone()),
        _ => None,
    });
    taken.collect()
}
