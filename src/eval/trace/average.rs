//! Effects averaged over facts by the role of a token, and the layers they speak for.
//!
//! ```text
//! AIE(role, l)   the mean of IE(i, l) over all tokens i of that role, of all facts
//! ```
//!
//! A subject of one token is both its first and its last, as in the public code's figures. Where
//! the subject ends the prompt, the last token is the subject's last and nothing follows it.

use std::ops::Range;

use super::protocol::{CausalTrace, TracedPrompt};
use super::restore::TracedState;

/// What a token is in its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// The subject's first.
    SubjectFirst,
    /// Of the subject, between its first and its last.
    SubjectMiddle,
    /// The subject's last.
    SubjectLast,
    /// The first behind the subject.
    FirstAfter,
    /// Further ones behind it, but for the prompt's last.
    FurtherAfter,
    /// The prompt's last.
    Last,
}

impl TokenRole {
    /// All of them, in the order of a prompt.
    pub const ALL: [TokenRole; 6] = [
        TokenRole::SubjectFirst,
        TokenRole::SubjectMiddle,
        TokenRole::SubjectLast,
        TokenRole::FirstAfter,
        TokenRole::FurtherAfter,
        TokenRole::Last,
    ];

    /// As a key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            TokenRole::SubjectFirst => "subject_first",
            TokenRole::SubjectMiddle => "subject_middle",
            TokenRole::SubjectLast => "subject_last",
            TokenRole::FirstAfter => "first_after",
            TokenRole::FurtherAfter => "further_after",
            TokenRole::Last => "last",
        }
    }

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            TokenRole::SubjectFirst => "first subject token",
            TokenRole::SubjectMiddle => "middle subject tokens",
            TokenRole::SubjectLast => "last subject token",
            TokenRole::FirstAfter => "first subsequent token",
            TokenRole::FurtherAfter => "further tokens",
            TokenRole::Last => "last token",
        }
    }

    /// The tokens of a prompt that have it.
    fn of(self, prompt: &TracedPrompt) -> Range<usize> {
        let Range { start, end } = prompt.subject;
        let last = prompt.ids.len() - 1;
        match self {
            TokenRole::SubjectFirst => start..start + 1,
            TokenRole::SubjectMiddle => start + 1..end - 1,
            TokenRole::SubjectLast => end - 1..end,
            TokenRole::FirstAfter => end..last.min(end) + 1,
            TokenRole::FurtherAfter => end + 1..last,
            TokenRole::Last => last..last + 1,
        }
    }
}

/// The mean of numbers, and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunningMean {
    n: f64,
    sum: f64,
    squares: f64,
}

impl RunningMean {
    /// Takes one more number.
    pub fn add(&mut self, x: f64) {
        self.n += 1.0;
        self.sum += x;
        self.squares += x * x;
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.n as usize
    }

    /// Their mean; none where there is no number.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.sum / self.n)
    }

    /// The standard error of the mean; none of fewer than two.
    pub fn error(&self) -> Option<f64> {
        let variance = (self.squares - self.sum * self.sum / self.n).max(0.0) / (self.n - 1.0);
        (self.n > 1.0).then(|| (variance / self.n).sqrt())
    }
}

/// Effects of many facts.
#[derive(Clone, Debug, PartialEq)]
pub struct AverageEffects {
    /// Probability in the clean run.
    pub p_high: RunningMean,
    /// … and in the corrupted ones.
    pub p_low: RunningMean,
    effects: [[Vec<RunningMean>; 6]; 3], // of a kind of state, a role, a layer
}

impl AverageEffects {
    /// Of no fact yet, in a model of so many layers.
    pub fn new(layers: usize) -> AverageEffects {
        let none = RunningMean::default();
        let effects = [(); 3].map(|()| [(); 6].map(|()| vec![none; layers]));
        AverageEffects { p_high: none, p_low: none, effects }
    }

    /// Takes the effects of one more fact.
    pub fn add(&mut self, prompt: &TracedPrompt, trace: &CausalTrace) {
        self.p_high.add(trace.p_high);
        self.p_low.add(trace.p_low);
        for (own, ie) in self.effects.iter_mut().zip(&trace.ie) {
            for (own, role) in own.iter_mut().zip(TokenRole::ALL) {
                for token in role.of(prompt) {
                    own.iter_mut().zip(&ie[token]).for_each(|(own, &ie)| own.add(ie));
                }
            }
        }
    }

    /// AIE of a kind of state at tokens of a role, layer by layer.
    pub fn effects(&self, state: TracedState, role: TokenRole) -> &[RunningMean] {
        &self.effects[state as usize][role as usize]
    }

    /// The layers that the effects of MLPs at the subject's last token propose for editing.
    pub fn edit_layers(&self) -> Option<EditLayers> {
        let profile = self.effects(TracedState::Mlp, TokenRole::SubjectLast);
        EditLayers::propose(&profile.iter().map(|ie| ie.mean().unwrap_or(0.0)).collect::<Vec<_>>())
    }
}

/// Layers to edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditLayers {
    /// For a method that edits one.
    pub layer: usize,
    /// For one that edits several.
    pub layers: Range<usize>,
}

impl EditLayers {
    /// How they are found.
    pub const RULE: &str = "the middle of the layers about the peak whose average effect of the \
                            MLP at the subject's last token is at least half of the peak; for \
                            methods that edit several layers, the five about it";
    /// Where the rule is from.
    pub const SOURCE: &str = "ROME edits where the effect of MLPs at the subject's last token is \
                              greatest (Meng et al. 2022, section 2); the half height and the five \
                              layers are incise's own";
    const SEVERAL: usize = 5;

    /// By the average effect of each layer's MLP; none where no effect is positive.
    pub fn propose(profile: &[f64]) -> Option<EditLayers> {
        let peak = (0..profile.len()).max_by(|&a, &b| profile[a].total_cmp(&profile[b]))?;
        let half = profile[peak] / 2.0;
        if half <= 0.0 {
            return None;
        }
        let below = profile[..peak].iter().rev().take_while(|&&x| x >= half).count();
        let above = profile[peak..].iter().take_while(|&&x| x >= half).count() - 1;
        let layer = (2 * peak + above - below) / 2;
        let several = EditLayers::SEVERAL.min(profile.len());
        let first = layer.saturating_sub(several / 2).min(profile.len() - several);
        Some(EditLayers { layer, layers: first..first + several })
    }
}
