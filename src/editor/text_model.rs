//! A model and its tokenizer: text in, text out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::base::file::read_file;
use crate::base::{Error, Remedy, Result, Rng};
use crate::memory::Memory;
use crate::model::generate::{Sampling, generate};
use crate::model::language_model::logits_in_chunks;
use crate::model::{LanguageModel, Model};
use crate::text::{Chat, ChatSettings, DecodeStream, Tokenizer};

/// A model and its tokenizer. Clones share the weights.
#[derive(Clone)]
pub struct TextModel {
    dir: PathBuf,
    model: Model,
    with: Arc<dyn LanguageModel>, // the model, with what lives beside its weights
    tokenizer: Arc<Tokenizer>,
}

/// How a text goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// At most this many tokens.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Of the choice.
    pub seed: u64,
    /// Of the model's chat template, where the prompt is a user's message in it.
    pub chat: Option<ChatSettings>,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The text after the prompt.
    pub text: String,
    /// Ids of the prompt, in its template if there is one.
    pub prompt_tokens: Vec<u32>,
    /// Ids of the text.
    pub tokens: Vec<u32>,
    /// The prompt in the chat template.
    pub rendered: Option<String>,
}

/// What a model says after every token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextLogits {
    /// Ids of the text, with the special tokens that the tokenizer adds.
    pub tokens: Vec<u32>,
    /// V.
    pub vocabulary: usize,
    /// z (tokens, V), row-major.
    pub values: Vec<f32>,
}

/// Rows of logits that are computed at a time.
const LOGIT_ROWS: usize = 64;

impl Generation {
    /// The likeliest tokens, at most so many.
    pub fn greedy(max_tokens: usize) -> Generation {
        Generation { max_tokens, sampling: Sampling::GREEDY, seed: 0, chat: None }
    }

    /// Refuses what no token can be chosen by, and a limit on a choice that there is not.
    fn check(&self) -> Result<()> {
        let Sampling { temperature, top_k, top_p } = self.sampling;
        let refused = |what: String, option: &str, value| {
            let remedy = Remedy::from("choose another, or leave it out");
            Err(Error::refused(what, remedy.option(option, Some(value))))
        };
        if !(temperature >= 0.0 && temperature.is_finite()) {
            let what = format!("temperature {temperature}: not a number from 0");
            return refused(what, "temperature", "0.8");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refused(format!("top_p {top_p}: not above 0 and up to 1"), "top_p", "0.9");
        }
        let (option, none) = if top_k > 0 { ("top_k", "0") } else { ("top_p", "1") };
        if temperature == 0.0 && (top_k > 0 || top_p < 1.0) {
            let what = format!("{option} is given, and temperature 0 takes the likeliest token");
            let remedy = Remedy::from("sample, or leave it out").option("temperature", Some("1"));
            return Err(Error::refused(what, remedy.option(option, Some(none))));
        }
        Ok(())
    }
}

impl TextModel {
    /// `dir` is the checkpoint's folder: its configuration says which tokens end a text.
    pub fn new(dir: &Path, model: Model, tokenizer: &Arc<Tokenizer>) -> TextModel {
        let with = Arc::new(model.clone());
        TextModel { dir: dir.to_owned(), model, with, tokenizer: tokenizer.clone() }
    }

    /// The same with an edit beside its weights.
    ///
    /// # Errors
    ///
    /// As [`Memory::on`].
    pub fn with(self, memory: Arc<dyn Memory>) -> Result<TextModel> {
        let with = memory.on(self.with.clone())?;
        Ok(TextModel { with, ..self })
    }

    /// How the model goes on from a prompt, greedily, for at most so many tokens.
    ///
    /// # Errors
    ///
    /// A prompt the model cannot run; a device out of memory.
    pub fn generate(&self, prompt: &str, max_tokens: usize) -> Result<String> {
        let how = Generation::greedy(max_tokens);
        Ok(self.generate_with(prompt, &how, &mut |_| Ok(true))?.text)
    }

    /// The same, told how; `each` gets the text piece by piece and says whether to go on.
    ///
    /// # Errors
    ///
    /// As [`generate`](TextModel::generate); a way to choose tokens that is none; what `each` says;
    /// no usable chat template; a broken `generation_config.json`.
    pub fn generate_with(
        &self,
        prompt: &str,
        how: &Generation,
        each: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Result<Generated> {
        how.check()?;
        let chat =
            |settings: &ChatSettings| Chat::open_with(&self.dir, settings.clone())?.render(prompt);
        let rendered = how.chat.as_ref().map(chat).transpose()?;
        let ids = match &rendered {
            Some(chat) => self.tokenizer.encode_bare(chat)?.ids,
            None => self.tokenizer.encode(prompt)?,
        };
        let mut rng = Rng::new(how.seed, "generate");
        let mut stream = DecodeStream::new(&self.tokenizer, &ids);
        let mut text = String::new();
        let mut told = Ok(true);
        let mut push = |token| {
            told = stream.push(token).and_then(|piece| {
                text.push_str(&piece);
                each(&piece)
            });
            matches!(told, Ok(true))
        };
        let stop = stop_tokens(&self.dir)?;
        let (most, sampling) = (how.max_tokens, how.sampling);
        let tokens = generate(&*self.with, &ids, most, sampling, &mut rng, &stop, &mut push)?;
        told?;
        let rest = stream.finish()?;
        if !rest.is_empty() {
            each(&rest)?;
        }
        text.push_str(&rest);
        Ok(Generated { text, prompt_tokens: ids, tokens, rendered })
    }

    /// The logits after every token of a text; `go_on` is asked now and then whether to.
    ///
    /// # Errors
    ///
    /// A text that the model cannot run; logits that are not finite; a device out of memory;
    /// cancellation.
    pub fn logits(&self, text: &str, go_on: &dyn Fn() -> bool) -> Result<TextLogits> {
        let tokens = self.tokenizer.encode(text)?;
        let arch = self.with.arch();
        arch.check(&tokens)?;
        let mut values = Vec::with_capacity(tokens.len() * arch.vocabulary);
        let (mut finite, mut asked) = (true, true);
        logits_in_chunks(&*self.with, &tokens, LOGIT_ROWS, &mut |z| {
            values.extend_from_slice(z.get::<f32>());
            finite = z.get::<f32>().iter().all(|z| z.is_finite());
            asked = go_on();
            finite && asked
        })?;
        if !finite {
            let what = format!("{}: the logits are not finite", self.dir.display());
            return Err(Error::numeric(what, "check the checkpoint for NaN weights"));
        }
        if !asked {
            return Err(Error::Interrupted { kept: "nothing was kept".to_owned() });
        }
        Ok(TextLogits { tokens, vocabulary: arch.vocabulary, values })
    }

    /// The model itself, without what lives beside its weights.
    #[doc(hidden)]
    pub fn inner(&self) -> &Model {
        &self.model
    }

    /// The model with what lives beside its weights.
    #[doc(hidden)]
    pub fn language_model(&self) -> Arc<dyn LanguageModel> {
        self.with.clone()
    }

    /// The tokenizer.
    #[doc(hidden)]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// The ids that end a text, by `generation_config.json` or, where it says none, `config.json`.
///
/// # Errors
///
/// A broken file; an id that is none.
pub(super) fn stop_tokens(dir: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let wrong = |field: &str, what: String| {
            let remedy = "copy the file again from the model's source";
            Error::input(&path, field, what, remedy)
        };
        let read: Value = serde_json::from_slice(&read_file(&path, 1 << 20)?)
            .map_err(|e| wrong("JSON", format!("cannot be read: {e}")))?;
        let ids = match &read["eos_token_id"] {
            Value::Null => continue,
            Value::Array(ids) => &ids[..],
            one => std::slice::from_ref(one),
        };
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        let each = ids
            .iter()
            .map(|v| id(v).ok_or_else(|| wrong("eos_token_id", format!("{v} is no token's id"))));
        return each.collect();
    }
    Ok(vec![])
}
