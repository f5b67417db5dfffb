//! Key statistics from text, of the model that is open.

use std::collections::BTreeSet;
use std::path::Path;

use super::Editor;
use crate::base::units::count;
use crate::base::{Error, Progress, Remedy, Result, Share};
use crate::data::Corpus;
use crate::model::arch::NormPlace;
use crate::stats::file::write_all;
use crate::stats::{Collect, Input, LayerInput, Moment, Origin, collect};

/// Of what second moments are collected, and from how much text.
#[derive(Clone, Debug, Default)]
pub struct Gathering {
    /// Layers, in any order.
    pub layers: Vec<usize>,
    /// What to take the moments of; keys where it is empty.
    pub inputs: Vec<Input>,
    /// Stop at exactly this many tokens, or where the text ends; otherwise at ten for each element
    /// of the widest input.
    pub max_tokens: Option<u64>,
    /// Longest sequence, in tokens, longer documents are cut; otherwise 512, or the model's context
    /// if that is less.
    pub context_length: Option<usize>,
    /// The share of the sequences that is run; otherwise all are.
    pub share: Option<Share>,
    /// Whether keys are divided by the root of the norm behind their MLP
    /// ([`normed`](crate::stats::normed)).
    pub normed: bool,
}

/// What was collected.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    /// Ascending.
    pub inputs: Vec<LayerInput>,
    /// Tokens that were run: of a share, its own.
    pub tokens: u64,
    /// Model and text.
    pub origin: Origin,
}

/// Tokens in a sequence where nobody says how many.
const CONTEXT_LENGTH: usize = 512;
/// Tokens for each element of an input where nobody says how many.
const TOKENS_AN_ELEMENT: u64 = 10;

impl Editor {
    /// Collects second moments from text files, and writes them into a folder, a file an input. A
    /// call that was cut off goes on. `corpus`: a document a line, or JSON with each as `text`,
    /// plain or gzipped.
    ///
    /// # Errors
    ///
    /// A layer that the model does not have; text that cannot be read; statistics of something else
    /// in the folder; keys that are not finite; cancellation; a device out of memory.
    pub fn collect_statistics<P: AsRef<Path>>(
        &self,
        corpus: &[P],
        of: &Gathering,
        dir: impl AsRef<Path>,
    ) -> Result<Gathered> {
        let dir = dir.as_ref();
        self.opened.checkpoint.unchanged()?;
        self.check_normed(of)?;
        let context_length = self.context_length(of)?;
        let inputs = self.inputs(of)?;
        let (opened, progress) = (&self.opened, &*self.settings.progress);
        let widths = inputs.iter().map(|input| input.width(&opened.model) as u64);
        let widest = widths.max().unwrap_or(0);
        if of.max_tokens == Some(0) {
            let remedy = Remedy::from("name a number, or none").option("max_tokens", None);
            return Err(Error::refused("statistics of 0 tokens", remedy));
        }
        let max_tokens = of.max_tokens.unwrap_or(TOKENS_AN_ELEMENT * widest);
        let corpus = Corpus::open(corpus)?;
        let model = opened.fingerprint.clone();
        let origin = Origin { model, corpus: corpus.hash()?, context_length, normed: of.normed };
        let what = Collect { inputs, max_tokens, origin, share: of.share };
        let free = |&input: &LayerInput| {
            Moment::check_overwrite(dir, input, &what.origin, what.share, max_tokens)
        };
        what.inputs.iter().try_for_each(free)?;
        let run = || {
            let (model, tokenizer) = (&opened.model, &opened.tokenizer);
            collect(model, tokenizer, corpus.documents(), &what, dir, progress)
        };
        let moments = self.settings.run(run)?;
        write_all(&moments, dir)?;
        let tokens = moments.first().map_or(0, |m| m.tokens);
        let all = moments.first().and_then(|m| m.part).map_or(tokens, |part| part.total_tokens);
        let keys = what.inputs.iter().all(|input| input.input == Input::Key);
        let of_them = format!("{} {}", count(widest), if keys { "neurons" } else { "elements" });
        let stopped = of.max_tokens.is_none() && all == max_tokens;
        warn_of_tokens(all, &of_them, all < widest, stopped, progress);
        Ok(Gathered { inputs: what.inputs, tokens, origin: what.origin })
    }

    fn context_length(&self, of: &Gathering) -> Result<usize> {
        let most = self.opened.model.arch.max_positions;
        let length = of.context_length.unwrap_or(CONTEXT_LENGTH.min(most));
        if (1..=most).contains(&length) {
            return Ok(length);
        }
        let what = format!("sequences of {length} tokens, and the model takes 1 to {most}");
        let remedy = Remedy::from("leave it out, or name another length");
        Err(Error::refused(what, remedy.option("context_length", None)))
    }

    /// Refuses keys over the root of a norm where there is none, or that could not be added up.
    fn check_normed(&self, of: &Gathering) -> Result<()> {
        if !of.normed {
            return Ok(());
        }
        let remedy = Remedy::from("leave it out").option("normed", None);
        let arch = &self.opened.model.arch;
        if arch.norms == NormPlace::Before {
            let what = format!("normed statistics: in {} no norm is behind the MLP", arch.family);
            return Err(Error::refused(what, remedy));
        }
        if of.share.is_some() || of.inputs.iter().any(|&input| input != Input::Key) {
            let what = "normed statistics are of keys, and of all of the text in one run";
            return Err(Error::refused(what, remedy));
        }
        Ok(())
    }

    /// What is collected, layer by layer.
    fn inputs(&self, of: &Gathering) -> Result<Vec<LayerInput>> {
        let layers = self.opened.model.arch.layers;
        if let Some(l) = of.layers.iter().find(|&&l| l >= layers) {
            let remedy = Remedy::from(format!("its layers are 0 to {}", layers - 1));
            let remedy = remedy.option("layers", None);
            return Err(Error::refused(format!("the model has no layer {l}"), remedy));
        }
        if of.layers.is_empty() {
            let remedy = Remedy::from("name some").option("layers", None);
            return Err(Error::refused("no layer to collect statistics of", remedy));
        }
        let named: BTreeSet<usize> = of.layers.iter().copied().collect();
        let mut inputs: BTreeSet<Input> = of.inputs.iter().copied().collect();
        if inputs.is_empty() {
            inputs.insert(Input::Key);
        }
        Ok(LayerInput::all(&Vec::from_iter(named), &Vec::from_iter(inputs)))
    }
}

/// Warns of too few tokens for so many neurons, and of a limit that nobody set.
fn warn_of_tokens(tokens: u64, neurons: &str, few: bool, stopped: bool, progress: &dyn Progress) {
    let tokens = count(tokens);
    if few {
        progress.warn(&format!(
            "{tokens} tokens for {neurons} leave C singular, and edits will add a ridge; give \
             more text"
        ));
    }
    if stopped {
        let sentence = format!(
            "stopped at {tokens} tokens, ten for each of the {neurons}: enough for edits as good \
             as with the field's 44 million (arXiv:2506.04226)"
        );
        let remedy = Remedy::from("another number may be named").option("max_tokens", None);
        progress.advise(&sentence, &remedy);
    }
}
