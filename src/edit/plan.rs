//! From requests to a patch: facts are planned one after another, each on the model as the facts
//! before it left it, and their changes become one patch.

use super::hparams::{Hparams, Method};
use super::rome;
use super::value::Step;
use crate::base::{Error, Progress, Result};
use crate::data::{Contexts, Request};
use crate::linalg::vector::norm;
use crate::model::Model;
use crate::model::score::Completion;
use crate::stats::Covariance;
use crate::store::{Change, Kind, tensor_fingerprint};
use crate::text::{Chat, Rows, Tokenizer, rows_in};

/// What one fact did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request's id.
    pub id: String,
    /// The loss at each step of its search.
    pub trace: Vec<Step>,
    /// The subject's last token, as text, its place and the prompt's length.
    pub token: (String, usize, usize),
    /// Per-token probability of the target after the bare prompt: before this fact, and after.
    pub probability: [f64; 2],
    /// ‖Δ‖ of this fact.
    pub norm: f64,
    /// ‖W‖ before it.
    pub weight: f64,
    /// Rewriting rows whose tokens merge over the seam of prompt and target.
    pub merged: usize,
}

/// The probability below which a fact is said to have failed: something else may be likelier.
const LIKELY: f64 = 0.5;

impl Outcome {
    /// Why the fact cannot be relied on, and what to try; `None` where the target is likely now.
    pub fn failed(&self) -> Option<String> {
        let p = self.probability[1];
        let (first, last) = (self.trace.first()?.total(), self.trace.last()?.total());
        (p < LIKELY).then(|| {
            format!(
                "the edit did not take: P of the target is {p:.2e}, and the loss went from \
                 {first:.2} to {last:.2} in {} steps; try another layer, more v_num_grad_steps or \
                 a larger clamp_norm_factor",
                self.trace.len()
            )
        })
    }
}

/// A change of one layer, one column a fact, and the model that has it.
pub struct Planned {
    /// The edited model.
    pub model: Model,
    /// What each fact did.
    pub outcomes: Vec<Outcome>,
    /// (D, n) and (F, n) by columns.
    columns: Vec<(Vec<f64>, Vec<f64>)>,
    layer: usize,
}

/// Plans all requests at one layer; with a chat, prompts are a user's message and targets the
/// model's answer.
///
/// # Errors
///
/// A subject or target that vanishes in tokenisation, a search that meets NaN, a wish to stop.
pub fn plan(
    model: &Model,
    (tokenizer, chat): (&Tokenizer, Option<&Chat>),
    c: Option<&Covariance>,
    requests: &[Request],
    contexts: &Contexts,
    (method, by): (Method, &Hparams),
    progress: &dyn Progress,
) -> Result<Planned> {
    let text = (tokenizer, chat);
    let rows = |request: &Request| rows_of(model, text, contexts, request);
    let all: Vec<Rows> = requests.iter().map(rows).collect::<Result<_>>()?;
    let mut planned =
        Planned { model: model.clone(), outcomes: vec![], columns: vec![], layer: by.layer };
    for (i, (request, rows)) in requests.iter().zip(&all).enumerate() {
        progress.at("fact", i as u64, requests.len() as u64);
        planned.add(tokenizer, c, request, rows, (method, by), progress)?;
    }
    progress.at("fact", requests.len() as u64, requests.len() as u64);
    Ok(planned)
}

/// The token rows of a request, all of which the model can run.
fn rows_of(
    model: &Model,
    (tokenizer, chat): (&Tokenizer, Option<&Chat>),
    contexts: &Contexts,
    request: &Request,
) -> Result<Rows> {
    let Request { prompt, subject, target_new, .. } = request;
    let made = || {
        let filled = prompt.replacen("{}", subject, 1);
        let frame = chat.map(|chat| chat.frame(&filled)).transpose()?;
        let target = match &frame {
            None => tokenizer.encode_target(target_new)?,
            Some(frame) => tokenizer.encode_after(&frame.tail, target_new)?,
        };
        let contexts = contexts.flat();
        let rows = rows_in(tokenizer, frame.as_ref(), &contexts, prompt, subject, target)?;
        rows.rewriting.iter().chain([&rows.kl]).try_for_each(|row| model.check(&row.ids))?;
        model.check(&rows.target)?;
        Ok(rows)
    };
    made().map_err(|e: Error| {
        let field = format!("record `{}`", request.id);
        Error::input("requests", field, e.to_string(), "change the record or take it out")
    })
}

impl Planned {
    fn add(
        &mut self,
        tokenizer: &Tokenizer,
        c: Option<&Covariance>,
        request: &Request,
        rows: &Rows,
        (method, by): (Method, &Hparams),
        progress: &dyn Progress,
    ) -> Result<()> {
        let (model, l) = (&self.model, by.layer);
        let one = rome::plan(model, c, rows, l, method.keys(), &by.search, progress)?;
        let after = model.with_down(l, rome::changed(model, l, &one));
        let bare = &rows.keys[0];
        let judged = [Completion {
            ids: [&bare.ids[..], &rows.target].concat(),
            candidate: rows.target.len(),
        }];
        let probability = [model, &after].map(|m| m.log_probability(&judged)[0].exp());
        self.outcomes.push(Outcome {
            id: request.id.clone(),
            token: (tokenizer.token_text(bare.ids[bare.lookup]), bare.lookup, bare.ids.len()),
            trace: one.value.trace,
            probability,
            norm: norm(&one.left) * norm(&one.right),
            weight: norm(&model.layers[l].down.w.to_dense::<f64>()),
            merged: rows.merged,
        });
        self.columns.push((one.left, one.right));
        self.model = after;
        Ok(())
    }

    /// The change, for the tensor whose stored bytes are `stored`.
    pub fn change(&self, stored: &[u8]) -> Change {
        let e = self.model.editable(self.layer);
        let (out, inner, r) = (e.out, e.inner, self.columns.len());
        let low_rank = r * (out + inner) < out * inner && r <= out.min(inner);
        let kind = match low_rank {
            true => Kind::LowRank {
                left: by_rows(out, self.columns.iter().map(|c| &c.0)),
                right: by_rows(inner, self.columns.iter().map(|c| &c.1)),
                r,
            },
            false => Kind::Dense(self.dense(out, inner)),
        };
        Change {
            tensor: e.tensor.clone(),
            module: e.module.clone(),
            out,
            inner,
            fan_in_fan_out: e.fan_in_fan_out,
            fingerprint: tensor_fingerprint(stored),
            kind,
        }
    }

    /// Σ left·rightᵀ (out, in).
    fn dense(&self, out: usize, inner: usize) -> Vec<f32> {
        let mut sum = vec![0.0; out * inner];
        for (left, right) in &self.columns {
            for (row, l) in sum.chunks_exact_mut(inner).zip(left) {
                row.iter_mut().zip(right).for_each(|(s, r)| *s += l * r);
            }
        }
        sum.into_iter().map(|s: f64| s as f32).collect()
    }
}

/// Columns of `len` elements as a row-major matrix (len, n) in f32.
fn by_rows<'a>(len: usize, columns: impl ExactSizeIterator<Item = &'a Vec<f64>>) -> Vec<f32> {
    let n = columns.len();
    let mut all = vec![0.0; len * n];
    for (j, column) in columns.enumerate() {
        column.iter().enumerate().for_each(|(i, &x)| all[i * n + j] = x as f32);
    }
    all
}
