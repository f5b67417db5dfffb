//! Where each type of block keeps the scales and offsets of its groups.
//!
//! Numbers d and m of a block are half precision. The types of 256 elements (`K`) have a second
//! level: whole numbers s and t of few bits, one of each a group, so that a group's scale is d·s
//! and its offset −(m·t).

use half::f16;

use super::grid::Step;

/// What a type without offsets adds: it leaves every number as it is, −0 too.
const NONE: f32 = -0.0;

/// The half-precision number at a byte.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// d first: Q4_0, Q5_0, Q8_0.
pub(super) fn scale(block: &[u8], steps: &mut [Step]) {
    steps[0] = Step { scale: half(block, 0), offset: NONE };
}

/// d, m first: Q4_1, Q5_1. Here the offset is m itself.
pub(super) fn scale_and_offset(block: &[u8], steps: &mut [Step]) {
    steps[0] = Step { scale: half(block, 0), offset: half(block, 2) };
}

/// Q2_K: a byte a group, s in its lower half and t in its upper; d and m at the end.
pub(super) fn q2_k(block: &[u8], steps: &mut [Step]) {
    let (d, m) = (half(block, 80), half(block, 82));
    for (step, &byte) in steps.iter_mut().zip(block) {
        *step = Step { scale: d * f32::from(byte & 15), offset: -(m * f32::from(byte >> 4)) };
    }
}

/// Q3_K: s of six bits, stored with 32 added. Bytes 0 to 7 of twelve have the lower four bits of
/// groups 0 to 7, then of 8 to 15; bytes 8 to 11 the upper two of groups 0 to 3, 4 to 7, and so on.
/// d at the end.
pub(super) fn q3_k(block: &[u8], steps: &mut [Step]) {
    let (d, packed) = (half(block, 108), &block[96..108]);
    for (g, step) in steps.iter_mut().enumerate() {
        let low = packed[g % 8] >> (4 * (g / 8)) & 15;
        let high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
        let s = i16::from(low | high << 4) - 32;
        *step = Step { scale: d * f32::from(s), offset: NONE };
    }
}

/// Q4_K, Q5_K: d, m, then s and t of six bits in twelve bytes. Groups 0 to 3 have s in bytes 0 to
/// 3, t in bytes 4 to 7. Groups 4 to 7 have the lower four bits of both in bytes 8 to 11, and the
/// upper two where bytes 0 to 7 are free.
pub(super) fn q45_k(block: &[u8], steps: &mut [Step]) {
    let (d, m, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    for (g, step) in steps.iter_mut().enumerate() {
        let (s, t) = if g < 4 {
            (packed[g] & 63, packed[g + 4] & 63)
        } else {
            let (s, t) = (packed[g - 4] >> 6 << 4, packed[g] >> 6 << 4);
            (packed[g + 4] & 15 | s, packed[g + 4] >> 4 | t)
        };
        *step = Step { scale: d * f32::from(s), offset: -(m * f32::from(t)) };
    }
}

/// Q6_K: s is a signed byte; d at the end.
pub(super) fn q6_k(block: &[u8], steps: &mut [Step]) {
    let (d, packed) = (half(block, 208), &block[192..208]);
    for (step, &s) in steps.iter_mut().zip(packed) {
        *step = Step { scale: d * f32::from(s as i8), offset: NONE };
    }
}
