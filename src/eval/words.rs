//! Texts as tokens, in the ways that published code has.

use std::str::FromStr;

use super::fluency::References;
use crate::base::Result;
use crate::data::Demonstrations;
use crate::model::completion::Completion;
use crate::text::Tokenizer;

/// How a prompt x and a candidate o become tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// ids(x), special tokens included, and then the ids o has after x: those an edit is trained
    /// on.
    #[default]
    None,
    /// As ROME and MEMIT: reads ids(x + " " + o), and scores ids(" " + o) encoded alone, special
    /// tokens included, from the row |ids(x)| − 1 on. The same for GPT-2 and GPT-J.
    Memit,
    /// As AlphaEdit: the same, without the first id of the candidate where the tokenizer adds one,
    /// which its code asks of the folder's name.
    AlphaEdit,
}

impl Compat {
    /// Their names, but for `None`.
    pub const NAMES: [&str; 2] = ["memit", "alphaedit"];

    /// Its name, unless it is `None`.
    pub fn name(self) -> Option<&'static str> {
        (self as usize).checked_sub(1).map(|place| Compat::NAMES[place])
    }
}

impl FromStr for Compat {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Compat, String> {
        let found = [Compat::Memit, Compat::AlphaEdit].into_iter().find(|c| c.name() == Some(name));
        found.ok_or_else(|| format!("no code is called {name}: {}", Compat::NAMES.join(", ")))
    }
}

/// A tokenizer and a way to use it.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// The model's.
    pub tokenizer: &'a Tokenizer,
    /// Of CounterFact's metrics.
    pub compat: Compat,
    /// What MQuAKE's questions stand behind.
    pub demonstrations: Option<&'a Demonstrations>,
    /// What sampled text is compared with.
    pub references: Option<&'a References>,
    /// Of what is sampled.
    pub seed: u64,
    /// Positions that the model has: what needs more is not asked.
    pub positions: usize,
}

impl Words<'_> {
    /// ids(x).
    ///
    /// # Errors
    ///
    /// A tokenizer that fails on the text.
    pub fn ids(&self, x: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(x)
    }

    /// A candidate after a prompt, with a space between them where `space` or the texts say so.
    ///
    /// # Errors
    ///
    /// A candidate without tokens.
    pub fn candidate(&self, x: &str, o: &str, space: Option<bool>) -> Result<Completion> {
        let target = self.tokenizer.encode_target(x, o, space)?;
        Ok(Completion::new(&self.ids(x)?, &target))
    }

    /// A candidate as CounterFact's metrics read it.
    ///
    /// # Errors
    ///
    /// As [`candidate`](Words::candidate).
    pub fn compared(&self, x: &str, o: &str, space: Option<bool>) -> Result<Completion> {
        if self.compat == Compat::None {
            return self.candidate(x, o, space);
        }
        let spaced = format!(" {}", o.trim_start());
        let mut labels = self.ids(&spaced)?;
        let added = labels.len() - self.tokenizer.encode_bare(&spaced)?.ids.len();
        if self.compat == Compat::AlphaEdit {
            labels.drain(..added);
        }
        let mut read = self.ids(&format!("{x}{spaced}"))?;
        let end = self.ids(x)?.len() + labels.len() - 1;
        // Where tokens merge over the seam the text is shorter: what is missing is taken of o.
        read.extend(labels.iter().skip(1).take(end.saturating_sub(read.len())));
        read.truncate(end);
        Ok(Completion { read, labels })
    }

    /// A target as EasyEdit reads it: always a space, the joint text's ids from |ids(x)| on. None
    /// where those of x are as many as of the whole.
    ///
    /// # Errors
    ///
    /// A tokenizer that fails on the text.
    pub fn easyedit(&self, x: &str, target: &str) -> Result<Option<Completion>> {
        let joint = self.ids(&format!("{x} {target}"))?;
        let start = self.ids(x)?.len();
        let labels = joint.get(start..).unwrap_or_default().to_vec();
        let is_there = start > 0 && !labels.is_empty();
        Ok(is_there.then(|| Completion { read: joint[..joint.len() - 1].to_vec(), labels }))
    }
}
