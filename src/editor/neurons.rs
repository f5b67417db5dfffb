//! Which neurons an answer rests on (`edit/attribution.rs`), asked by text.

use serde_json::{Value, json};

use super::Editor;
use crate::base::units::{count, counted, percent};
use crate::base::{Error, Remedy, Result, Rng, Stage};
use crate::edit::attribution::{IntegratedGradients, Neuron, above, refined};
use crate::model::completion::Completion;
use crate::model::generate::{Sampling, generate};
use crate::model::score::score;

/// What to look for, and how.
#[derive(Clone, Debug)]
pub struct NeuronQuestion {
    /// One prompt in different words; at least one.
    pub prompts: Vec<String>,
    /// What follows; without it, the token that the model says after the first prompt.
    pub answer: Option<String>,
    /// How what rests on a neuron is measured.
    pub ways: IntegratedGradients,
    /// The share of the most that rests on a neuron, above which others are found too.
    pub threshold: f64,
    /// The share of prompts of which a neuron has to be in more.
    pub share: f64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct NeuronAnswer {
    /// The answer, as the model has it.
    pub answer: String,
    /// P of the answer after each prompt.
    pub p: Vec<f64>,
    /// The neurons found, the one on which most rests first.
    pub neurons: Vec<Neuron>,
    /// Σ_i attr_i of each layer, the mean over prompts.
    pub layers: Vec<f64>,
    /// How many neurons the model has.
    pub of: usize,
}

impl NeuronAnswer {
    /// As JSON.
    pub fn json(&self) -> Value {
        let neuron =
            |n: &Neuron| json!({"layer": n.layer, "neuron": n.index, "attribution": n.attribution});
        json!({
            "answer": self.answer, "p": self.p, "of": self.of, "layers": self.layers,
            "neurons": self.neurons.iter().map(neuron).collect::<Vec<_>>(),
        })
    }

    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let found = counted(self.neurons.len() as u64, "neuron");
        let p: Vec<String> = self.p.iter().map(|&p| percent(p)).collect();
        let (answer, p, of) = (&self.answer, p.join(", "), count(self.of as u64));
        let mut lines = vec![format!("{answer:?} (P {p}) rests on {found} of {of}")];
        lines.extend(self.neurons.iter().map(|n| {
            format!("layer {:>3}, neuron {:>6}   {:.3e}", n.layer, n.index, n.attribution)
        }));
        lines
    }
}

impl Editor {
    /// The neurons that an answer rests on.
    ///
    /// # Errors
    ///
    /// No prompt; a share that no neuron is above; a text that the model cannot run; numbers that
    /// are not finite; cancellation; a device out of memory.
    pub fn neurons(&self, of: &NeuronQuestion) -> Result<NeuronAnswer> {
        let [first, ..] = &of.prompts[..] else {
            let remedy = Remedy::from("name at least one").option("prompt", None);
            return Err(Error::refused("neurons of no prompt", remedy));
        };
        for (name, share) in [("threshold", of.threshold), ("share", of.share)] {
            if !(0.0..1.0).contains(&share) {
                let what = format!("a {name} of {share}, where shares are from 0 to below 1");
                let remedy =
                    Remedy::from("nothing is more than all: name a smaller one").option(name, None);
                return Err(Error::refused(what, remedy));
            }
        }
        self.settings.run(|| {
            let (model, text) = (&self.opened.model, &self.opened.tokenizer);
            let prompts: Vec<Vec<u32>> =
                of.prompts.iter().map(|prompt| text.encode(prompt)).collect::<Result<_>>()?;
            if prompts.iter().any(Vec::is_empty) {
                let remedy = Remedy::from("name a text").option("prompt", None);
                return Err(Error::refused("a prompt has no token", remedy));
            }
            let target = match &of.answer {
                Some(answer) => text.encode_target(first, answer, None)?,
                None => {
                    let (mut rng, stop) = (Rng::new(0, "greedy"), []); // draws nothing
                    let each = &mut |_| true;
                    generate(model, &prompts[0], 1, Sampling::GREEDY, &mut rng, &stop, each)?
                }
            };
            let texts: Vec<Completion> =
                prompts.iter().map(|prompt| Completion::new(prompt, &target)).collect();
            let progress = &*self.settings.progress;
            let (mut found, mut layers) = (Vec::new(), vec![0.0; model.arch.layers]);
            let room = self.settings.memory.or_else(|| model.spare());
            let room = room.unwrap_or_else(crate::base::memory::spare);
            for (i, text) in texts.iter().enumerate() {
                progress.at(Stage::Prompt, i as u64, texts.len() as u64);
                let all = of.ways.attribute(model, text, room, progress)?;
                for (sum, own) in layers.iter_mut().zip(&all) {
                    *sum += own.iter().sum::<f64>() / texts.len() as f64;
                }
                found.push(above(&all, of.threshold));
            }
            let mut neurons = refined(&found, of.share);
            neurons.sort_by(|a, b| b.attribution.total_cmp(&a.attribution));
            Ok(NeuronAnswer {
                answer: text.decode_after(&target)?,
                p: score(model, &texts)?.iter().map(|score| score.probability()).collect(),
                neurons,
                layers,
                of: model.arch.layers * model.arch.inner,
            })
        })
    }
}
