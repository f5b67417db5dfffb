//! ROME's protocol for one prompt.
//!
//! ```text
//! answer     what the clean run says next; its probability there is p_high
//! p_low      the mean over n copies whose subject is corrupted (`noise.rs`)
//! TE         p_high − p_low, the total effect
//! IE(i, l)   p with the state of token i at layer l restored (`restore.rs`) − p_low
//! hidden     one layer: the stream behind it
//! MLP, attention     a window of w layers about l, [l − ⌊w/2⌋, l + ⌈w/2⌉), as far as there are any
//! ```
//!
//! Before the subject every state is the clean one, so that IE is 0 there.
//!
//! Source: Meng et al. 2022, arXiv:2202.05262, section 2 and appendix B; the public code's
//! `causal_trace.py`.

use std::ops::Range;

use super::noise;
use super::restore::{PromptRuns, Restoration, TracedState};
use crate::base::{Error, Progress, Result};
use crate::model::Model;
use crate::text::{Tokenizer, subject_token};

/// How a prompt is traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceSettings {
    /// n, corrupted copies.
    pub samples: usize,
    /// w, layers in which outputs of MLPs and attention are restored together.
    pub window: usize,
    /// ν, the standard deviation of the noise.
    pub nu: f64,
    /// Of the noise; 1 as published.
    pub seed: u32,
}

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedPrompt {
    /// Of the prompt.
    pub ids: Vec<u32>,
    /// Which of them are the subject's.
    pub subject: Range<usize>,
}

impl TracedPrompt {
    /// A prompt with one `{}` for its subject.
    ///
    /// # Errors
    ///
    /// A prompt without exactly one `{}`; a subject without tokens; more tokens than the model's
    /// context has.
    pub fn new(model: &Model, tok: &Tokenizer, prompt: &str, subject: &str) -> Result<Self> {
        let filled = subject_token(tok, prompt, subject)?;
        model.arch.check(&filled.ids)?;
        let subject = filled.subject_first..filled.subject_last + 1;
        Ok(TracedPrompt { ids: filled.ids, subject })
    }
}

/// The effects of the states of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct CausalTrace {
    /// The clean run's next token.
    pub answer: u32,
    /// Its probability in the clean run.
    pub p_high: f64,
    /// … and in the corrupted ones.
    pub p_low: f64,
    /// IE of each token and layer, of each kind of state in the order of [`TracedState::ALL`].
    pub ie: [Vec<Vec<f64>>; 3],
}

impl CausalTrace {
    /// TE.
    pub fn total(&self) -> f64 {
        self.p_high - self.p_low
    }
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum TraceOutcome {
    /// Its effects.
    Traced(CausalTrace),
    /// It was not traced: the model says this token and not what was expected.
    Skipped(u32),
}

impl TraceSettings {
    /// Traces a prompt, unless the model's next token is not the one that is `expected`.
    ///
    /// # Errors
    ///
    /// Logits that are not finite; a cancelled run; a device that is out of memory.
    pub fn trace(
        &self,
        model: &Model,
        prompt: &TracedPrompt,
        expected: Option<u32>,
        progress: &dyn Progress,
    ) -> Result<TraceOutcome> {
        let TracedPrompt { ids, subject } = prompt;
        let shape = [self.samples, subject.len(), model.arch.width];
        if self.samples == 0 || self.window == 0 {
            let what = "tracing without a corrupted copy, or a window without a layer";
            return Err(Error::refused(what, "ask for at least one of each"));
        }
        let noise = noise::draw(self.seed, self.nu, shape);
        let runs = PromptRuns::new(model, ids, subject.clone(), &noise)?;
        if expected.is_some_and(|token| token != runs.answer) {
            return Ok(TraceOutcome::Skipped(runs.answer));
        }
        let layers = model.arch.layers;
        let all = self.restorations(subject.start..ids.len(), layers);
        let p = runs.restored(&all, progress)?;
        let mut ie = [(); 3].map(|()| vec![vec![0.0; layers]; ids.len()]);
        let mut effects = p.iter().map(|p| p - runs.p_low);
        for effects_of in &mut ie {
            for row in &mut effects_of[subject.start..] {
                row.iter_mut().zip(&mut effects).for_each(|(to, effect)| *to = effect);
            }
        }
        let PromptRuns { answer, p_high, p_low, .. } = runs;
        Ok(TraceOutcome::Traced(CausalTrace { answer, p_high, p_low, ie }))
    }

    /// A restoration of each kind, at each of some tokens, about each layer.
    fn restorations(&self, tokens: Range<usize>, layers: usize) -> Vec<Restoration> {
        let mut all = Vec::new();
        for state in TracedState::ALL {
            for token in tokens.clone() {
                all.extend((0..layers).map(|l| Restoration {
                    state,
                    tokens: token..token + 1,
                    layers: match state {
                        TracedState::Hidden => l..l + 1,
                        _ => self.about(l, layers),
                    },
                }));
            }
        }
        all
    }

    /// The window about layer l.
    fn about(&self, l: usize, layers: usize) -> Range<usize> {
        l.saturating_sub(self.window / 2)..layers.min(l + self.window.div_ceil(2))
    }
}
