//! A checkpoint and what was read from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::text_model::stop_tokens;
use crate::base::{Error, Progress, Quiet, Remedy, Result};
use crate::model::lineage::{WeightsName, weights_name};
use crate::model::{MatrixId, Model, SearchPrecision, fingerprint, load};
use crate::store::{Bytes, Checkpoint};
use crate::tensor::Device;
use crate::text::Tokenizer;

/// A checkpoint and what was read from it.
pub(super) struct Opened {
    pub dir: PathBuf,
    pub device: Device,
    pub checkpoint: Checkpoint,
    pub model: Model,
    pub tokenizer: Arc<Tokenizer>,
    pub fingerprint: String, // of the model without its editable matrices
}

impl Opened {
    /// Opens a folder; `precision` is that of the value search.
    ///
    /// # Errors
    ///
    /// No checkpoint of a known family; a device that does not start, or has no fast products.
    pub fn new(
        dir: &Path,
        device: &Device,
        precision: SearchPrecision,
        progress: &dyn Progress,
    ) -> Result<Opened> {
        let (checkpoint, mut model) = load::open(dir, device, progress)?;
        if precision == SearchPrecision::Fast && model.compute.engine().is_none() {
            let remedy = Remedy::from("search exactly, or on a GPU");
            let remedy = remedy.option("device", Some("cuda:0"));
            return Err(Error::refused("a fast search: the CPU has no fast products", remedy));
        }
        model.search_precision = precision;
        let tokenizer = Arc::new(Tokenizer::open(dir)?);
        check_surrounding(dir, &tokenizer, model.arch.vocabulary)?;
        let fingerprint = fingerprint(&checkpoint, progress)?;
        let (dir, device) = (dir.to_owned(), device.clone());
        Ok(Opened { dir, device, checkpoint, model, tokenizer, fingerprint })
    }

    /// The same checkpoint on another device.
    ///
    /// # Errors
    ///
    /// As [`new`](Opened::new).
    pub fn on(&self, device: &Device, precision: SearchPrecision) -> Result<Opened> {
        Opened::new(&self.dir, device, precision, &Quiet)
    }

    /// What the weights are called.
    ///
    /// # Errors
    ///
    /// A broken lineage.
    pub fn weights_name(&self) -> Result<WeightsName> {
        let weights = weights_name(&self.checkpoint)?;
        Ok(WeightsName { model: self.fingerprint.clone(), weights })
    }

    /// The token that ends a text: the tokenizer's, or else the model's.
    ///
    /// # Errors
    ///
    /// A broken configuration.
    pub fn end(&self) -> Result<Option<u32>> {
        match self.tokenizer.end {
            None => Ok(stop_tokens(&self.dir)?.first().copied()),
            end => Ok(end),
        }
    }

    /// The bytes of the tensor that holds a matrix.
    pub fn stored(&self, id: MatrixId) -> Result<Bytes> {
        let tensor = self.checkpoint.tensor(&self.model.matrix(id).stored.tensor)?;
        Ok(tensor.expect("the model was loaded from it").bytes)
    }
}

/// Refuses a tokenizer that puts a token around every text which the model cannot run.
fn check_surrounding(dir: &Path, tokenizer: &Tokenizer, vocabulary: usize) -> Result<()> {
    let around = tokenizer.bos.iter().chain(&tokenizer.eos);
    let Some(&id) = around.into_iter().find(|&&id| id as usize >= vocabulary) else {
        return Ok(());
    };
    let token = tokenizer.token_text(id);
    let what = format!(
        "puts {token:?} around every text, whose id, {id}, is not in the model's vocabulary of \
         {vocabulary}"
    );
    let remedy = "take the tokenizer's files and the weights from one source";
    Err(Error::input(dir, "tokenizer", what, remedy))
}
