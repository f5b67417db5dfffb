//! How far a layer can move the stream, where a norm stands between its MLP and the stream.
//!
//! ```text
//! what joins the stream is ρ g⊙y/√(‖y‖²/D + ε):  of at most ρ √D max|g|, whatever W gives
//! reach_ℓ = ρ √D max|g_ℓ| / mean ‖s_ℓ‖           s_ℓ the stream behind layer ℓ at the facts' bare
//!                                                prompts
//! ```
//!
//! It says which layers can carry a fact at all.

use super::solve::window::Joining;
use crate::base::Result;
use crate::linalg::vector::norm;
use crate::model::site::Tap;
use crate::model::{At, Batch, LanguageModel, Model, Past, Site};

/// Prompts that are looked at, at most.
const PROMPTS: usize = 32;

/// The reach of every layer at prompts, each up to its fact's token; nothing where no norm bounds
/// it.
///
/// # Errors
///
/// A device that is out of memory.
pub fn reach(model: &Model, prompts: &[&[u32]]) -> Result<Option<Vec<f64>>> {
    let layers = model.arch.layers;
    if prompts.is_empty() || model.norm_behind(0).is_none() {
        return Ok(None);
    }
    let batch = Batch::whole(prompts.iter().copied().take(PROMPTS));
    let ends: Vec<usize> = batch.seqs.iter().map(|seq| seq.rows.end - 1).collect();
    let sites = (0..layers).map(|layer| Site { layer, at: At::Stream }).collect();
    model.compute.run(|| {
        let mut tap = Tap::new(&model.compute, sites, ends);
        model.run(&batch, &mut Past::None, &[], &mut tap)?;
        let of = |layer: usize| {
            let streams = tap.vectors(layer);
            let length = streams.iter().map(|s| norm(s)).sum::<f64>() / streams.len() as f64;
            Joining::of(model, layer).most().map(|most| most / length)
        };
        Ok((0..layers).map(of).collect())
    })
}
