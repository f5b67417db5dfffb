//! Texts as points: the mean over a text's tokens of the stream behind the middle layer, as a
//! direction.
//!
//! ```text
//! h̄ (D) = Σ_t h_t / ‖Σ_t h_t‖        h_t (D) the stream behind layer L/2 at token t
//! ```

use crate::base::Result;
use crate::linalg::vector::norm;
use crate::model::site::Tap;
use crate::model::{At, Batch, LanguageModel, Past, Site};
use crate::ops::linear::BATCH_INVARIANT_ROWS;

/// Texts that run at a time.
pub const AT_A_TIME: usize = 64;

/// h̄ of texts of at least one token. A text's does not depend on the others.
///
/// # Errors
///
/// A text that the model cannot run; a device out of memory.
pub fn mean_states<I: AsRef<[u32]>>(
    model: &dyn LanguageModel,
    texts: &[I],
) -> Result<Vec<Vec<f64>>> {
    let site = Site { layer: model.arch().layers / 2, at: At::Stream };
    let mut all = Vec::with_capacity(texts.len());
    for some in texts.chunks(AT_A_TIME) {
        some.iter().try_for_each(|ids| model.arch().check(ids.as_ref()))?;
        let mut batch = Batch::whole(some);
        let rows: Vec<usize> = (0..batch.len()).collect();
        batch.fill(BATCH_INVARIANT_ROWS);
        let streams = model.compute().run(|| {
            let mut tap = Tap::new(model.compute(), vec![site], rows);
            model.run(&batch, &mut Past::None, &[], &mut tap)?;
            Ok(tap.vectors(0))
        })?;
        for seq in batch.seqs.iter().take(some.len()) {
            let mut mean = vec![0.0; model.arch().width];
            for stream in &streams[seq.rows.clone()] {
                mean.iter_mut().zip(stream).for_each(|(m, x)| *m += x);
            }
            let length = norm(&mean);
            mean.iter_mut().for_each(|m| *m /= length);
            all.push(mean);
        }
    }
    Ok(all)
}
