//! Launches of `kernels/attention.cu`, `attention_mma.cu`, `attention_short.cu` and
//! `attention_row.cu`.
//!
//! A sequence's form, and so its bits, depend on itself and the heads alone.

use crate::base::Result;
use crate::gpu::kernels::attention::{self as long, AttentionBwdKv, AttentionBwdQ, AttentionFwd};
use crate::gpu::kernels::attention_mma::{self as mma, AttentionMmaFwd};
use crate::gpu::kernels::attention_row::{self as row, AttentionRowFwd, AttentionRowMerge};
use crate::gpu::kernels::attention_short::{self as short, AttentionShortBwd, AttentionShortFwd};
use crate::gpu::launch::{Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::attention::{Heads, Seq};

/// Queries of a sequence up to which the short form is the fastest.
const FEW: usize = 16;

/// How a batch is packed, on the device.
pub struct Packing {
    short: Array,  // (S, 6)
    spans: Array,  // (B, 7)
    merges: Array, // (S, 3)
    tiles: Array,  // (T, 7), the long form's first; backward the rest too
    long: usize,   // tiles of the long form
}

/// The keys and values that a batch's queries look at.
#[derive(Clone, Copy)]
pub struct DeviceKvRows<'a> {
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

/// What forward gives.
pub struct AttentionOutputs<'a> {
    /// (N, H·E).
    pub o: &'a mut Array,
    /// (N, H).
    pub lse: &'a mut Array,
    /// Room for [`Packing::parts`] numbers of f32.
    pub parts: &'a mut Array,
}

/// The gradients for q, k and v, and what is computed on the way to them.
pub struct DeviceAttentionGrads<'a> {
    /// (N, H·E).
    pub dq: &'a mut Array,
    /// (N, G·E).
    pub dk: &'a mut Array,
    /// (N, G·E).
    pub dv: &'a mut Array,
    /// Σ_j p_ij (N, H), of long sequences.
    pub total: &'a mut Array,
    /// Σ_j p_ij t_ij (N, H), of long sequences.
    pub mean: &'a mut Array,
}

/// Which kernels a sequence goes to.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A few queries that see a few keys.
    Short,
    /// One query that sees more.
    Row,
    /// Any.
    Long,
}

impl Form {
    fn of(seq: &Seq, heads: Heads) -> Form {
        let queries = seq.rows.len();
        let keys = queries + seq.past.iter().map(|r| r.len()).sum::<usize>();
        let own = heads.queries / heads.groups * queries * queries.next_multiple_of(short::ROWS);
        match () {
            () if !heads.width.is_multiple_of(short::VEC) => Form::Long,
            () if queries <= FEW && keys <= short::KEYS && own <= short::OWN => Form::Short,
            () if queries == 1 => Form::Row,
            () => Form::Long,
        }
    }
}

/// A sequence's rows of the batch, of the shared past and of its own, from and to.
fn places(seq: &Seq) -> Vec<usize> {
    let [shared, own] = &seq.past;
    [&seq.rows, shared, own].map(|r| [r.start, r.end]).concat()
}

impl Packing {
    /// Sorts sequences, whose rows follow each other, into forms, and uploads their places. Of
    /// `heads` the window does not matter.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn of(engine: &Engine, seqs: &[Seq], heads: Heads) -> Result<Packing> {
        let all = |form| seqs.iter().filter(move |s| Form::of(s, heads) == form);
        let tiles = |form| {
            let from = |s: &Seq| (0..s.rows.len()).step_by(long::TILE);
            all(form).flat_map(move |s| from(s).flat_map(|from| [places(s), vec![from]].concat()))
        };
        let mut spans = Vec::new();
        let mut merges = Vec::new();
        for seq in all(Form::Row) {
            let keys = 1 + seq.past.iter().map(|r| r.len()).sum::<usize>();
            merges.extend([seq.rows.start, spans.len() / 7, keys.div_ceil(row::SPAN)]);
            for from in (0..keys).step_by(row::SPAN) {
                spans.extend([places(seq), vec![from]].concat());
            }
        }
        let upload = |numbers: Vec<usize>| {
            let numbers: Vec<i32> = numbers.into_iter().map(int).collect();
            engine.upload(Elem::I32, bytemuck::cast_slice(&numbers))
        };
        Ok(Packing {
            short: upload(all(Form::Short).flat_map(places).collect())?,
            spans: upload(spans)?,
            merges: upload(merges)?,
            tiles: upload(tiles(Form::Long).chain(tiles(Form::Row)).collect())?,
            long: tiles(Form::Long).count() / 7,
        })
    }

    /// How many numbers of partial results forward needs, of keys summed in several blocks.
    pub fn parts(&self, heads: Heads) -> usize {
        self.spans.len() / 7 * heads.queries * (heads.width + 2)
    }
}

/// Numbers of a launch.
struct Sizes {
    scale: f32,
    cap: f32,
    window: i32,
    h: i32,
    g: i32,
    e: i32,
}

impl Sizes {
    fn of(heads: Heads) -> Sizes {
        let [h, g, e] = [heads.queries, heads.groups, heads.width].map(int);
        let [scale, cap] = [heads.scale, heads.cap.unwrap_or(0.0)].map(|x| x as f32);
        Sizes { scale, cap, window: int(heads.window.unwrap_or(0)), h, g, e }
    }
}

/// o (N, H·E) and lse (N, H) from q, k, v.
pub fn forward(engine: &Engine, q: &Array, keys: DeviceKvRows, to: AttentionOutputs) {
    let AttentionOutputs { o, lse, parts } = to;
    short_forward(engine, q, keys, o, lse);
    row_forward(engine, q, keys, o, lse, parts);
    long_forward(engine, q, keys, o, lse);
}

fn short_forward(engine: &Engine, q: &Array, keys: DeviceKvRows, o: &mut Array, lse: &mut Array) {
    let Sizes { scale, cap, window, h, g, e } = Sizes::of(keys.heads);
    let seqs = &keys.packing.short;
    AttentionShortFwd {
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        past_k: keys.past.0.read(),
        past_v: keys.past.1.read(),
        seqs: seqs.read(),
        scale,
        cap,
        window,
        H: h,
        G: g,
        E: e,
        o: o.write(),
        lse: lse.write(),
    }
    .launch(engine, Grid::of([seqs.len() / 6, keys.heads.queries, 1], short::THREADS));
}

fn row_forward(
    engine: &Engine,
    q: &Array,
    keys: DeviceKvRows,
    o: &mut Array,
    lse: &mut Array,
    parts: &mut Array,
) {
    let Sizes { scale, cap, window, h, g, e } = Sizes::of(keys.heads);
    let Packing { spans, merges, .. } = keys.packing;
    AttentionRowFwd {
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        past_k: keys.past.0.read(),
        past_v: keys.past.1.read(),
        spans: spans.read(),
        scale,
        cap,
        window,
        H: h,
        G: g,
        E: e,
        parts: parts.write(),
    }
    .launch(engine, Grid::of([spans.len() / 7, keys.heads.groups, 1], row::THREADS));
    AttentionRowMerge {
        parts: parts.read(),
        merges: merges.read(),
        H: h,
        E: e,
        o: o.write(),
        lse: lse.write(),
    }
    .launch(engine, Grid::of([merges.len() / 3, keys.heads.queries, 1], row::THREADS));
}

fn long_forward(engine: &Engine, q: &Array, keys: DeviceKvRows, o: &mut Array, lse: &mut Array) {
    const { assert!(long::TILE == mma::TILE, "the same tiles") };
    let Sizes { scale, cap, window, h, g, e } = Sizes::of(keys.heads);
    let Heads { queries, width, .. } = keys.heads;
    let blocks = |slice| [keys.packing.long, queries, width.div_ceil(slice)];
    macro_rules! launch {
        ($kernel:ident, $form:ident) => {
            $kernel {
                q: q.read(),
                k: keys.k.read(),
                v: keys.v.read(),
                past_k: keys.past.0.read(),
                past_v: keys.past.1.read(),
                tiles: keys.packing.tiles.read(),
                scale,
                cap,
                window,
                H: h,
                G: g,
                E: e,
                o: o.write(),
                lse: lse.write(),
            }
            .launch(engine, Grid::of(blocks($form::SLICE), $form::THREADS))
        };
    }
    if q.elem() == Elem::BF16 && width.is_multiple_of(mma::MMA_K) && width <= mma::MAX_HEAD_DIM {
        launch!(AttentionMmaFwd, mma);
    } else {
        launch!(AttentionFwd, long);
    }
}

/// dq, dk and dv from do (N, H·E); the rest as in forward.
pub fn backward(
    engine: &Engine,
    d_o: &Array,
    q: &Array,
    keys: DeviceKvRows,
    lse: &Array,
    grads: DeviceAttentionGrads,
) {
    let Sizes { scale, cap, window, h, g, e } = Sizes::of(keys.heads);
    let seqs = &keys.packing.short;
    AttentionShortBwd {
        d_o: d_o.read(),
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        past_k: keys.past.0.read(),
        past_v: keys.past.1.read(),
        seqs: seqs.read(),
        scale,
        cap,
        window,
        H: h,
        G: g,
        E: e,
        dq: grads.dq.write(),
        dk: grads.dk.write(),
        dv: grads.dv.write(),
    }
    .launch(engine, Grid::of([seqs.len() / 6, keys.heads.groups, 1], short::THREADS));
    long_backward(engine, d_o, q, keys, lse, grads);
}

fn long_backward(
    engine: &Engine,
    d_o: &Array,
    q: &Array,
    keys: DeviceKvRows,
    lse: &Array,
    grads: DeviceAttentionGrads,
) {
    let Sizes { scale, cap, window, h, g, e } = Sizes::of(keys.heads);
    let Heads { queries, groups, width, .. } = keys.heads;
    let tiles = &keys.packing.tiles;
    AttentionBwdQ {
        d_o: d_o.read(),
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        past_k: keys.past.0.read(),
        past_v: keys.past.1.read(),
        lse: lse.read(),
        tiles: tiles.read(),
        scale,
        cap,
        window,
        H: h,
        G: g,
        E: e,
        dq: grads.dq.write(),
        total: grads.total.write(),
        mean: grads.mean.write(),
    }
    .launch(
        engine,
        Grid::of([tiles.len() / 7, queries, width.div_ceil(long::SLICE_BWD)], long::THREADS),
    );
    AttentionBwdKv {
        d_o: d_o.read(),
        q: q.read(),
        k: keys.k.read(),
        v: keys.v.read(),
        lse: lse.read(),
        total: grads.total.read(),
        mean: grads.mean.read(),
        tiles: tiles.read(),
        scale,
        cap,
        window,
        H: h,
        G: g,
        E: e,
        dk: grads.dk.write(),
        dv: grads.dv.write(),
    }
    .launch(
        engine,
        Grid::of([tiles.len() / 7, groups, width.div_ceil(long::SLICE_BWD)], long::THREADS),
    );
}
