//! The stages of an edit of many facts.
//!
//! ```text
//! pass of t tokens through l layers     t · l · weights · 2 FLOP / rate of exact products · PASS
//! host                                  bytes that one core reads, converts and writes / HOST
//! ```

use super::card::{CardRates, HOST, MOMENT, PASS};
use super::line::{Line, total};
use super::step::{Instructions, product_rate};
use super::work::Work;
use crate::base::units::{count, metric};

/// Seconds of the host between two steps where some fact ends: states, the trace for the progress
/// line, gathers, plans and rotary tables made anew. An estimate.
const BETWEEN: f64 = 17e-3;
/// Tokens of statistics for each column of C, and of a sequence of them.
const STATISTICS: [f64; 2] = [10.0, 512.0];
/// Parts of a product of f32 keys with themselves.
const KEY_PARTS: f64 = 3.0;
/// Seconds for reading texts and making tokens of them. An estimate.
const TEXT: f64 = 5.0;
/// Bytes a second of reading weights to the card and of writing those that changed. An estimate.
const STORAGE: f64 = 1.6e9;

struct Stages<'a> {
    work: &'a Work,
    card: &'a CardRates,
    exact: f64, // FLOP a second of exact products
    own: f64,   // … of our own bf16 ones
}

/// All stages; `step` as [`step`](super::step::step) gives it.
pub fn stages(work: &Work, card: &CardRates, by: &Instructions, step: &[Line]) -> Vec<Line> {
    let (exact, _) = product_rate(work, card, by, true);
    let own = card.own(by.product);
    let of = Stages { work, card, exact, own };
    let (steps, one) = (work.steps_in_all(), total(step));
    let search = Line::stage(
        "search, on the card",
        steps * one,
        format!("{steps:.0} steps of {:.0} ms; none ends early", 1e3 * one),
    );
    let between = Line::stage(
        "search, the host between steps",
        steps * BETWEEN,
        format!("{steps:.0} times {:.0} ms, if a fact ends at each", 1e3 * BETWEEN),
    );
    let mut all = vec![search, between, of.admitting()];
    all.extend(of.keys());
    all.extend(of.solves());
    all.extend(of.statistics());
    all.extend([of.judging(), of.storage()]);
    all
}

impl Stages<'_> {
    fn facts(&self) -> f64 {
        self.work.asked.facts as f64
    }

    /// Seconds of a pass of as many tokens times layers.
    fn pass(&self, layer_tokens: f64) -> f64 {
        2.0 * layer_tokens * self.work.layer / self.exact * PASS
    }

    /// What precedes a fact's step, through all layers; its suffix, up to the searched layer.
    fn admitting(&self) -> Line {
        let (work, n) = (self.work, self.facts());
        let prefix = n * (work.fact.prefix * work.arch.layers) as f64;
        let suffix = n * (work.fact.suffix * (work.last + 1)) as f64;
        let why = format!(
            "{} own tokens a fact through {} layers, {} through {}",
            work.fact.prefix,
            work.arch.layers,
            work.fact.suffix,
            work.last + 1
        );
        Line::stage("admitting facts", self.pass(prefix + suffix), why)
    }

    /// Below the first edited layer once; for each edited layer l from the first one up to l, and
    /// the bare prompts up to the last. Changed layers have weights in f32, for our own kernels.
    fn keys(&self) -> [Line; 2] {
        let (work, n, layers) = (self.work, self.facts(), self.work.layers as f64);
        let [bare, others] = work.fact.keys.map(|tokens| n * tokens as f64);
        let first = (work.last + 1 - work.layers) as f64;
        let looks = layers * (layers + 1.0) / 2.0;
        let layer_tokens = (bare + others) * first + others * looks + bare * layers * layers;
        let [d, f] = [work.arch.width, work.arch.inner].map(|n| n as f64);
        let changed = (bare + others) * layers * (layers - 1.0) / 2.0;
        let again = 2.0 * KEY_PARTS * changed * d * f / self.own;
        let rows = n * (work.fact.sequences - 1) as f64; // all but the one whose meaning is kept
        let elements = rows * f * layers;
        let host = 20.0 * elements / HOST;
        [
            Line::stage(
                "keys and residuals, on the card",
                self.pass(layer_tokens) + again,
                format!(
                    "{} tokens × layers, changed layers by our own kernels",
                    metric(layer_tokens)
                ),
            ),
            Line::stage(
                "keys, on the host",
                host,
                format!(
                    "{} rows of {} in {layers} layers, 20 bytes a number",
                    count(rows as u64),
                    count(f as u64)
                ),
            ),
        ]
    }

    /// K Kᵀ, K Rᵀ, a factor and a solve a layer; and all that goes to the card and back.
    fn solves(&self) -> [Line; 2] {
        let (work, n) = (self.work, self.facts());
        let [d, f, layers] = [work.arch.width, work.arch.inner, work.layers].map(|n| n as f64);
        let products = f * f * n + 2.0 * f * n * d;
        let factor = f * f * f / 3.0 + 2.0 * f * f * d;
        let solver = if work.asked.libraries { self.card.factor } else { self.card.own_f64 };
        // C read three times, hashed, widened, scaled and laid out; K twice; X, Δ and W.
        let bytes = 36.0 * f * f + 32.0 * n * f + 32.0 * d * f;
        [
            Line::stage(
                "solves, on the card",
                layers * (products / self.card.own_f64 + factor / solver),
                format!(
                    "{layers} systems of {f}: {}FLOP by our own f64 products, {}FLOP of factors",
                    metric(products),
                    metric(factor)
                ),
            ),
            Line::stage(
                "solves, on the host",
                layers * bytes / HOST,
                format!("{}B a layer through one core", metric(bytes)),
            ),
        ]
    }

    /// Exact passes up to the last edited layer with long attention, and moments of f32 keys.
    fn statistics(&self) -> [Line; 2] {
        let work = self.work;
        let [d, f, layers] = [work.arch.width, work.arch.inner, work.layers].map(|n| n as f64);
        let [a_column, length] = STATISTICS;
        let (tokens, up_to) = (a_column * f, (work.last + 1) as f64);
        let pass = 2.0 * tokens * up_to * work.layer / self.exact;
        let attention = 2.0 * d * tokens * length * up_to / self.card.attention;
        let moments = layers * tokens * f * f * KEY_PARTS / (self.own * MOMENT);
        // F × F numbers of f64 made and uploaded, downloaded row by row, packed and written.
        let host = layers * 38.0 * f * f / HOST + TEXT;
        [
            Line::stage(
                "statistics, on the card",
                pass + attention + moments,
                format!("{} tokens, sequences of {length}, moments of f32", count(tokens as u64)),
            ),
            Line::stage(
                "statistics, on the host",
                host,
                format!("{layers} matrices of {f} × {f} and the text"),
            ),
        ]
    }

    /// Before and after: a pass of the prompts, and two rows of the vocabulary a target's token
    /// (logits and their logarithms) to the host, where each number is widened and looked at.
    fn judging(&self) -> Line {
        let (work, n) = (self.work, self.facts());
        let [tokens, scored] = work.fact.scored.map(|tokens| n * tokens as f64);
        let numbers = 2.0 * scored * work.arch.vocabulary as f64;
        let once = self.pass(tokens * work.arch.layers as f64) + 12.0 * numbers / HOST;
        let why = format!("2 times {} rows of logits to the host", count(scored as u64));
        Line::stage("judging before and after", 2.0 * once, why)
    }

    fn storage(&self) -> Line {
        let (work, size) = (self.work, self.work.asked.stored.size() as f64);
        let [d, f, v] = [work.arch.width, work.arch.inner, work.arch.vocabulary].map(|n| n as f64);
        let read = (work.layer * work.arch.layers as f64 + 2.0 * v * d) * size;
        let written = work.layers as f64 * d * f * size;
        let why = format!("{}B read, {}B written", metric(read), metric(written));
        Line::stage("reading and writing weights", (read + written) / STORAGE, why)
    }
}
