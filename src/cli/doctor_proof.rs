//! What `incise doctor --device cuda:N` proves, and how it tells.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bench;
use super::context::Context;
use crate::base::{Error, Result};
use crate::gpu::{Engine, Gpu};
use crate::model::Model;
use crate::ops::proof::{Asked, ask};
use crate::store::Checkpoint;
use crate::tensor::{Device, Precision};

/// What the GPUs answered.
pub struct Proved {
    cards: Vec<CardAnswer>,
    model: Option<Matrices>,
}

/// What a model's matrices gave, once they were asked: never where kernels are wrong.
struct Matrices {
    folder: PathBuf,
    answer: Option<Result<()>>,
}

struct CardAnswer {
    gpu: Gpu,
    engine: Engine,
    asked: Asked,
}

/// Asks the GPUs of a device everything, and a model's matrices; `None` where none is named.
///
/// # Errors
///
/// A GPU that does not start; a model that is none; an interruption.
pub fn prove(context: &Context, model: Option<&Path>) -> Result<Option<Proved>> {
    let Device::Cuda(cards) = &context.device else {
        let remedy = "name the GPU that is to prove them: --device cuda:0";
        return match model {
            Some(_) => Err(Error::refused("a model's matrices are proved on a GPU", remedy)),
            None => Ok(None),
        };
    };
    // What is no model is said before a GPU works.
    let checkpoint = model.map(readable).transpose()?;
    let mut answers = Vec::new();
    for card in cards.iter() {
        let engine = card.start()?;
        let asked = ask(&engine, &context.terminal)?;
        answers.push(CardAnswer { gpu: card.gpu.clone(), engine, asked });
    }
    let mut proved = Proved { cards: answers, model: None };
    if let Some(checkpoint) = checkpoint {
        let kernels = proved.settle();
        let answer = || Model::open(&checkpoint, &context.device, &context.terminal).map(drop);
        let answer = kernels.is_ok().then(answer);
        if let Some(Err(e @ Error::Interrupted { .. })) = answer {
            return Err(e);
        }
        proved.model = Some(Matrices { folder: checkpoint.dir().to_owned(), answer });
    }
    Ok(Some(proved))
}

/// A folder that holds a model which can be opened.
fn readable(dir: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(dir)?;
    Model::load(&checkpoint, Precision::F32)?;
    Ok(checkpoint)
}

impl Proved {
    /// Keeps what was proved.
    ///
    /// # Errors
    ///
    /// The first GPU that computes what it should not.
    fn settle(&self) -> Result<()> {
        self.cards.iter().try_for_each(|card| card.asked.settle(&card.gpu, &card.engine))
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let card = |CardAnswer { gpu, engine, asked }: &CardAnswer| {
            let measured = asked.measured.map(|i| {
                json!({"accumulator_bits": i.accumulator_bits, "exp_ulp": i.exp_ulp,
                    "erfc_ulp": i.erfc_ulp})
            });
            let shapes = engine.blaslt().map(bench::shapes);
            json!({
                "ordinal": gpu.ordinal, "kernels": asked.known, "seconds": asked.seconds,
                "faults": asked.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "measured": measured, "replays": engine.replays(),
                "products": shapes,
                "hash": engine.proof().map(|proof| &proof.hash),
            })
        };
        self.cards.iter().map(card).collect()
    }

    /// For machines: the model, whether its matrices give what they should, and why not.
    pub fn model_json(&self) -> Option<Value> {
        let Matrices { folder, answer } = self.model.as_ref()?;
        let fault = answer.as_ref().and_then(|answer| answer.as_ref().err()).map(Error::line);
        let proved = matches!(answer, Some(Ok(())));
        Some(json!({"folder": folder, "proved": proved, "fault": fault}))
    }

    /// A line for each answer, where they are not for machines.
    ///
    /// # Errors
    ///
    /// A GPU that computes what it should not.
    pub fn tell(self, context: &Context) -> Result<()> {
        if !context.json {
            self.cards.iter().try_for_each(|card| card.tell(context))?;
        }
        self.settle()?;
        let Some(answer) = self.model.and_then(|model| model.answer) else { return Ok(()) };
        answer?;
        match context.json {
            true => Ok(()),
            false => context.terminal.line("proof      the model's matrices give what they should"),
        }
    }
}

impl CardAnswer {
    fn tell(&self, context: &Context) -> Result<()> {
        let CardAnswer { gpu, engine, asked } = self;
        let line = |text: String| context.terminal.line(format!("{:<10} {text}", "proof"));
        let known = asked.known;
        match asked.faults.len() {
            0 => line(format!(
                "cuda:{}: {known} files of kernels by types give what they should, in {:.1} s; {} \
                 replays",
                gpu.ordinal,
                asked.seconds,
                engine.replays(),
            ))?,
            _ if asked.faults.iter().any(|fault| fault.failed) => line(format!(
                "cuda:{}: it failed, so the rest of {known} files of kernels by types was not \
                 asked; none is used",
                gpu.ordinal
            ))?,
            wrong => line(format!(
                "cuda:{}: {wrong} of {known} files of kernels by types are wrong; none is used",
                gpu.ordinal
            ))?,
        }
        asked.faults.iter().try_for_each(|fault| line(fault.to_string()))?;
        if let Some(measured) = asked.measured {
            line(measured.to_string())?;
        }
        if let Some(lt) = engine.blaslt() {
            let (served, left): (Vec<_>, Vec<_>) = lt.shapes().into_iter().partition(|s| s.1);
            line(format!("{} multiplies {} shapes", lt.title(), served.len()))?;
            left.iter().try_for_each(|(shape, _)| line(format!("our kernels multiply {shape}")))?;
        }
        Ok(())
    }
}
