//! `incise import FILE.gguf -o DIR`: a file of llama.cpp as a checkpoint folder; and such a file in
//! the place of a folder.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tempfile::TempDir;

use super::context::Context;
use crate::base::units::{counted, metric};
use crate::base::{DType, Error, Progress, Result};
use crate::model::gguf::{GgufModel, import};
use crate::store::gguf::is_gguf;

/// Which file, and where to.
#[derive(Args)]
pub struct Import {
    /// The GGUF file
    file: PathBuf,
    /// A new folder for the checkpoint
    #[arg(short, long)]
    output: PathBuf,
    /// The type of all elements [default: the file's own, and f32 for quantised ones]
    #[arg(long)]
    dtype: Option<ElementType>,
}

/// The types that weights may have.
#[derive(Clone, Copy, ValueEnum)]
enum ElementType {
    F32,
    Bf16,
    F16,
}

impl From<ElementType> for DType {
    fn from(of: ElementType) -> DType {
        match of {
            ElementType::F32 => DType::F32,
            ElementType::Bf16 => DType::BF16,
            ElementType::F16 => DType::F16,
        }
    }
}

impl Import {
    /// Writes the folder.
    pub fn run(&self, context: &Context) -> Result<()> {
        let dtype = self.dtype.map(DType::from);
        let made = import(&self.file, &self.output, dtype, &context.terminal)?;
        if context.json {
            return context.terminal.json(&json!({
                "written": self.output, "family": made.family, "tensors": made.tensors,
                "bytes": made.bytes, "origin": made.origin,
            }));
        }
        let tensors = counted(made.tensors as u64, "tensor");
        let size = metric(made.bytes as f64);
        let (family, to) = (made.family, self.output.display());
        context.terminal.line(format!("{family} layout, {tensors}, {size}B, in {to}"))
    }
}

/// A folder to read a model from: the one that is named, or that of a GGUF file, which lasts as
/// long as this.
pub(super) struct ModelFolder {
    named: PathBuf,
    _made: Option<TempDir>, // removed with this
}

impl ModelFolder {
    /// Imports what is a GGUF file into the system's folder for temporary files.
    ///
    /// # Errors
    ///
    /// As [`import`]; what the system refuses.
    pub fn open(model: &Path, context: &Context) -> Result<ModelFolder> {
        if !is_gguf(model) {
            return Ok(ModelFolder { named: model.to_owned(), _made: None });
        }
        let made = temporary()?;
        let named = made.path().join("model");
        import(model, &named, None, &context.terminal)?;
        Ok(ModelFolder { named, _made: Some(made) })
    }

    /// Says what opening a GGUF file will take, and refuses one that could not be opened.
    ///
    /// # Errors
    ///
    /// As [`open`](ModelFolder::open), as far as can be known without the weights.
    pub fn check(file: &Path, context: &Context) -> Result<()> {
        let model = GgufModel::open(file)?;
        model.tokenizer()?;
        let (size, place) = (metric(model.bytes(None) as f64), temporary()?);
        let place = place.path().parent().unwrap_or(Path::new("/")).display();
        context.terminal.remark(&format!("asking the file takes {size}B in {place} meanwhile"));
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.named
    }
}

/// A folder for as long as it is needed.
fn temporary() -> Result<TempDir> {
    let place = std::env::temp_dir();
    let made = tempfile::Builder::new().prefix("incise-").tempdir_in(&place);
    made.map_err(|e| Error::io(&place, "make a folder in", e))
}
