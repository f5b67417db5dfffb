//! Requests become facts: token rows that the model can run.

use std::path::Path;

use super::prompts::{FactRows, framed_rows};
use crate::base::{Error, Result};
use crate::data::{Contexts, Request};
use crate::model::Model;
use crate::text::{Chat, Tokenizer};

/// A request and its token rows.
#[derive(Clone, Debug)]
pub struct TokenizedFact {
    /// What is asked for.
    pub request: Request,
    /// Its rows, one a context.
    pub rows: FactRows,
    /// The subject's last token, as text, its place and the prompt's length.
    pub token: (String, usize, usize),
}

/// The facts of requests; with a chat, prompts are a user's message and targets the model's
/// answer. `file` is where the requests come from.
///
/// # Errors
///
/// A subject or target that vanishes in tokenisation, a text the model cannot run; the record is
/// named.
pub fn tokenize(
    model: &Model,
    (tokenizer, chat): (&Tokenizer, Option<&Chat>),
    (file, requests): (&Path, &[Request]),
    contexts: &Contexts,
) -> Result<Vec<TokenizedFact>> {
    let contexts = contexts.flat();
    let fact = |request: &Request| {
        let rows = rows_of(model, (tokenizer, chat), request, &contexts).map_err(|e| {
            let field = format!("record `{}`", request.id);
            let (what, remedy) = match &e {
                Error::Refused { what, remedy } => (what.clone(), (**remedy).clone()),
                e => (e.to_string(), "change the record or take it out".into()),
            };
            Error::input(file, field, what, remedy)
        })?;
        let bare = &rows.keys[0];
        let token = (tokenizer.token_text(bare.ids[bare.lookup]), bare.lookup, bare.ids.len());
        Ok(TokenizedFact { request: request.clone(), rows, token })
    };
    requests.iter().map(fact).collect()
}

/// The token rows of a request.
fn rows_of(
    model: &Model,
    (tokenizer, chat): (&Tokenizer, Option<&Chat>),
    request: &Request,
    contexts: &[&str],
) -> Result<FactRows> {
    let Request { prompt, subject, target_new, .. } = request;
    let filled = prompt.replacen("{}", subject, 1);
    let frame = chat.map(|chat| chat.frame(&filled)).transpose()?;
    let target = match &frame {
        None => tokenizer.encode_target(target_new)?,
        Some(frame) => tokenizer.encode_after(&frame.tail, target_new)?,
    };
    let rows = framed_rows(tokenizer, frame.as_ref(), contexts, prompt, subject, target)?;
    rows.rewriting.iter().chain([&rows.kl]).try_for_each(|row| model.check(&row.ids))?;
    model.check(&rows.target)?;
    Ok(rows)
}
