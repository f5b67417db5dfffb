//! One step of the value search of a full batch, part by part.

use super::card::{ATTENTION_ISSUE, CardRates, ELEMENT_ISSUE, STREAM, parts};
use super::figures::figure;
use super::line::Line;
use super::work::Work;
use crate::base::DType;
use crate::base::units::metric;
use crate::edit::search::packing::LOGIT_ROWS;
use crate::model::arch::Arch;

/// Instructions that a warp executes, from the machine code.
pub struct Instructions {
    /// Of our product, for one mma.
    pub product: f64,
    /// Of an activation in bf16, forward and backward, for one element.
    pub activation: [f64; 2],
}

/// GPT-J's gelu_tanh takes so much of what the costliest activation takes, of which the figures
/// are: 54 and 69 instructions of 79 and 95, counted by hand in the same machine code.
const GELU_TANH: f64 = 0.7;

impl Instructions {
    /// As docs/kernels.md has them.
    pub fn of_machine_code() -> Instructions {
        let of = |kernel| GELU_TANH * figure("act.bf16", kernel, "instructions");
        Instructions {
            product: figure("linear_mma.bf16.bf16", "linear_mma", "each MMA"),
            activation: ["act_fwd", "act_bwd"].map(of),
        }
    }
}

/// Instructions of short attention, forward and backward, that a block's warps execute for a pass
/// over 20 keys of 256 numbers: half of 18,315 and of 36,107, which were counted by executing the
/// compiled kernels for five queries (two passes). What the card's own compiler leaves of them.
const ATTENTION_PASS: [f64; 2] = [18_315.0 / 2.0, 36_107.0 / 2.0];
const ATTENTION_WIDTH: f64 = 256.0;
const KEPT_BY_COMPILER: f64 = 0.85;
/// Seconds that adding one row to another takes, in the three kernels that add row after row.
const SCATTER: f64 = 3.0 * 0.7e-6;
/// Seconds of the loss, Adam, zeros and the launches between.
const REST: f64 = 2e-3;

/// FLOP a second of products with weights as they are stored, what that rests on.
pub fn product_rate(work: &Work, card: &CardRates, by: &Instructions, wide: bool) -> (f64, String) {
    let parts = parts(wide, work.asked.stored);
    let of_library = work.asked.libraries && work.asked.stored == DType::BF16;
    let (rate, whose) = if of_library {
        (card.library, "a library's".to_owned())
    } else {
        (card.own(by.product), format!("our own, {:.1} instructions an mma,", by.product))
    };
    let times = if parts == 1 { String::new() } else { format!(", {parts} times") };
    (rate / parts as f64, format!("{whose} {}FLOP/s{times}", metric(rate)))
}

/// Bytes that norms, residuals, rotary, rounding and their gradients move for a token and a column
/// of the stream in a layer of two branches, where products read elements of e bytes:
///
/// ```text
/// norms      2 (8 + e)       x is read and kept, and what a branch reads is written
/// residuals  8               where a norm adds an output to x: reads it, and writes x
///            12              where nothing but the sum is left to do
/// rotary     2 e             of what turns of q and of k
/// rounding   2 (4 + e)       of dx, for each branch; nothing where e is 4
/// backward   2 (12 + 4)      norms read x and what reaches them, and add to dx
///            2 e             rotary
/// ```
///
/// The first branch's norm adds the output of the layer before; the second's that of the first,
/// but not in parallel layers, where both norms read the same x.
fn stream_bytes(a: &Arch, e: f64) -> f64 {
    let residuals = if a.parallel { 8.0 + 12.0 } else { 8.0 + 8.0 };
    let of_head = a.rotary().first().map_or(0, |rotary| 2 * rotary.frequency.len());
    let turned = (of_head * (a.n_heads + a.n_kv_heads)) as f64 / a.width as f64;
    let rounding = if e < 4.0 { 2.0 * (4.0 + e) } else { 0.0 };
    let rotary = 2.0 * e * turned;
    2.0 * (8.0 + e) + residuals + rotary + rounding + 2.0 * (12.0 + 4.0) + rotary
}

/// The parts of a step.
pub fn step(work: &Work, card: &CardRates, by: &Instructions) -> Vec<Line> {
    let (a, fact) = (&work.arch, &work.fact);
    let [above, tokens, batch] = [work.above(), work.tokens(), work.batch].map(|n| n as f64);
    let [d, f, v, heads] = [a.width, a.inner, a.vocabulary, a.n_heads].map(|n| n as f64);
    let (rate, whose) = product_rate(work, card, by, work.wide());

    let flop = 4.0 * tokens * work.layer * above;
    // Few facts wait for the weights, which are read forward and back.
    let read = 2.0 * work.layer * above * work.asked.stored.size() as f64 / (card.copy * STREAM);
    let products = Line::step(
        "products",
        (flop / rate).max(read),
        format!("{tokens} tokens × {above} layers of {} weights, {whose}", metric(work.layer)),
    );

    let logits = batch * fact.logits as f64;
    let pieces = (logits / LOGIT_ROWS as f64).ceil();
    let head_bytes = 2.0 * v * d * work.asked.stored.size() as f64 * pieces;
    let head = Line::step(
        "head",
        4.0 * logits * v * d / rate + head_bytes / card.copy,
        format!("{logits} rows of logits in {pieces} pieces, each reads the head twice"),
    );

    let passes = batch * fact.attention as f64 * heads * above;
    let executed = passes * ATTENTION_PASS.iter().sum::<f64>() * a.head_dim as f64
        / ATTENTION_WIDTH
        * KEPT_BY_COMPILER;
    let attention = Line::step(
        "short attention",
        executed / (card.issue * ATTENTION_ISSUE),
        format!("{} passes of a head, {} instructions", metric(passes), metric(executed)),
    );

    let elements = tokens * f * above;
    let act = if work.wide() {
        let bytes = (8.0 + 12.0) * elements;
        Line::step("activation", bytes / (card.copy * STREAM), format!("{}B in f32", metric(bytes)))
    } else {
        let [forward, backward] = by.activation;
        let executed = (forward + backward) * elements / 32.0;
        let why = format!("{forward:.0} + {backward:.0} instructions an element, bf16");
        Line::step("activation", executed / (card.issue * ELEMENT_ISSUE), why)
    };

    let bytes = stream_bytes(a, if work.wide() { 4.0 } else { 2.0 }) * tokens * d * above;
    let stream = Line::step(
        "norms, residuals, rotary",
        bytes / (card.copy * STREAM),
        format!("{}B at {:.0} % of a copy", metric(bytes), 100.0 * STREAM),
    );

    let pushed = batch * fact.sequences as f64;
    let rest = Line::step(
        "rows, loss, Adam",
        pushed * SCATTER + REST,
        format!("{pushed} rows added one after another; the rest estimated"),
    );
    vec![products, head, attention, act, stream, rest]
}
