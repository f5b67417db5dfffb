//! Launches of `kernels/attention.cu`.

use crate::base::Result;
use crate::gpu::kernels::attention::{AttentionBwdKv, AttentionBwdQ, AttentionFwd};
use crate::gpu::launch::{Elem, Grid};
use crate::gpu::{Array, Engine};
use crate::ops::attention::{Heads, Seq};

/// How a batch is packed, on the device.
pub struct Packing {
    seqs: Array,   // (S, 6)
    seq_of: Array, // (N)
}

/// The keys and values that a batch's queries look at.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// k (N, G·E), the batch's own.
    pub k: &'a Array,
    /// v (N, G·E), the batch's own.
    pub v: &'a Array,
    /// k and v of earlier tokens, (rows, G·E) each.
    pub past: (&'a Array, &'a Array),
    /// How the batch is packed.
    pub packing: &'a Packing,
    /// H, G, E, the scale and the window.
    pub heads: Heads,
}

/// The gradients for q, k and v, and what is computed on the way to them.
pub struct Grads<'a> {
    /// (N, H·E).
    pub dq: &'a mut Array,
    /// (N, G·E).
    pub dk: &'a mut Array,
    /// (N, G·E).
    pub dv: &'a mut Array,
    /// Σ_j p_ij (N, H).
    pub total: &'a mut Array,
    /// Σ_j p_ij t_ij (N, H).
    pub mean: &'a mut Array,
}

impl Packing {
    /// Uploads the places of sequences, whose rows follow each other.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn of(engine: &Engine, seqs: &[Seq]) -> Result<Packing> {
        let places = seqs.iter().flat_map(|s| {
            let [shared, own] = &s.past;
            [&s.rows, shared, own].map(|r| [r.start, r.end]).concat()
        });
        let rows = seqs.iter().enumerate();
        let of = rows.flat_map(|(i, s)| s.rows.clone().map(move |_| i));
        let upload = |numbers: Vec<usize>| {
            let numbers: Vec<i32> = numbers.into_iter().map(|n| n as i32).collect();
            engine.upload(Elem::I32, bytemuck::cast_slice(&numbers))
        };
        Ok(Packing { seqs: upload(places.collect())?, seq_of: upload(of.collect())? })
    }

    /// A warp a row and head.
    fn grid(&self, heads: usize) -> Grid {
        Grid { blocks: [self.seq_of.len() as u32, heads as u32, 1], threads: [32, 1, 1] }
    }
}

/// o (N, H·E) and lse (N, H) from q, k, v.
pub fn forward(engine: &Engine, q: &Array, keys: Keys, o: &mut Array, lse: &mut Array) {
    let Heads { queries, groups, width, scale, window } = keys.heads;
    AttentionFwd {
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        past_k: keys.past.0.read(),
        past_v: keys.past.1.read(),
        seqs: keys.packing.seqs.read(),
        seq_of: keys.packing.seq_of.read(),
        scale: scale as f32,
        window: window.unwrap_or(0) as i32,
        H: queries as i32,
        G: groups as i32,
        E: width as i32,
        o: o.write(),
        lse: lse.write(),
    }
    .launch(engine, keys.packing.grid(queries));
}

/// dq, dk and dv from do (N, H·E); the rest as in forward.
pub fn backward(engine: &Engine, d_o: &Array, q: &Array, keys: Keys, lse: &Array, grads: Grads) {
    let Heads { queries, groups, width, scale, window } = keys.heads;
    let (scale, window) = (scale as f32, window.unwrap_or(0) as i32);
    let [h, g, e] = [queries, groups, width].map(|size| size as i32);
    AttentionBwdQ {
        d_o: d_o.read(),
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        past_k: keys.past.0.read(),
        past_v: keys.past.1.read(),
        lse: lse.read(),
        seqs: keys.packing.seqs.read(),
        seq_of: keys.packing.seq_of.read(),
        scale,
        window,
        H: h,
        G: g,
        E: e,
        dq: grads.dq.write(),
        total: grads.total.write(),
        mean: grads.mean.write(),
    }
    .launch(engine, keys.packing.grid(queries));
    AttentionBwdKv {
        d_o: d_o.read(),
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        lse: lse.read(),
        total: grads.total.read(),
        mean: grads.mean.read(),
        seqs: keys.packing.seqs.read(),
        seq_of: keys.packing.seq_of.read(),
        scale,
        window,
        H: h,
        G: g,
        E: e,
        dk: grads.dk.write(),
        dv: grads.dv.write(),
    }
    .launch(engine, keys.packing.grid(groups));
}
