//! `incise merge PIECE… -o PLACE`: joins what `incise edit --shard` runs found, or `incise eval
//! --shard` runs measured.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::eval::Eval;
use crate::base::Result;
use crate::base::units::counted;
use crate::edit::value_store::ValueStore;
use crate::eval;
use crate::store::place::{check_place, check_replaced};

/// The pieces, and where to put the whole.
#[derive(Args)]
pub struct Merge {
    /// Files of `incise edit --shard`, or folders of `incise eval --shard`
    #[arg(required = true, num_args = 1..)]
    pieces: Vec<PathBuf>,
    /// The file to write, which `incise edit --values` takes; of folders the folder of the whole
    #[arg(short, long)]
    output: PathBuf,
}

impl Merge {
    /// Writes the file, whole or not at all.
    pub fn run(&self, context: &Context) -> Result<()> {
        if self.pieces.iter().all(|piece| piece.is_dir()) {
            let summary = eval::merge::merge(&self.pieces, &self.output, context.seed)?;
            return Eval::print(context, &summary, &self.output);
        }
        let inputs: Vec<&Path> = self.pieces.iter().map(PathBuf::as_path).collect();
        check_place(&self.output, &inputs)?;
        let older = ValueStore::read(&self.output).is_ok();
        check_replaced(&self.output, older, "file of values")?;
        let pieces = self.pieces.iter().map(|p| ValueStore::read(p)).collect::<Result<Vec<_>>>()?;
        let mut many = 0;
        ValueStore::write_whole(&self.output, |all| {
            pieces.iter().try_for_each(|piece| all.add_all(piece))?;
            many = all.len();
            Ok(())
        })?;
        if context.json {
            return context.terminal.json(&json!({"output": self.output, "values": many}));
        }
        let output = self.output.display();
        context.terminal.line(format!("{output}: {}", counted(many as u64, "value")))
    }
}
