//! What a card can do, and how much of it each kind of work is expected to reach.
//!
//! ```text
//! seconds = work / (rate · share)        work in bytes, FLOP or instructions of a warp
//! ```
//!
//! Rates are the card's. Shares are expectations, to be corrected by the first results of a card.

use crate::base::{DType, Error, Result};

/// Rates, a second.
#[derive(Debug)]
pub struct CardRates {
    /// `h200`.
    pub name: &'static str,
    /// As the driver calls it.
    pub title: &'static str,
    /// Instructions of a warp that all its processors can issue.
    pub issue: f64,
    /// Bytes of a copy, read and written.
    pub copy: f64,
    /// FLOP of a library's large bf16 products.
    pub library: f64,
    /// FLOP of a library's Cholesky factors and solves, f64.
    pub factor: f64,
    /// FLOP of our own f64 products.
    pub own_f64: f64,
    /// FLOP of our long attention in f32, forward.
    pub attention: f64,
}

/// Cards that are known.
pub const CARDS: [CardRates; 1] = [CardRates {
    name: "h200",
    title: "NVIDIA H200",
    // 132 processors of four schedulers at 1.755 GHz.
    issue: 132.0 * 4.0 * 1.755e9,
    copy: 4.3e12,
    // Of 990 TFLOP/s on paper and 788 in the best product; between 600 and 740 in long runs.
    library: 700e12,
    factor: 45e12,
    own_f64: 15e12,
    attention: 3.5e12,
}];

/// FLOP of one `mma.m16n8k16` of a warp.
const MMA_FLOP: f64 = 2.0 * 16.0 * 8.0 * 16.0;
/// Share of the issue rate that our products reach, of the instructions of a tile on its shortest
/// way: chosen so that they are the 200 TFLOP/s that were expected of one block of eight warps a
/// processor, with a barrier a tile and divisions where one is placed.
const PRODUCT_ISSUE: f64 = 0.46;
/// … that short attention is expected to reach: 16 warps a processor.
pub const ATTENTION_ISSUE: f64 = 0.6;
/// … and element-wise kernels, whose loads wait for memory as well.
pub const ELEMENT_ISSUE: f64 = 0.8;
/// Share of a copy's rate that norms, residuals, rotary and rounding together are expected to
/// reach.
pub const STREAM: f64 = 0.7;
/// What a pass takes beside its products (attention, norms, activations), its products being 1: an
/// estimate, between the 1.2 and 1.3 at 600 TFLOP/s that were expected of single passes.
pub const PASS: f64 = 1.5;
/// How much faster second moments are than products of the same size: their tiles are placed
/// without a division. An estimate.
pub const MOMENT: f64 = 1.25;
/// Bytes a second at which one core reads, converts and writes what it prepares for the card or
/// takes from it: an estimate, to which the bytes a number of each job are fitted.
pub const HOST: f64 = 4.2e9;

impl CardRates {
    /// The card of a name.
    ///
    /// # Errors
    ///
    /// A name that is not known.
    pub fn named(name: &str) -> Result<&'static CardRates> {
        CARDS.iter().find(|card| card.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = CARDS.map(|card| card.name).join(", ");
            Error::refused(format!("no rates of a card `{name}`"), format!("say {known}"))
        })
    }

    /// FLOP of our own products of one pair of bf16 parts; `instructions` a warp executes for one
    /// mma.
    pub fn own(&self, instructions: f64) -> f64 {
        self.issue / instructions * MMA_FLOP * PRODUCT_ISSUE
    }
}

/// How many bf16 products one product with weights of a type takes: f32 and f16 are two parts each,
/// and the product of two small parts is left out (`kernels/linear_mma.cu`).
pub fn parts(wide: bool, weights: DType) -> usize {
    match (wide, weights) {
        (false, DType::BF16) => 1,
        (false, _) | (true, DType::BF16) => 2,
        (true, _) => 3,
    }
}
