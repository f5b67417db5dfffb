//! The model inside the program: `demo/`, embedded at build time and laid out in a folder to run.

use std::fs;
use std::path::Path;

use crate::base::{Error, Result};

/// Name and bytes of everything `incise demo` needs. Made by `tools/demo_model.py`, the statistics
/// by `incise stats`.
const FILES: [(&str, &[u8]); 7] = [
    ("config.json", include_bytes!("../../demo/config.json")),
    ("tokenizer.json", include_bytes!("../../demo/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../demo/model.safetensors")),
    ("contexts.json", include_bytes!("../../demo/contexts.json")),
    ("hparams.json", include_bytes!("../../demo/hparams.json")),
    ("layer-0.safetensors", include_bytes!("../../demo/stats/layer-0.safetensors")),
    ("showcase.json", include_bytes!("../../demo/showcase.json")),
];

/// Writes the model and what belongs to it into a folder.
///
/// # Errors
///
/// A folder that cannot be written.
pub fn lay_out(dir: &Path) -> Result<()> {
    for (name, bytes) in FILES {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(|e| Error::io(&path, "write", e))?;
    }
    Ok(())
}
