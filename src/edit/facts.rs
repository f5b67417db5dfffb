//! Requests become facts: token rows that the model can run.

use super::prompts::{FactRows, FactToken, framed_rows};
use crate::base::{Error, Remedy, Result};
use crate::data::broken::Broken;
use crate::data::{Contexts, Fact};
use crate::model::Model;
use crate::text::{Chat, Tokenizer, seam};

/// A request and its token rows.
#[derive(Clone, Debug)]
pub struct TokenizedFact {
    /// What is asked for.
    pub request: Fact,
    /// Its rows, one a context.
    pub rows: FactRows,
    /// The token it is read at, as text, its place and the prompt's length.
    pub token: (String, usize, usize),
    /// The target's first token, as text: with the space before it, if it has one.
    pub target_token: String,
}

/// How the texts of requests become tokens.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Where prompts are a user's message and targets the model's answer.
    pub chat: Option<&'a Chat>,
    /// Where facts with a subject are read; others are read at the prompt's last token.
    pub at: FactToken,
    /// Whether a space stands between prompt and target where a request does not say.
    pub space: Option<bool>,
}

impl<'a> Reading<'a> {
    /// Prompts and targets as they stand, read at the subject's last token.
    pub fn plain(tokenizer: &'a Tokenizer) -> Reading<'a> {
        Reading { tokenizer, chat: None, at: FactToken::SubjectLast, space: None }
    }
}

/// Facts, and requests that cannot be made into any.
pub type Tokenized = (Vec<TokenizedFact>, Vec<Broken>);

/// The facts of requests, and the requests that cannot be made into any: a subject or target that
/// vanishes in tokenisation, a text the model cannot run, one that its chat template refuses.
pub fn tokenize(
    model: &Model,
    reading: Reading,
    requests: &[Fact],
    contexts: &Contexts,
) -> Tokenized {
    let contexts = contexts.flat();
    let tokenizer = reading.tokenizer;
    let (mut facts, mut broken) = (Vec::new(), Vec::new());
    for request in requests {
        match rows_of(model, reading, request, &contexts) {
            Ok(rows) => {
                let bare = &rows.keys[0];
                let token =
                    (tokenizer.token_text(bare.ids[bare.lookup]), bare.lookup, bare.ids.len());
                let target_token = tokenizer.token_text(rows.target[0]);
                facts.push(TokenizedFact { request: request.clone(), rows, token, target_token });
            }
            Err(e) => broken.push(Broken::new(&request.id, &about(request, e))),
        }
    }
    (facts, broken)
}

/// An error of a request, whichever file is at fault: that of a template names its own.
fn about(request: &Fact, e: Error) -> Error {
    match e {
        Error::Input { path, field, what, remedy } => {
            let file = path.file_name().unwrap_or(path.as_os_str()).display();
            let what = format!("{file}: {field}: {what}");
            Error::input("", format!("record `{}`", request.id), what, *remedy)
        }
        e => e,
    }
}

/// The token rows of a request.
fn rows_of(model: &Model, reading: Reading, request: &Fact, contexts: &[&str]) -> Result<FactRows> {
    let Reading { tokenizer, chat, at, space } = reading;
    let Fact { prompt, subject, target_new, .. } = request;
    let filled = request.filled();
    let frame = chat.map(|chat| chat.frame(&filled)).transpose()?;
    let target = match &frame {
        None => tokenizer.encode_target(&filled, target_new, request.space.or(space))?,
        Some(frame) => {
            let space = request.space.unwrap_or(false);
            let target = seam::joined(&frame.tail, target_new, Some(space));
            tokenizer.encode_after(&frame.tail, &target)?
        }
    };
    let at = if request.has_subject() { at } else { FactToken::Last };
    let asked = (&prompt[..], &subject[..], at);
    let rows = framed_rows(tokenizer, frame.as_ref(), contexts, asked, target)?;
    model.arch.check(&rows.rewriting[0].ids)?;
    model.arch.check(&rows.kl.ids)?;
    model.arch.check(&rows.target)?;
    for (row, context) in rows.rewriting.iter().zip(contexts).skip(1) {
        model.arch.check(&row.ids).map_err(|e| match e {
            Error::Refused { what, .. } if row.ids.len() > model.arch.max_positions => {
                let what = format!("after the context {context:?}: {what}");
                let remedy = Remedy::from("take shorter contexts, or shorten the record");
                Error::refused(what, remedy.option("contexts", None))
            }
            e => e,
        })?;
    }
    Ok(rows)
}
